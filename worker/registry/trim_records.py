"""Trims as records of the models topic. A record has the trims of all entities of a partition that have one.

    trim/<name>/<version>/<group>/<topic>/<partition>/<number>    {"version", "place", "who", "when", "entities"}

The group is the workers' consumer group: others may read other data, with other trims. The number is the time in ms at
which the record was written; one whose number is not above those before is not heeded, so that an old record cannot be
brought back. The last record holds for its partition. Records before it stay for a while, so that a score can be made
again: an event names the version, and the offset of the last trim that its scorer knew.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from worker.blocks import TopicSet
from worker.models.trim import PlacedTrims, Trim
from worker.native.arrays import Float32s
from worker.settings import Settings

_KEPT: Final = 200  # records of a partition ...
_KEPT_BYTES: Final = 10_000_000  # ... if they have no more bytes than that; older ones are removed
MOST_BYTES: Final = 900_000  # of a record; a broker takes 1 MiB unless told otherwise
_LARGEST: Final = 1e6  # of a shift, in scaled units
_LONGEST_NAME: Final = 200


def place_of(group: str, topic: str, partition: int) -> str:
    """Return how trims name a partition that a group reads."""
    return f"{group}/{topic}/{partition}"


def is_own(settings: Settings, place: str) -> bool:
    """Return whether workers with these settings score by the trims of this place."""
    group, topic, _ = place.split("/")
    return group == settings.kafka.group and topic in TopicSet.of(settings.topics.sensors)


def trim_key(name: str, version: str, place: str, number: int) -> str:
    """Return the key of a record."""
    return f"trim/{name}/{version}/{place}/{number}"


def kept(record_bytes: int) -> int:
    """Return how many records of about this size are kept of a partition."""
    return min(max(_KEPT_BYTES // max(record_bytes, 1), 5), _KEPT)


def trim_value(
    version: str,
    place: str,
    who: str,
    when: str,
    placed: PlacedTrims,
    features: Sequence[str],
) -> tuple[bytes, PlacedTrims]:
    """Return the value of a record, and the trims that are in it: the first ones, as many as there is room for."""
    head = json.dumps({"version": version, "place": place, "who": who, "when": when})[:-1] + ', "entities": {'
    parts: list[str] = []
    written: dict[int, Trim] = {}
    size = len(head.encode()) + 2
    for entity, trim in placed.trims.items():
        document = {
            "name": (placed.names.get(entity) or "")[:_LONGEST_NAME] or None,
            "shift": _packed(trim.shift),
            "looseness": _packed(trim.looseness),
            "ignored": [features[j] for j in np.flatnonzero(trim.ignored).tolist()],
        }
        part = f'"{entity:016x}": {json.dumps(document)}'
        size += len(part) + 2
        if size > MOST_BYTES and written:
            break
        parts.append(part)
        written[entity] = trim
    return (head + ", ".join(parts) + "}}").encode(), replace(placed, trims=written)


def read_trims(value: bytes, width: int, features: tuple[str, ...]) -> tuple[dict[int, Trim], dict[int, str | None]]:
    """Return the trims of a record for a model of these features and D = `width` columns, and the entities' names.

    Raises ValueError, with what is wrong.
    """
    try:
        entities: dict[str, dict[str, Any]] = json.loads(value)["entities"]
        trims = {_hash(entity): _trim(doc, width, features) for entity, doc in entities.items()}
        names = {_hash(entity): None if doc["name"] is None else str(doc["name"]) for entity, doc in entities.items()}
        return trims, names
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError, binascii.Error) as error:
        raise ValueError(f"this is no trim: {error!r}") from None


def _hash(text: str) -> int:
    if len(text) != 16 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"{text[:40]!r} is no hash of an entity")
    return int(text, 16)


def _trim(doc: dict[str, Any], width: int, features: tuple[str, ...]) -> Trim:
    shift, looseness = (_unpacked(str(doc[name])) for name in ("shift", "looseness"))
    if shift.shape != (width,) or looseness.shape != (width,):
        raise ValueError(f"it does not have the model's {width} columns")
    if not (np.abs(shift) <= _LARGEST).all() or not ((looseness >= 0) & (looseness <= 10)).all():
        raise ValueError("it has a shift or looseness out of range")
    ignored = np.isin(np.array(features, object), [str(name) for name in doc["ignored"]])
    return Trim(shift, looseness, ignored)


def _packed(values: Float32s) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _unpacked(text: str) -> Float32s:
    unpacked: Float32s = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    return unpacked
