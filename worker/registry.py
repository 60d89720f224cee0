"""The registry: model versions, aliases and history, in the compacted `models` topic.

    artefact/<name>/<version>              the artefact, or, for one in parts, a manifest (content-type manifest+json)
    artefact/<name>/<version>/part/<i>     a part of it
    alias/<name>/<champion|challenger|pin> {"version", "who", "when", "why"}
    audit/<name>/<sequence>                {"what", "version", "from", "who", "when", "why", ...}: whatever was decided,
                                           kept for ever

A decision is one Kafka transaction, by a transactional id that is the model's: whoever decides fences everybody else
who is about to, and looks again at what has been decided before. Compaction keeps the last record of each key. A
tombstone removes an artefact. An artefact in parts counts only when its manifest and all of its parts are there; the
manifest is written last.
"""

import contextlib
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from kafka import KafkaProducer, errors
from pydantic import SecretStr

from worker.errors import NoModelError, OffnormalError
from worker.kafka import connection
from worker.kafka.faults import readable_errors
from worker.kafka.reader import Reader
from worker.models import Artefact, ModelCard
from worker.models.artefact import check_signature, read_card
from worker.settings import Settings
from worker.vectors import RecordBlock

# `pin`: while it names the champion, trainings and the worker leave that be.
Alias = Literal["champion", "challenger", "pin"]
# `taken back` is a rollback by a worker, in probation.
What = Literal[
    "promoted", "rolled back", "taken back", "refused", "challenger", "challenger dropped", "pinned", "unpinned"
]

# A broker takes records of 1 MiB unless told otherwise; a part leaves room for its key and headers.
PART_BYTES: Final = 900_000
_HALF_FOR: Final = 3600.0  # seconds for which somebody may still be writing the other parts
_TRIES: Final = 5  # to decide, against others who do at the same time
_MANIFEST: Final = b"application/vnd.offnormal.manifest+json"


@dataclass(frozen=True)
class AliasRecord:
    version: str
    who: str
    when: str
    why: str

    @classmethod
    def parse(cls, value: bytes) -> "AliasRecord | None":
        try:
            doc = json.loads(value)
            return cls(*(str(doc[name]) for name in ("version", "who", "when", "why")))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None


@dataclass
class RegistryView:
    """The registry as of some record: fold records in with `apply`. Holds one model's artefacts as bytes. With a key,
    those that are not signed by it are not handed out.
    """

    name: str
    key: SecretStr | None = None
    artefacts: dict[str, bytes] = field(default_factory=dict)  # as written under the version's key
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    aliases: dict[str, AliasRecord] = field(default_factory=dict)
    audit: dict[int, dict[str, Any]] = field(default_factory=dict)

    def apply(self, block: RecordBlock) -> None:
        """Records of other models, and whatever makes no sense, change nothing."""
        for i in range(len(block)):
            key = (block.keys[i] or b"").decode("utf-8", "replace").split("/")
            if len(key) >= 3 and key[1] == self.name:
                self._apply(key, block.values[i], {name: value or b"" for name, value in block.headers.get(i, ())})

    def _apply(self, key: Sequence[str], value: bytes | None, headers: dict[str, bytes]) -> None:
        kind, _, what, *rest = key
        if kind == "artefact" and not rest:
            self.artefacts.pop(what, None)
            self.manifests.pop(what, None)
            if value is not None and headers.get("content-type") == _MANIFEST:
                self._apply_manifest(what, value)
            elif value:
                self.artefacts[what] = value
        elif kind == "artefact" and len(rest) == 2 and rest[0] == "part" and _is_number(rest[1]):
            parts = self.parts.setdefault(what, {})
            parts.pop(int(rest[1]), None)
            if value is not None:
                parts[int(rest[1])] = value
        elif kind == "alias" and not rest:
            record = AliasRecord.parse(value or b"")
            if value is None:
                self.aliases.pop(what, None)
            elif record is not None:
                self.aliases[what] = record
        elif kind == "audit" and _is_number(what) and value is not None:
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                entry = json.loads(value)
                if isinstance(entry, dict) and "version" in entry:
                    self.audit[int(what)] = entry

    def _apply_manifest(self, version: str, value: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            manifest = json.loads(value)
            if type(manifest["parts"]) is int and manifest["parts"] > 0 and type(manifest["sha256"]) is str:
                self.manifests[version] = manifest

    def versions(self) -> list[str]:
        """Whole artefacts, oldest first: a version begins with its time."""
        return sorted([*self.artefacts, *(v for v in self.manifests if self._joined(v) is not None)])

    def halves(self, before: float) -> list[str]:
        """Versions made before this time (s) of which there are parts, and no manifest: a training was killed."""
        then = f"{datetime.fromtimestamp(before, UTC):%Y%m%dT%H%M%S}"
        return [v for v, parts in self.parts.items() if parts and v not in self.manifests and v < then]

    def artefact(self, version: str) -> bytes:
        """Raises NoModelError where it is not there, or not whole; ArtefactError where it is not signed."""
        data = self.artefacts.get(version) or self._joined(version)
        if data is None:
            raise NoModelError(
                f"no artefact {self.name}/{version} in the registry, or not all of its parts;"
                " `python -m training models list` shows those that there are"
            )
        if self.key is not None:
            check_signature(data, self.key)
        return data

    def _joined(self, version: str) -> bytes | None:
        manifest, parts = self.manifests.get(version), self.parts.get(version, {})
        if manifest is None or any(i not in parts for i in range(manifest["parts"])):
            return None
        data = b"".join(parts[i] for i in range(manifest["parts"]))
        return data if hashlib.sha256(data).hexdigest() == manifest["sha256"] else None

    def champion(self) -> str | None:
        record = self.aliases.get("champion")
        return record.version if record else None

    def card(self, version: str) -> ModelCard:
        """Raises NoModelError, ArtefactError."""
        return read_card(self.artefact(version))

    def history(self) -> list[dict[str, Any]]:
        """All that was decided, oldest first."""
        return [self.audit[i] for i in sorted(self.audit)]

    def pinned(self) -> bool:
        pin = self.aliases.get("pin")
        return pin is not None and pin.version == self.champion()

    def last_change(self) -> dict[str, Any] | None:
        """The last one that led to the champion."""
        current = self.champion()
        changes = (entry for entry in reversed(self.history()) if entry.get("alias") == "champion")
        return next((entry for entry in changes if entry.get("version") == current), None)

    def predecessor(self) -> str | None:
        """Of the champion."""
        before = (self.last_change() or {}).get("from")
        return None if before is None else str(before)

    def challenger(self) -> str | None:
        record = self.aliases.get("challenger")
        return record.version if record else None


@dataclass(frozen=True)
class Decision:
    """What is to be written: aliases to point at versions, or to remove; and the audit record."""

    what: What
    version: str | None
    alias: Alias | None  # whose former version the audit record names
    changes: Mapping[Alias, str | None]
    more: Mapping[str, Any]


_OVERTAKEN: Final = (
    errors.ProducerFencedError,
    errors.InvalidProducerEpochError,
    errors.ConcurrentTransactionsError,
    errors.InvalidTxnStateError,
)


def _named(view: RegistryView, alias: Alias) -> str | None:
    record = view.aliases.get(alias)
    return record.version if record else None


class Registry:
    """Reads and writes the models topic for one model."""

    def __init__(self, settings: Settings, name: str | None = None):
        """Of OFFNORMAL_MODEL__NAME, unless another is named."""
        self._settings = settings
        self._topic = settings.topics.models
        self._name = name or settings.model.name

    def view(self) -> RegistryView:
        """The registry as it stands now. Raises KafkaError."""
        view = RegistryView(self._name, self._settings.model.signing_key)
        with Reader(self._settings.kafka, self._topic) as reader:
            for block in reader.to_end():
                view.apply(block)
        return view

    def add(self, artefact: Artefact) -> None:
        """Writes the artefact; nobody serves it yet. Raises KafkaError."""
        card = artefact.card
        self._write(_records(card.name, card.version, artefact.dump(self._settings.model.signing_key)))

    def publish(self, artefact: Artefact, who: str, why: str) -> RegistryView:
        """Adds it and makes it champion."""
        self.add(artefact)
        return self.promote(artefact.card.version, who, why)

    def promote(
        self, version: str, who: str, why: str, alias: Literal["champion", "challenger"] = "champion", **more: Any
    ) -> RegistryView:
        """Points the alias at a version, whatever is pinned; `more` goes into the audit record. Raises NoModelError if
        it is not there, or not whole.
        """

        def decide(view: RegistryView) -> Decision:
            view.artefact(version)
            what: What = "promoted" if alias == "champion" else "challenger"
            changes: dict[Alias, str | None] = {alias: version}
            if alias == "champion" and view.challenger() == version:
                changes["challenger"] = None
            return Decision(what, version, alias, changes, more)

        return self._decide(decide, who, why)

    def rollback(self, who: str, why: str) -> RegistryView:
        """Makes the champion's predecessor champion again. Raises NoModelError if there is none."""
        return self._decide(lambda view: self._undo(view, "rolled back", {}), who, why)

    def take_back(self, version: str, who: str, why: str, **more: Any) -> RegistryView | None:
        """A rollback of this version by a worker, unless it is no longer in probation: None."""

        def decide(view: RegistryView) -> Decision | None:
            change = view.last_change()
            if change is None or change.get("what") != "promoted" or view.champion() != version or view.pinned():
                return None
            return self._undo(view, "taken back", more)

        return self._decide_if(decide, who, why)

    def _undo(self, view: RegistryView, what: What, more: Mapping[str, Any]) -> "Decision":
        undone = view.predecessor()
        if undone is None:
            raise NoModelError(
                f"the champion of {self._name} has no predecessor to roll back to; `python -m training models list`"
                " shows what there is to promote"
            )
        view.artefact(undone)
        return Decision(what, undone, "champion", {"champion": undone}, more)

    def promote_challenger(self, version: str, over: str, who: str, why: str, **more: Any) -> RegistryView | None:
        """In place of the champion `over`; None where it is no longer a challenger, or that no longer champion."""

        def decide(view: RegistryView) -> Decision | None:
            if view.challenger() != version or view.champion() != over or view.pinned():
                return None
            view.artefact(version)
            return Decision("promoted", version, "champion", {"champion": version, "challenger": None}, more)

        return self._decide_if(decide, who, why)

    def refused(self, version: str, who: str, why: str, **more: Any) -> RegistryView:
        """Keeps in the history that the gate refused a version."""
        return self._decide(lambda _: Decision("refused", version, None, {}, more), who, why)

    def drop_challenger(self, version: str, who: str, why: str, **more: Any) -> RegistryView | None:
        """No longer a challenger; None if it is none already."""

        def decide(view: RegistryView) -> Decision | None:
            if view.challenger() != version:
                return None
            return Decision("challenger dropped", version, "challenger", {"challenger": None}, more)

        return self._decide_if(decide, who, why)

    def pin(self, version: str | None, who: str, why: str) -> RegistryView:
        """Makes a version champion, to stay; None ends that."""

        def decide(view: RegistryView) -> Decision:
            if version is None:
                return Decision("unpinned", view.champion(), "pin", {"pin": None}, {})
            view.artefact(version)
            return Decision("pinned", version, "champion", {"champion": version, "pin": version}, {})

        return self._decide(decide, who, why)

    def _decide(self, decide: "Callable[[RegistryView], Decision]", who: str, why: str) -> RegistryView:
        view = self._decide_if(decide, who, why)
        assert view is not None
        return view

    def _decide_if(
        self, decide: "Callable[[RegistryView], Decision | None]", who: str, why: str
    ) -> RegistryView | None:
        """In one transaction, by somebody whom nobody has overtaken; None where it was decided to change nothing.
        Prunes old artefacts.
        """
        for tried in range(1, _TRIES + 1):
            with readable_errors(f"writing {self._topic}", self._settings.kafka.bootstrap):
                client = self._fencing()
                try:
                    client.init_transactions()  # from here on whoever began before can no longer decide
                    view = self.view()
                    decision = decide(view)
                    if decision is None:
                        return None
                    client.begin_transaction()
                    for key, value in self._told(decision, view, who, why):
                        client.send(self._topic, value, key.encode(), partition=0)
                    client.commit_transaction()
                    self._prune(view)
                    return view
                except _OVERTAKEN as error:
                    if tried == _TRIES:
                        raise OffnormalError(
                            f"{self._topic}: others keep deciding about {self._name}; try again"
                        ) from error
                    time.sleep(random.uniform(0, 0.2 * tried))
                except errors.UnsupportedVersionError as error:
                    raise OffnormalError(
                        f"{self._topic}: the broker has no transactions ({error}); decisions about models need them:"
                        " Kafka 2.5 or later"
                    ) from error
                finally:
                    client.close(timeout=5)
        raise AssertionError

    def _fencing(self) -> KafkaProducer:
        kafka = self._settings.kafka
        return connection.producer(
            kafka,
            transactional_id=f"{self._topic}-{self._name}",
            transaction_timeout_ms=10_000,
            delivery_timeout_ms=10_000,
            request_timeout_ms=5_000,
            max_block_ms=10_000,
            retry_backoff_ms=2,
        )

    def _told(self, decision: "Decision", view: RegistryView, who: str, why: str) -> list[tuple[str, bytes | None]]:
        """The records of a decision, which the view is told as well."""
        when = now()
        before = _named(view, decision.alias) if decision.alias else None
        audit = {"what": decision.what, "version": decision.version, "alias": decision.alias, "from": before}
        audit |= {"who": who, "when": when, "why": why, **decision.more}
        sequence = max(view.audit, default=0) + 1
        view.audit[sequence] = audit
        records: list[tuple[str, bytes | None]] = [(f"audit/{self._name}/{sequence}", json.dumps(audit).encode())]
        for alias, version in decision.changes.items():
            key = f"alias/{self._name}/{alias}"
            if version is None:
                view.aliases.pop(alias, None)
                records.append((key, None))
            else:
                view.aliases[alias] = AliasRecord(version, who, when, why)
                records.append((key, json.dumps(asdict(view.aliases[alias])).encode()))
        return records

    def _prune(self, view: RegistryView) -> None:
        # The predecessor stays as well: what the champion would be taken back to.
        named = {record.version for record in view.aliases.values()} | {view.predecessor()} - {None}
        spare = [version for version in view.versions() if version not in named]
        room = max(self._settings.model.keep - len(named), 0)
        for version in [*spare[: len(spare) - room], *view.halves(time.time() - _HALF_FOR)]:
            keys = [f"artefact/{self._name}/{version}"]
            keys += [f"artefact/{self._name}/{version}/part/{i}" for i in view.parts.get(version, {})]
            self._write([(key, None, []) for key in keys])

    def _write(self, records: Iterable[tuple[str, bytes | None, list[tuple[str, bytes]]]]) -> None:
        connection.write(self._settings.kafka, self._topic, records, partition=0)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")


def new_version(made: datetime, content: bytes) -> str:
    """Sorts by time; the end tells two trainings of one second apart."""
    return f"{made:%Y%m%dT%H%M%S}-{hashlib.sha256(content).hexdigest()[:6]}"


def _records(name: str, version: str, data: bytes) -> list[tuple[str, bytes | None, list[tuple[str, bytes]]]]:
    key = f"artefact/{name}/{version}"
    if len(data) <= PART_BYTES:
        return [(key, data, [("content-type", b"application/vnd.offnormal.safetensors")])]
    parts = [data[i : i + PART_BYTES] for i in range(0, len(data), PART_BYTES)]
    manifest = {"parts": len(parts), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return [
        *((f"{key}/part/{i}", part, []) for i, part in enumerate(parts)),
        (key, json.dumps(manifest).encode(), [("content-type", _MANIFEST)]),
    ]


class RegistryFollower:
    """Follows the models topic: all models that a worker serves. Used by one thread."""

    def __init__(self, settings: Settings):
        self.views = {name: RegistryView(name, settings.model.signing_key) for name in settings.model.names}
        self._reader = Reader(settings.kafka, settings.topics.models, patience=0.5)  # for ever: it is idle mostly

    def poll(self, timeout: float) -> bool:
        """Folds in what is new; True if anything was and the registry is not still being read for the first time.

        Raises KafkaError.
        """
        block = self._reader.poll(timeout)
        if block is not None:
            for view in self.views.values():
                view.apply(block)
        return block is not None and self._reader.caught_up()

    def close(self) -> None:
        self._reader.close()
