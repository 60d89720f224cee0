"""The topics: which there are, with which settings they are made, and whether they are there."""

import math
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog
from kafka import KafkaAdminClient, errors
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic

from worker.blocks import TopicSet
from worker.errors import KafkaUnavailable
from worker.kafka.connection import admin
from worker.kafka.errors import readable_errors
from worker.kafka.waits import ASK
from worker.settings import KafkaSettings, Settings

log = structlog.get_logger()

_DAY = 86_400_000
# A dead letter is its record and some headers: it should fit where the record did.
_LARGE = 8 * 1024 * 1024
_KAFKAS_LIMIT = 1_048_588


@dataclass(frozen=True)
class TopicSpec:
    """A topic as it should be. `partitions` None leaves the choice to the caller of `create`."""

    name: str
    partitions: int | None
    config: dict[str, str] = field(default_factory=dict)


def specs(settings: Settings) -> list[TopicSpec]:
    """Return the topics that these settings need, but for sensor topics that a pattern matches."""
    topics = settings.topics
    always = [
        *(TopicSpec(name, None, {"retention.ms": str(7 * _DAY)}) for name in TopicSet.of(topics.sensors).names),
        TopicSpec(topics.anomalies, None, {"retention.ms": str(30 * _DAY)}),
        TopicSpec(topics.dead_letters, None, {"retention.ms": str(30 * _DAY), "max.message.bytes": str(_LARGE)}),
        # Keyed by entity: compaction keeps the last incident of each, which a worker that takes over reads.
        TopicSpec(topics.incidents, None, {"cleanup.policy": "compact"}),
        # One partition: the order of its records is the registry's history.
        TopicSpec(topics.models, 1, {"cleanup.policy": "compact"}),
        TopicSpec(topics.drift, None, {"retention.ms": str(30 * _DAY)}),
        TopicSpec(topics.training_requests, 1, {"retention.ms": str(7 * _DAY)}),
        # Keyed by event or incident: compaction keeps the latest label of each.
        TopicSpec(topics.labels, 1, {"cleanup.policy": "compact"}),
    ]
    if settings.input.is_sparkplug:
        # Keyed by machine: compaction keeps the last birth certificate of each. It may name thousands of metrics.
        births = {"cleanup.policy": "compact", "max.message.bytes": str(_LARGE)}
        always.append(TopicSpec(topics.births, None, births))
    if settings.model.shadow_share:
        always.append(TopicSpec(topics.shadow, None, {"retention.ms": str(7 * _DAY)}))
    # A score in JSON may take more bytes than its vector.
    often = {"retention.ms": str(7 * _DAY), "max.message.bytes": str(_LARGE)}
    return [*always, *(TopicSpec(getattr(topics, output), None, often) for output in settings.outputs)]


@dataclass(frozen=True)
class TopicState:
    """A topic as it is, beside what it should be."""

    spec: TopicSpec
    partitions: int  # 0 where the topic is not there
    created: bool
    differs: dict[str, str]  # settings that matter and are not as they should be: name -> what is there
    retention: float  # seconds that it keeps records, by their own time; infinite without a limit, or if unknown


def create(settings: Settings, partitions: int, replication: int, verify_only: bool = False) -> list[TopicState]:
    """Make missing topics and verify the others; change nothing that exists. Raises worker.errors.KafkaError."""
    client = admin(settings.kafka)
    with readable_errors("topics", settings.kafka.bootstrap):
        try:
            sensors = TopicSet.of(settings.topics.sensors)
            matched = sensors.among(client.list_topics()) if sensors.pattern is not None else []
            needed = [*(TopicSpec(name, None) for name in matched), *specs(settings)]
            before = partition_counts(client, [spec.name for spec in needed])
            missing = [spec for spec in needed if not before[spec.name]]
            if missing and not verify_only:
                new = [
                    NewTopic(s.name, s.partitions or partitions, replication, topic_configs=s.config) for s in missing
                ]
                _create(client, new)
            after = partition_counts(client, list(before))
            states = []
            for spec in needed:
                is_new = not before[spec.name] and after[spec.name] > 0
                there = _configuration(client, spec.name)
                states.append(TopicState(spec, after[spec.name], is_new, _differs(spec, there), _retention(there)))
            return states
        finally:
            client.close()


def _create(client: KafkaAdminClient, topics: list[NewTopic]) -> None:
    """Create the topics, and wait until all are there. One that another process creates meanwhile is no error."""
    try:
        client.create_topics(topics, wait_for_metadata=True)
    except errors.TopicAlreadyExistsError:  # or this client has, by a request whose answer it did not wait for
        deadline = time.monotonic() + ASK
        while not all(partition_counts(client, [topic.name for topic in topics]).values()):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def partition_counts(client: KafkaAdminClient, names: Iterable[str]) -> dict[str, int]:
    """Return the number of partitions by topic, 0 where there is none. Raises TopicAuthorizationFailedError."""
    return {name: topic.partitions for name, topic in _described(client, names).items()}


def require(settings: Settings, reads: Iterable[str] = (), writes: Iterable[str] = ()) -> None:
    """Raise KafkaUnavailable if topics are missing, or may not be read or written.

    Each of `reads` may name several topics, or be a pattern. The error names the topics, and the command that makes
    them.
    """
    client = admin(settings.kafka)
    with readable_errors("looking for topics", settings.kafka.bootstrap):
        try:
            needs = [(name, "READ") for text in reads for name in _names(client, text)]
            needs += [(name, "WRITE") for name in writes]
            described = _described(client, {name for name, _ in needs})
        finally:
            client.close()
        denied = [f"{operation} {name}" for name, operation in needs if operation not in described[name].may]
        missing = list(dict.fromkeys(name for name, _ in needs if not described[name].partitions))
        if denied and not missing:
            raise errors.TopicAuthorizationFailedError(f"no right to {', '.join(denied)}")
    if missing:
        raise KafkaUnavailable(f"no such topic: {', '.join(missing)}; `python -m worker topics` makes them")


def _names(client: KafkaAdminClient, text: str) -> Sequence[str]:
    """Return the topics that `text` names, or those that it matches. Raises KafkaUnavailable where there are none."""
    topics = TopicSet.of(text)
    if topics.pattern is None:
        return topics.names
    if not (matched := topics.among(client.list_topics())):
        raise KafkaUnavailable(f"no topic matches {text} (OFFNORMAL_TOPICS__SENSORS)")
    return matched


class _Described(NamedTuple):
    partitions: int  # 0 where the topic is not there
    may: Container[str]  # READ, WRITE, ... where the broker tells


class _Anything(Container[str]):
    def __contains__(self, _: object) -> bool:
        return True


def _described(client: KafkaAdminClient, names: Iterable[str]) -> dict[str, _Described]:
    """Return what the broker says of these topics.

    Raises TopicAuthorizationFailedError where a topic may not even be looked at.
    """
    descriptions = {name: _Described(0, _Anything()) for name in names}
    hidden = []
    for topic in client.describe_topics(list(descriptions)):
        if topic["error_code"] == errors.TopicAuthorizationFailedError.errno:
            hidden.append(topic["name"])
        elif not topic["error_code"]:
            operations = topic.get("authorized_operations")  # nothing from a broker that does not know of ACLs
            descriptions[topic["name"]] = _Described(len(topic["partitions"]), operations or _Anything())
    if hidden:
        raise errors.TopicAuthorizationFailedError(f"no right to DESCRIBE {', '.join(sorted(hidden))}")
    return descriptions


def record_limits(settings: KafkaSettings, names: Iterable[str]) -> dict[str, int]:
    """Return the maximum bytes of a batch by topic; Kafka's default if that may not be asked."""
    limits = dict.fromkeys(names, _KAFKAS_LIMIT)
    unknown = []
    client = admin(settings)
    try:
        for name in limits:  # one by one: the right to ask may be there for some
            try:
                config = client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)], config_filter="all")
                limits[name] = int(config["topic"][name]["max.message.bytes"]["value"])
            except (errors.KafkaError, LookupError, TypeError, ValueError) as error:
                unknown.append(f"{name}: {error}")
    finally:
        client.close()
    if unknown:
        log.info("topic_limits_assumed", errors=unknown, taken_for=_KAFKAS_LIMIT)
    return limits


def _configuration(client: KafkaAdminClient, name: str) -> dict[str, str]:
    """Return a topic's configuration, the broker's defaults included; nothing of a topic that is not there."""
    resource = ConfigResource(ConfigResourceType.TOPIC, name)
    found = client.describe_configs([resource], config_filter="all")["topic"].get(name, {})
    return {key: str(each["value"]) for key, each in found.items()}


def _retention(configuration: Mapping[str, str]) -> float:
    kept = configuration.get("retention.ms", "-1")
    return (
        int(kept) / 1000 if kept.isdecimal() and "delete" in configuration.get("cleanup.policy", "delete") else math.inf
    )


def _differs(spec: TopicSpec, configured: Mapping[str, str]) -> dict[str, str]:
    wanted = {k: v for k, v in spec.config.items() if k in ("cleanup.policy", "max.message.bytes")}
    values = {name: configured[name] for name in wanted if name in configured}
    if "cleanup.policy" in wanted and "compact" in values.get("cleanup.policy", ""):
        values["cleanup.policy"] = wanted["cleanup.policy"]
    if "max.message.bytes" in values and int(values["max.message.bytes"]) > int(wanted["max.message.bytes"]):
        values["max.message.bytes"] = wanted["max.message.bytes"]
    return {name: value for name, value in values.items() if value != wanted[name]}
