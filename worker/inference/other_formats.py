"""Recognises what a record is that does not parse, by its first bytes, so that an error can say what to do."""

import re
from typing import Final

import numpy as np

from worker.blocks import RecordBlock, Reject
from worker.decoding.dead_letter_reasons import UNPARSEABLE

_YEARS: Final = (631_152_000_000, 4_102_444_800_000)  # ms since the epoch: 1990 to 2100
_MOST_FIELDS: Final = 8  # of a message of Sparkplug
_LARGEST: Final = 1e12  # of a reading in raw float32
_MOST_SCHEMAS: Final = 2**21  # of a registry; the bytes of a float32 make a larger number
_BEGINNINGS: Final = (
    (b"\xff\xff\xff\xff", "an Arrow stream: set OFFNORMAL_INPUT__FORMAT=arrow"),
    (b"Obj\x01", "a file of Avro: send each record in Confluent's wire format (OFFNORMAL_INPUT__FORMAT=avro)"),
    (b"PAR1", "a file of Parquet: send its rows as records"),
    (b"\x1f\x8b", "compressed with gzip: let Kafka compress (compression.type), not the sender's own code"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: let Kafka compress (compression.type), not the sender's own code"),
    (b"\x04\x22\x4d\x18", "compressed with lz4: let Kafka compress (compression.type), not the sender's own code"),
)
_TEXTS: Final = (
    (rb"\s*<[?!/A-Za-z]", "XML: send JSON"),
    (rb"[^\s,{}\"]+(?:,[^\s,=]+=[^\s,]+)* [^\s,=]+=[^\s,]+", "InfluxDB's line protocol: let Telegraf write JSON"),
)
_NUMBERS: Final = frozenset(b"0123456789+-.eE ,;\t\r\n")


def what_it_is(value: bytes) -> str | None:
    """Return what a record seems to be, and what to do about it; None if it is not recognised."""
    for beginning, hint in _BEGINNINGS:
        if value.startswith(beginning):
            return hint
    for pattern, hint in _TEXTS:
        if re.match(pattern, value[:1000]):
            return hint
    if _NUMBERS.issuperset(value[:1000]) and any(map(value.count, (b",", b";", b"\t"))):
        return "CSV without brackets: send [1.5, 2.5], which is JSON"
    id = int.from_bytes(value[1:5], "big")
    if value[:1] == b"\0" and len(value) > 5 and 0 < id < _MOST_SCHEMAS:
        return (
            f"Confluent's wire format, schema {id}: set OFFNORMAL_INPUT__FORMAT=avro or protobuf, and"
            " OFFNORMAL_SCHEMA_REGISTRY__URL"
        )
    if _is_sparkplug(value):
        return "Sparkplug B's protobuf, which OFFNORMAL_INPUT__SHAPE=sparkplug reads, with a STEP such as 1s"
    if _is_floats(value):
        return (
            f"{len(value) // 4} numbers as raw float32: set OFFNORMAL_INPUT__FORMAT=f32 and OFFNORMAL_INPUT__FEATURES"
        )
    if value[:1] and (0x80 <= value[0] <= 0x9F or 0xA0 <= value[0] <= 0xBF or value[:1] in b"\xdc\xdd\xde\xdf"):
        return "MessagePack or CBOR: send JSON"
    return None


def explained(reject: Reject, records: RecordBlock) -> str:
    """Return the error of a record and, if it does not parse, what it seems to be."""
    hint = what_it_is(bytes(records.values.view(reject.record))) if reject.reason == UNPARSEABLE else None
    return reject.error if hint is None else f"{reject.error}; it looks like {hint}"


def _is_floats(value: bytes) -> bool:
    """Return whether these are float32, little endian, none of them unlikely as a reading."""
    if not value or len(value) % 4 or value.isascii():
        return False
    numbers = np.abs(np.frombuffer(value, "<f4"))
    return bool(((numbers < _LARGEST) & ((numbers == 0) | (numbers > 1 / _LARGEST)) | np.isnan(numbers)).all())


def _is_sparkplug(value: bytes) -> bool:
    """Return whether this is a Payload of Sparkplug B: timestamp (1), metrics (2), seq (3), uuid (4), body (5).

    Eclipse Sparkplug 3.0, "Google Protocol Buffer Schema".
    """
    at, seen = 0, set[int]()
    try:
        for _ in range(_MOST_FIELDS):
            if at == len(value):
                break
            key, at = _varint(value, at)
            number, kind = key >> 3, key & 7
            number_or_length, at = _varint(value, at)
            if (number, kind) == (1, 0) and not _YEARS[0] <= number_or_length < _YEARS[1]:
                return False
            if (number, kind) not in ((1, 0), (2, 2), (3, 0), (4, 2), (5, 2)) or (
                number == 3 and number_or_length > 255
            ):
                return False
            at += number_or_length if kind == 2 else 0
            if at > len(value):
                return False
            seen.add(number)
    except IndexError:
        return False
    return {1, 2} <= seen or {1, 3} <= seen


def _varint(value: bytes, at: int) -> tuple[int, int]:
    result, shift = 0, 0
    while shift < 64:
        byte = value[at]
        at, result, shift = at + 1, result | (byte & 127) << shift, shift + 7
        if byte < 128:
            return result, at
    raise IndexError
