"""Dispatches each record to the pipeline of its model, and knows what their entities' windows and incidents need."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import structlog
from structlog.contextvars import bind_contextvars

from worker.alignment import Aligner, Flush, Silence
from worker.blocks import RecordBlock, TopicSet
from worker.decoding.sensor_reader import translator_of
from worker.decoding.sparkplug.births import Birth, Births
from worker.detection import Incident, Incidents
from worker.kafka import OutsideFault
from worker.observability.metrics import Metrics
from worker.observability.tracing import Traces
from worker.publishing.encoder import EventEncoder
from worker.rollout import Trials
from worker.runtime.partition_state import PartitionState
from worker.runtime.pipeline import Pipeline, ScoredBatch
from worker.serving.model_swap import ResidentModels
from worker.serving.router import Router
from worker.settings import Settings
from worker.windows import Windows

log = structlog.get_logger()

REPLAY_FROM_EVERY: Final = 1.0  # seconds between two searches for the offset from which windows would be filled again
SWEEP_EVERY: Final = 10.0  # seconds between two looks for entities that have been silent for long


class Dispatcher:
    """The pipelines of all models that a worker serves. Used by the loop's thread alone."""

    def __init__(
        self, settings: Settings, models: ResidentModels, encoder: EventEncoder, metrics: Metrics, trials: Trials
    ):
        self._settings, self._models, self._metrics = settings, models, metrics
        self._traces = Traces(settings)
        self._router = Router(settings.model.routes, settings.model.name)
        self.incidents = Incidents(settings.incidents, TopicSet.of(settings.topics.sensors))
        self.pipelines = {
            model: Pipeline(settings, self.incidents, encoder, metrics, trials) for model in settings.model.names
        }
        self.births = Births()
        self._translator = translator_of(settings.input, self.births)
        self._silence = Silence(settings.input.silence) if settings.input.align else None
        self._replay_from: dict[int, int | None] = {}  # partition -> offset that fills its windows again
        self._replay_from_at = 0.0
        self._swept_at = 0.0

    def serve_resident_models(self) -> None:
        """Let each pipeline serve its resident model. Raises Rewind where windows have to be filled first."""
        for model, pipeline in self.pipelines.items():
            resident = self._models.serving(model)
            if resident is None:  # its records, if any come, wait for a champion
                continue
            started = time.perf_counter()
            if pipeline.serve(resident):
                pause = round(time.perf_counter() - started, 6)
                if len(self.pipelines) == 1:
                    bind_contextvars(model_version=resident.scored_by)
                log.info(
                    "pipeline_model_changed",
                    model=resident.name,
                    model_version=resident.scored_by,
                    loop_paused_seconds=pause,
                )

    def warm_up(self) -> None:
        """Warm each pipeline up."""
        for pipeline in self.pipelines.values():
            if pipeline.serves:
                pipeline.warm_up()

    def score(self, records: RecordBlock) -> Iterator[ScoredBatch]:
        """Score the records, those of each model as a batch. Raises OutsideFault where a model has no champion."""
        records = self._translated(records)
        for model, part in self._router.split(records):
            if not self.pipelines[model].serves:
                raise OutsideFault(
                    f"no route has the key {_shown(part.keys[0])}, and there is no champion of {model} for it:"
                    " `python -m training` makes one; or route the key (OFFNORMAL_MODEL__ROUTES)"
                )
            with self._traces.batch(part, model) as span:
                batch = self.pipelines[model].score(part, span)
            yield batch
        if self._silence is not None:
            self._silence.passed(records.ends())

    def score_silent(self, positions: Mapping[int, int]) -> Iterator[ScoredBatch]:
        """Score the last readings of entities that have been silent for long.

        Only in partitions of which all records before the position (partition -> offset) have been scored.
        """
        if self._silence is None:
            return
        for partition, flush in self._silence.due(positions):
            batches = [pipeline.score_silent(partition, flush) for pipeline in self.pipelines.values()]
            if any(batch is not None for batch in batches):
                self._silence.made(partition, flush)
            yield from (batch for batch in batches if batch is not None)

    def refill(self, records: RecordBlock) -> None:
        """Take records that were scored long ago into the windows, and into what is to be aligned."""
        for model, part in self._router.split(self._translated(records)):
            if self.pipelines[model].serves:
                self.pipelines[model].refill(part)
        self._metrics.replayed.inc(len(records))

    def new_births(self) -> Sequence[Birth]:
        """Return the birth certificates among the records that were scored last, to be committed with them."""
        return () if self._translator is None else self._translator.new_births

    def _translated(self, records: RecordBlock) -> RecordBlock:
        return records if self._translator is None else self._translator.translate(records)

    def restore(
        self, partition: int, offset: int | None, state: PartitionState, incidents: Mapping[int, Incident]
    ) -> None:
        """Go on with the incidents of a partition where its former owner has stopped, at the committed `offset`."""
        self.forget(partition)
        if self._silence is not None and offset is not None:
            # Without a state, what lies before the first record to score is not to be scored: it is closed there.
            stored = state.flushes if state.replay is not None else [Flush(offset, offset)]
            flushes = [flush for flush in stored if flush.at <= offset]  # others are of a log that lost its end
            self._silence.restore(partition, offset, flushes)
            for pipeline in self.pipelines.values():
                pipeline.repeat(partition, flushes)
        self.incidents.restore(partition, state.suspects, incidents)

    def forget(self, partition: int) -> None:
        """Forget windows and incidents of a partition."""
        self._replay_from.pop(partition, None)
        if self._silence is not None:
            self._silence.forget(partition)
        self.incidents.forget(partition)
        self.births.restore(partition, ())
        for pipeline in self.pipelines.values():
            pipeline.forget(partition)

    def state(self, partition: int, end: int) -> PartitionState:
        """Return the state for the next owner of the partition, who would continue at the offset `end`.

        The offset to read back to is updated only now and then: an earlier one is as good, and only takes a little
        longer.
        """
        now = time.monotonic()
        if now >= self._replay_from_at + REPLAY_FROM_EVERY:
            self._replay_from_at, self._replay_from = now, {}
        if partition not in self._replay_from:
            depth = self._settings.entities.replay
            offsets = [memory.replay_from(partition, end, depth) for memory in self._memories()]
            self._replay_from[partition] = min(offsets, default=None)
        flushes = () if self._silence is None else self._silence.flushes(partition)
        return PartitionState(self._replay_from[partition], self.incidents.suspects(partition), flushes)

    def sweep(self) -> None:
        """Forget entities that have been silent for long; set the gauges of entities, incidents and memory."""
        now = time.monotonic()
        if now >= self._swept_at + SWEEP_EVERY:
            self.incidents.sweep(self._settings.entities.idle)
            self._swept_at = now
        memories = self._memories()
        for memory in memories:
            memory.sweep()
        self._metrics.device_memory.set(self._models.memory())
        self._metrics.open_incidents.set(self.incidents.open)
        self._metrics.entities.set(sum(max(map(len, p.memories), default=0) for p in self.pipelines.values()))
        self._metrics.evicted.set(sum(memory.evicted for memory in memories))

    def close(self) -> None:
        """Send the spans that are left."""
        self._traces.close()

    def _memories(self) -> list[Aligner | Windows]:
        return [memory for pipeline in self.pipelines.values() for memory in pipeline.memories]


def _shown(key: bytes | None) -> str:
    return "(none)" if key is None else repr(key[:80].decode("utf-8", "replace"))
