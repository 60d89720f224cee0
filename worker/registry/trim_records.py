"""Trims as records of the models topic. A record has the trims of all entities of a partition that have one.

    trim/<name>/<version>/<topic>/<partition>/<number>    {"version", "place", "when", "entities": {<hash>: {...}}}

The number is the time in ms at which it was written. The record with the last offset holds for its partition. Records
before it stay for a while, so that a score can be made again: an event names the version, and the offset of the last
trim that its scorer knew.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from worker.models.trim import Trim
from worker.native.arrays import Float32s

KEPT: Final = 200  # records of a partition; older ones are removed
MOST_BYTES: Final = 900_000  # of a record; a broker takes 1 MiB unless told otherwise
_LARGEST: Final = 1e6  # of a shift, in scaled units


def trim_key(name: str, version: str, place: str, number: int) -> str:
    """Return the key of a record; `place` is topic/partition."""
    return f"trim/{name}/{version}/{place}/{number}"


def most_entities(width: int) -> int:
    """Return how many entities of a model with D = `width` columns a record has room for."""
    return max(1, MOST_BYTES // (200 + 11 * width))  # two floats a column, in base64


def trim_value(
    version: str, place: str, when: str, trims: Mapping[int, Trim], names: Mapping[int, str | None], features: list[str]
) -> bytes:
    """Return the value of a record: the trims by their entities' hashes, and the entities' names."""
    entities = {
        f"{entity:016x}": {
            "name": names.get(entity),
            "shift": _packed(trim.shift),
            "looseness": _packed(trim.looseness),
            "ignored": [features[j] for j in np.flatnonzero(trim.ignored).tolist()],
        }
        for entity, trim in trims.items()
    }
    return json.dumps({"version": version, "place": place, "when": when, "entities": entities}).encode()


def read_trims(value: bytes, width: int, features: tuple[str, ...]) -> dict[int, Trim]:
    """Return the trims of a record for a model of these features and D = `width` columns.

    Raises ValueError, with what is wrong.
    """
    try:
        entities: dict[str, dict[str, Any]] = json.loads(value)["entities"]
        return {int(entity, 16): _trim(doc, width, features) for entity, doc in entities.items()}
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError, binascii.Error) as error:
        raise ValueError(f"this is no trim: {error!r}") from None


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
