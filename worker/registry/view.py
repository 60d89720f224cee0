"""One model's artefacts and decisions, as the records of the models topic give them."""

import contextlib
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import structlog
from pydantic import SecretStr

from worker.blocks import RecordBlock
from worker.errors import NoModelError
from worker.models import ModelCard
from worker.models.artefact import check_signature, read_card
from worker.models.trim import PlacedTrims
from worker.models.wavelet import blocks
from worker.registry.trim_records import read_trims

log = structlog.get_logger()


@dataclass(frozen=True)
class AliasRecord:
    """What an alias names, and who has decided it, when and why."""

    version: str
    who: str
    when: str
    why: str

    @classmethod
    def parse(cls, value: bytes) -> "AliasRecord | None":
        """Return the record of these bytes; None if they are none."""
        try:
            doc = json.loads(value)
            return cls(*(str(doc[name]) for name in ("version", "who", "when", "why")))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None


def _any(_: str) -> bool:
    return True


@dataclass
class TrimsOfPlace:
    """The trim records of a version and partition: their `offsets` by number, and the value of the `last` one.

    `read` is what the last one that could be read has, and its number.
    """

    offsets: dict[int, int] = field(default_factory=dict)
    last: bytes = b""
    read: tuple[int, PlacedTrims] | None = None


@dataclass
class RegistryView:
    """One model's artefacts and decisions as of some record. Fold records in with `apply`.

    With a key, artefacts and decisions that are not signed by it do not count.
    """

    name: str
    key: SecretStr | None = None
    artefacts: dict[str, bytes] = field(default_factory=dict)  # as written under the version's key
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    written: dict[str, None] = field(default_factory=dict)  # versions, in the order in which they were written last
    parts_at: dict[str, float] = field(default_factory=dict)  # version -> when the last part came, s since the epoch
    aliases: dict[str, AliasRecord] = field(default_factory=dict)
    audit: dict[int, dict[str, Any]] = field(default_factory=dict)
    trims: dict[str, dict[str, TrimsOfPlace]] = field(default_factory=dict)  # version -> place -> records
    changes: int = 0  # records of all other kinds so far
    decided: dict[str, int] = field(default_factory=dict)  # with a key: the number of an alias's last decision
    unsigned: int = 0  # with a key: the last decision that is not signed by it, which is no more than told of

    def apply(self, block: RecordBlock) -> None:
        """Fold records in. Records of other models, and malformed ones, change nothing."""
        for i in range(len(block)):
            key = (block.keys[i] or b"").decode("utf-8", "replace").split("/")
            if len(key) >= 3 and key[1] == self.name:
                headers = {name: value or b"" for name, value in block.headers.get(i, ())}
                if key[0] == "trim":
                    self._apply_trim(key, block.values[i], headers, int(block.offset[i]))
                else:
                    self.changes += 1
                    self._apply(key, block.values[i], headers, float(block.timestamp[i]) / 1000)

    def _apply(self, key: Sequence[str], value: bytes | None, headers: dict[str, bytes], time: float) -> None:
        kind, _, name, *rest = key
        if kind == "artefact" and not rest:
            self.written.pop(name, None)
            if value is not None:
                self.written[name] = None
            self.artefacts.pop(name, None)
            self.manifests.pop(name, None)
            if value is not None and headers.get("content-type") == MANIFEST_TYPE:
                self._apply_manifest(name, value)
            elif value:
                self.artefacts[name] = value
        elif kind == "artefact" and len(rest) == 2 and rest[0] == "part" and _is_number(rest[1]):
            parts = self.parts.setdefault(name, {})
            parts.pop(int(rest[1]), None)
            if value is not None:
                parts[int(rest[1])] = value
                self.parts_at[name] = time
        elif kind == "alias" and not rest:
            if self.key is not None:
                self._apply_signed_alias(name, value, headers)
            elif value is None:
                self.aliases.pop(name, None)
            elif (record := AliasRecord.parse(value)) is not None:
                self.aliases[name] = record
        elif kind == "audit" and _is_number(name) and value is not None:
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                entry = json.loads(value)
                if isinstance(entry, dict) and "version" in entry:
                    self._apply_audit(int(name), entry, value, headers)

    def _apply_signed_alias(self, alias: str, value: bytes | None, headers: dict[str, bytes]) -> None:
        """Apply an alias. A tombstone cannot be signed; the audit record contains the removal."""
        record = AliasRecord.parse(value or b"")
        if value is None or record is None or not self._is_signed(f"alias/{self.name}/{alias}", value, headers):
            return
        sequence = json.loads(value).get("sequence")
        if type(sequence) is int:
            self._decide(sequence, {alias: record})

    def _apply_audit(self, sequence: int, entry: dict[str, Any], value: bytes, headers: dict[str, bytes]) -> None:
        if self.key is None:
            self.audit[sequence] = entry
        elif self._is_signed(f"audit/{self.name}/{sequence}", value, headers):
            self.audit[sequence] = entry
            details = [str(entry.get(name)) for name in ("who", "when", "why")]
            changes = dict(entry.get("changes") or {})
            self._decide(
                sequence,
                {alias: None if to is None else AliasRecord(str(to), *details) for alias, to in changes.items()},
            )
        elif sequence < _LAST_UNSIGNED:
            self.unsigned = max(self.unsigned, sequence)

    def _apply_trim(self, key: Sequence[str], value: bytes | None, headers: dict[str, bytes], offset: int) -> None:
        if len(key) != 7 or not key[6].isascii() or not key[6].isdecimal() or len(key[6]) > _LONGEST_NUMBER:
            return
        version, place, number = key[2], "/".join(key[3:6]), int(key[6])
        of_place = self.trims.get(version, {}).get(place, TrimsOfPlace())
        newest = max(of_place.offsets, default=0)
        if value is None:
            of_place.offsets.pop(number, None)
            if number == newest or not of_place.offsets:
                self._drop_trims(version, place)
        elif number > newest and (self.key is None or self._is_signed("/".join(key), value, headers)):
            of_place.offsets[number] = offset
            of_place.last = value
            self.trims.setdefault(version, {})[place] = of_place

    def _drop_trims(self, version: str, place: str) -> None:
        places = self.trims.get(version, {})
        places.pop(place, None)
        if not places:
            self.trims.pop(version, None)

    def last_trim(self, version: str, wanted: Callable[[str], bool] = _any) -> int:
        """Return the offset of the version's last trim of the places that are wanted; 0 where it has none."""
        places = self.trims.get(version, {}).items()
        return max((offset for place, of in places if wanted(place) for offset in of.offsets.values()), default=0)

    def placed_trims(self, card: ModelCard, wanted: Callable[[str], bool] = _any) -> dict[str, PlacedTrims]:
        """Return the trims of a version by place, each as its last record has them that can be read."""
        placed, width = {}, len(card.features) * blocks(card.window)
        for place, records in sorted(self.trims.get(card.version, {}).items()):
            if not wanted(place):
                continue
            newest = max(records.offsets)
            if records.read is None or records.read[0] != newest:
                try:
                    trims, names = read_trims(records.last, width, card.features)
                    records.read = newest, PlacedTrims(trims, (), names)
                except ValueError as error:
                    version = card.version
                    log.warning("trim_rejected", model=card.name, model_version=version, place=place, reason=str(error))
                    records.read = newest, records.read[1] if records.read else PlacedTrims({}, ())
            placed[place] = replace(records.read[1], written=tuple(sorted(records.offsets)))
        return placed

    def _is_signed(self, key: str, value: bytes, headers: dict[str, bytes]) -> bool:
        assert self.key is not None
        return hmac.compare_digest(signature_of(self.key, key, value), headers.get(SIGNATURE_HEADER, b""))

    def _decide(self, sequence: int, changes: Mapping[str, AliasRecord | None]) -> None:
        """Apply a decision, unless a later one about the alias is known."""
        for alias, record in changes.items():
            if sequence <= self.decided.get(alias, 0):
                continue
            self.decided[alias] = sequence
            if record is None:
                self.aliases.pop(alias, None)
            else:
                self.aliases[alias] = record

    def _apply_manifest(self, version: str, value: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            manifest = json.loads(value)
            if type(manifest["parts"]) is int and manifest["parts"] > 0 and type(manifest["sha256"]) is str:
                self.manifests[version] = manifest

    def versions(self) -> list[str]:
        """Return whole artefacts, in the order in which they were written: clocks of training hosts may be wrong."""
        return [v for v in self.written if v in self.artefacts or self._joined(v) is not None]

    def halves(self, before: float) -> list[str]:
        """Return versions with parts and no manifest, none written since `before` (s): their training was killed."""
        return [v for v, parts in self.parts.items() if parts and v not in self.manifests and self.parts_at[v] < before]

    def artefact(self, version: str) -> bytes:
        """Return the artefact of a version.

        Raises NoModelError if it is missing or incomplete, ArtefactError if it is not signed.
        """
        data = self.artefacts.get(version) or self._joined(version)
        if data is None:
            raise NoModelError(
                f"the registry has no complete artefact {self.name}/{version};"
                " `python -m training models list` shows the versions that it has"
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
        """Return the champion's version, if there is one."""
        record = self.aliases.get("champion")
        return record.version if record else None

    def require_champion(self) -> str:
        """Return the champion's version. Raises NoModelError where there is none."""
        champion = self.champion()
        if champion is None:
            raise self.no_champion()
        return champion

    def no_champion(self) -> NoModelError:
        """Return the error to raise where there is no champion."""
        text = f"no champion of {self.name}; `python -m training` makes and promotes one"
        if self.unsigned:
            text += (
                ". There are decisions, but they are not signed with OFFNORMAL_MODEL__SIGNING_KEY: promote a version"
                " again by `python -m training models promote`, with this key set"
            )
        return NoModelError(text)

    def card(self, version: str) -> ModelCard:
        """Return the card of a version. Raises NoModelError, ArtefactError."""
        return read_card(self.artefact(version))

    def history(self) -> list[dict[str, Any]]:
        """Return all decisions, oldest first."""
        return [self.audit[i] for i in sorted(self.audit)]

    def pinned(self) -> bool:
        """Return whether the champion is pinned."""
        pin = self.aliases.get("pin")
        return pin is not None and pin.version == self.champion()

    def last_change(self) -> dict[str, Any] | None:
        """Return the last decision that led to the champion."""
        current = self.champion()
        changes = (entry for entry in reversed(self.history()) if entry.get("alias") == "champion")
        return next((entry for entry in changes if entry.get("version") == current), None)

    def predecessor(self) -> str | None:
        """Return the champion's predecessor."""
        before = (self.last_change() or {}).get("from")
        return None if before is None else str(before)

    def challenger(self) -> str | None:
        """Return the challenger's version, if there is one."""
        record = self.aliases.get("challenger")
        return record.version if record else None


# While `pin` names the champion, trainings and workers do not replace it.
Alias = Literal["champion", "challenger", "pin"]
MANIFEST_TYPE: Final = b"application/vnd.offnormal.manifest+json"
SIGNATURE_HEADER: Final = "offnormal-signature"


# Decision numbers have at most nine digits (`_is_number`). Nobody without the key may use them up.
_LAST_UNSIGNED: Final = 10**8
_LONGEST_NUMBER: Final = 13  # digits of a trim's number, a time in ms


def signature_of(signing_key: SecretStr, key: str, value: bytes) -> bytes:
    """Return the signature of a decision's record.

    It covers the key too, which names model, and alias or number. An artefact's signature covers a digest alone, so the
    two cannot be confused.
    """
    message = b"offnormal decision\0" + key.encode("utf-8", "replace") + b"\0" + value
    return hmac.new(signing_key.get_secret_value().encode(), message, hashlib.sha256).hexdigest().encode()


def signed(signing_key: SecretStr | None, key: str, value: bytes | None) -> list[tuple[str, bytes]]:
    """Return the headers of a decision's or trim's record; a tombstone cannot be signed."""
    if signing_key is None or value is None:
        return []
    return [(SIGNATURE_HEADER, signature_of(signing_key, key, value))]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10
