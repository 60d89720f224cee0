"""The registry: model versions, aliases and history, in the compacted `models` topic.

    artefact/<name>/<version>              the artefact, or, for one in parts, a manifest (content-type manifest+json)
    artefact/<name>/<version>/part/<i>     a part of it
    alias/<name>/<champion|challenger>     {"version", "who", "when", "why"}
    audit/<name>/<sequence>                each change of an alias, kept for ever

Compaction keeps the last record of each key. A tombstone removes an artefact. An artefact in parts counts only when
its manifest and all of its parts are there; the manifest is written last.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from kafka import errors
from pydantic import SecretStr

from worker.errors import NoModelError, OffnormalError
from worker.kafka import connection
from worker.kafka.faults import readable_errors
from worker.kafka.reader import Reader
from worker.models import Artefact, ModelCard
from worker.models.artefact import check_signature, read_card
from worker.settings import Settings
from worker.vectors import RecordBlock

Alias = Literal["champion", "challenger"]

# A broker takes records of 1 MiB unless told otherwise; a part leaves room for its key and headers.
PART_BYTES: Final = 900_000
_HALF_FOR: Final = 3600.0  # seconds for which somebody may still be writing the other parts
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
            raise NoModelError(f"no artefact {self.name}/{version} in the registry, or not all of its parts")
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
        """Each change of an alias, oldest first."""
        return [self.audit[i] for i in sorted(self.audit)]


class Registry:
    """Reads and writes the models topic for one model."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._topic = settings.topics.models
        self._name = settings.model.name

    def view(self) -> RegistryView:
        """The registry as it stands now. Raises KafkaError."""
        view = RegistryView(self._name, self._settings.model.signing_key)
        with Reader(self._settings.kafka, self._topic) as reader:
            for block in reader.to_end():
                view.apply(block)
        return view

    def publish(self, artefact: Artefact, who: str, why: str) -> RegistryView:
        """Writes the artefact, makes it champion, prunes old ones. Raises KafkaError."""
        self._write(
            _records(artefact.card.name, artefact.card.version, artefact.dump(self._settings.model.signing_key))
        )
        view = self.promote(artefact.card.version, who, why)
        self._prune(view)
        return view

    def promote(self, version: str, who: str, why: str, alias: Alias = "champion") -> RegistryView:
        """Points the alias at a version. Raises NoModelError if it is not there, or not whole."""
        view = self.view()
        view.artefact(version)
        before = view.aliases.get(alias)
        record = {"version": version, "who": who, "when": now(), "why": why}
        audit = record | {"alias": alias, "from": before.version if before else None}
        sequence = max(view.audit, default=0) + 1
        self._write(
            [
                (f"audit/{self._name}/{sequence}", json.dumps(audit).encode(), []),
                (f"alias/{self._name}/{alias}", json.dumps(record).encode(), []),
            ]
        )
        view.audit[sequence] = audit
        view.aliases[alias] = AliasRecord(version, who, record["when"], why)
        return view

    def rollback(self, who: str, why: str) -> RegistryView:
        """Makes the champion's predecessor champion again. Raises NoModelError if there is none."""
        view = self.view()
        current = view.champion()
        changes = [entry for entry in view.history() if entry.get("alias") == "champion"]
        undone: str | None = None
        for entry in reversed(changes):  # the last change that led to the current champion names its predecessor
            if entry.get("version") == current:
                undone = entry.get("from")
                break
        if current is None or undone is None:
            raise NoModelError(f"the champion of {self._name} has no predecessor to roll back to")
        return self.promote(undone, who, why)

    def _prune(self, view: RegistryView) -> None:
        named = {record.version for record in view.aliases.values()}
        spare = [version for version in view.versions() if version not in named]
        room = max(self._settings.model.keep - len(named), 0)
        for version in [*spare[: len(spare) - room], *view.halves(time.time() - _HALF_FOR)]:
            keys = [f"artefact/{self._name}/{version}"]
            keys += [f"artefact/{self._name}/{version}/part/{i}" for i in view.parts.get(version, {})]
            self._write([(key, None, []) for key in keys])

    def _write(self, records: Iterable[tuple[str, bytes | None, list[tuple[str, bytes]]]]) -> None:
        """In order, all acknowledged, or KafkaError."""
        with readable_errors(f"writing {self._topic}", self._settings.kafka.bootstrap):
            client = connection.producer(self._settings.kafka)
            try:
                for key, value, headers in records:
                    client.send(self._topic, value, key.encode(), headers, partition=0).get(30)
            except errors.KafkaTimeoutError as error:
                raise OffnormalError(f"{self._topic} cannot be written: {error}") from error
            finally:
                client.close(timeout=5)


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
