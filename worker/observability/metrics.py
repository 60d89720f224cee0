"""The worker's Prometheus metrics. Names by its conventions, units in the names, no label that grows with the data.

Each count of a batch is a field of `BatchCounts`, and the metric of the same name, so a new counter takes two lines in
this file. Counts are added once their batch is committed, so that a batch that is scored again does not count twice.
"""

import collections
from dataclasses import dataclass, field, fields

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.samples import Sample

_STAGE_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_ROW_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)


def _samples(metric: Counter | Gauge | Histogram) -> list[Sample]:
    return [sample for family in metric.collect() for sample in family.samples]


def total(metric: Counter | Gauge) -> float:
    """Return the sum over all labels."""
    return sum(sample.value for sample in _samples(metric) if not sample.name.endswith("_created"))


def _by_label() -> "collections.Counter[str]":
    return field(default_factory=collections.Counter)


@dataclass
class BatchCounts:
    """What some batches did. Each field is a counter of `Metrics`; those by label count each of its values."""

    vectors: "collections.Counter[str]" = _by_label()  # by model version
    events: "collections.Counter[str]" = _by_label()  # by severity
    dead_letters: "collections.Counter[str]" = _by_label()  # by reason
    unmatched: "collections.Counter[str]" = _by_label()  # by kind: worker/runtime/field_check.py
    unscorable: int = 0
    cold: int = 0
    late: int = 0
    restarted: int = 0
    nulls: int = 0
    readings_late: int = 0
    readings_unknown: int = 0
    readings_empty: int = 0
    incidents: int = 0  # to be notified of

    def __iadd__(self, batch: "BatchCounts") -> "BatchCounts":
        for counter in fields(self):
            total, more = getattr(self, counter.name), getattr(batch, counter.name)
            if isinstance(total, collections.Counter):
                total.update(more)
            else:
                setattr(self, counter.name, total + more)
        return self


class Metrics:
    """All metrics, in a registry of their own, so that a test can run several workers in one process."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        ProcessCollector(registry=r)
        self.vectors = Counter("offnormal_vectors", "Vectors scored and committed", ["model_version"], registry=r)
        self.unmatched = Counter(
            "offnormal_records_unmatched",
            "Records without any feature, or without the field of the entity or the time",
            ["reason"],
            registry=r,
        )
        self.unscorable = Counter("offnormal_vectors_unscorable", "Vectors with too many missing readings", registry=r)
        self.cold = Counter("offnormal_vectors_cold", "Vectors not scored: their window was not full yet", registry=r)
        self.late = Counter("offnormal_vectors_late", "Vectors not scored: out of order, beyond the bound", registry=r)
        self.readings_late = Counter("offnormal_readings_late", "Readings that came after their vector", registry=r)
        self.readings_unknown = Counter(
            "offnormal_readings_unknown", "Readings of a tag that is no feature", registry=r
        )
        self.readings_empty = Counter(
            "offnormal_readings_empty", "Readings without a value, or of bad quality", registry=r
        )
        self.restarted = Counter("offnormal_windows_restarted", "Windows begun anew after a gap in time", registry=r)
        self.replayed = Counter("offnormal_records_replayed", "Records read back to fill windows", registry=r)
        self.entities = Gauge("offnormal_entities", "Entities whose windows are held", registry=r)
        self.evicted = Gauge("offnormal_entities_evicted", "Entities forgotten: idle, or too many", registry=r)
        self.incidents = Counter("offnormal_incidents_notified", "Incidents to be notified of", registry=r)
        self.open_incidents = Gauge("offnormal_incidents_open", "Open incidents", registry=r)
        self.events = Counter("offnormal_events", "Anomaly events committed", ["severity"], registry=r)
        self.dead_letters = Counter("offnormal_dead_letters", "Records that did not parse", ["reason"], registry=r)
        self.nulls = Counter("offnormal_null_records", "Records without a value, skipped", registry=r)
        self.redone = Counter("offnormal_redone", "Times that uncommitted work was repeated", registry=r)
        self.commits = Counter("offnormal_commits", "Commits", registry=r)
        self.rebalances = Gauge("offnormal_rebalances", "Assignments and revocations so far", registry=r)
        self.gone = Gauge("offnormal_records_gone", "Records that retention deleted before they were read", registry=r)
        self.truncated = Gauge("offnormal_logs_truncated", "Logs that became shorter than they were read", registry=r)
        self.rebuilt = Counter("offnormal_connections_made_anew", "Times that the watchdog reconnected", registry=r)
        self.lag = Gauge("offnormal_lag_records", "Records not yet committed", ["partition"], registry=r)
        self.batch_rows = Histogram("offnormal_batch_rows", "Rows per batch", buckets=_ROW_BUCKETS, registry=r)
        self.stage = Histogram(
            "offnormal_stage_seconds", "Time per batch and stage", ["stage"], buckets=_STAGE_BUCKETS, registry=r
        )
        self._add_models(r)

    def _add_models(self, r: CollectorRegistry) -> None:
        """Add what there is to tell of models, and of drift."""
        self.model = Info("offnormal_model", "The model in service", ["model"], registry=r)
        self.model_since = Gauge(
            "offnormal_model_since_timestamp_seconds", "When it went into service", ["model"], registry=r
        )
        self.model_made = Gauge(
            "offnormal_model_created_timestamp_seconds", "When it was trained", ["model"], registry=r
        )
        self.budget = Gauge(
            "offnormal_false_alarm_budget_ratio",
            "Share of normal vectors that may become events",
            ["model"],
            registry=r,
        )
        self.decisions = Gauge(
            "offnormal_decisions", "Decisions on a model in the registry so far", ["model", "what"], registry=r
        )
        self.swaps = Counter("offnormal_model_swaps", "Models put in service in place of another", registry=r)
        self.refused = Counter("offnormal_model_refused", "Artefacts refused", registry=r)
        self.drifts = Counter("offnormal_drifts", "Drifts noticed", ["model"], registry=r)
        self.drift_at = Gauge("offnormal_drift_timestamp_seconds", "When the last drift was", ["model"], registry=r)
        self.sensor_faults = Gauge("offnormal_sensor_faults", "Sensors at fault now", ["fault"], registry=r)
        self.trims = Counter("offnormal_trims", "Trims published", ["model"], registry=r)
        self.ignored_sensors = Gauge(
            "offnormal_ignored_sensors", "Sensors that are ignored, since they left their range for good", registry=r
        )
        self.p_value = Gauge("offnormal_p_value_mean", "Mean p-value of late; .5 as trained", ["model"], registry=r)
        self.trial_rows = Counter("offnormal_trial_rows", "Vectors scored by a second model", ["trial"], registry=r)
        self.trial_agreement = Gauge(
            "offnormal_trial_agreement_ratio",
            "Share of vectors flagged by either model that both flag",
            ["trial"],
            registry=r,
        )
        self.taken_back = Counter("offnormal_models_taken_back", "Champions taken back in probation", registry=r)
        self.device_memory = Gauge("offnormal_device_memory_bytes", "Memory taken on the device", registry=r)

    def record(self, counts: BatchCounts) -> None:
        """Count what was committed."""
        self.commits.inc()
        for counter in fields(counts):
            metric, value = getattr(self, counter.name), getattr(counts, counter.name)
            if isinstance(value, int):
                metric.inc(value)
            else:
                for label, n in value.items():
                    metric.labels(label).inc(n)

    def profile(self) -> str:
        """Return each stage's time in nanoseconds a row, as a table. It is wall time: waiting is in it."""
        rows = sum(s.value for s in _samples(self.batch_rows) if s.name.endswith("_sum"))
        spent = {s.labels["stage"]: s.value for s in _samples(self.stage) if s.name.endswith("_sum")}
        lines = [f"{rows:,.0f} rows", "stage        ns a row   seconds"]
        for stage, seconds in sorted(spent.items(), key=lambda item: -item[1]):
            lines.append(f"{stage:<12} {1e9 * seconds / max(rows, 1):8.0f} {seconds:9.3f}")
        return "\n".join(lines)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
