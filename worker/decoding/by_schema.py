"""Confluent's wire format: a zero byte, the id of the writer's schema in four bytes (big endian), and the record."""

import time
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

import numpy as np

from worker.blocks.bytes_column import BytesColumn
from worker.blocks.vector_block import Reject
from worker.decoding.dead_letter_reasons import UNKNOWN_SCHEMA, UNPARSEABLE, Refused
from worker.errors import SchemaRegistryError
from worker.native.arrays import Int64s
from worker.schema_registry import UnknownSchema

HEADER: Final = 5  # bytes
_PATIENCE: Final = 10.0  # maximum seconds of registry requests for one block, so that the loop keeps turning
_FORGOTTEN_AFTER: Final = 600.0  # seconds that a schema is known not to be one
_MOST_UNKNOWN: Final = 100_000
Reader = TypeVar("Reader")


class BySchema(Generic[Reader]):
    """What reads the records of each schema, made at the first record of it."""

    def __init__(self, make: Callable[[int], Reader]):
        """`make` returns the reader of a schema's id. It raises UnknownSchema, SchemaRegistryError."""
        self._make = make
        self.readers: dict[int, Reader] = {}
        self._unknown: dict[int, tuple[float, str]] = {}  # since when, and why: to compile a schema may take long

    def groups(self, values: BytesColumn, records: Int64s, rejects: list[Reject]) -> Iterator[tuple[Reader, Int64s]]:
        """Yield each reader with its records; append the rejects of those that have none.

        Raises SchemaRegistryError if a schema is needed and the registry is unavailable.
        """
        schemas = _ids(values, records, rejects)
        deadline = time.monotonic() + _PATIENCE
        for id in np.unique(schemas[schemas >= 0]).tolist():
            same_schema = records[schemas == id]
            if time.monotonic() > deadline and id not in self.readers:  # what was told so far is remembered
                raise SchemaRegistryError(
                    f"fetching schemas has taken {_PATIENCE:.0f} s; the rest follow at the next try"
                )
            try:
                reader = self._reader(id)
            except Refused as error:
                rejects.extend(Reject(r, error.reason, str(error)) for r in same_schema.tolist())
                continue
            yield reader, same_schema

    def reader(self, value: bytes) -> Reader:
        """Return what reads a record. Raises Refused, SchemaRegistryError."""
        rejects: list[Reject] = []
        (id,) = _ids(BytesColumn.of([value]), np.zeros(1, np.int64), rejects)
        if rejects:
            raise Refused(rejects[0].reason, rejects[0].error)
        return self._reader(int(id))

    def _reader(self, id: int) -> Reader:
        if id not in self.readers:
            since, reason = self._unknown.get(id, (0.0, ""))
            if reason and time.monotonic() - since < _FORGOTTEN_AFTER:
                raise Refused(UNKNOWN_SCHEMA, reason)
            try:
                self.readers[id] = self._make(id)
            except UnknownSchema as error:
                if len(self._unknown) >= _MOST_UNKNOWN:
                    del self._unknown[next(iter(self._unknown))]  # the oldest
                self._unknown[id] = time.monotonic(), str(error)[:300]
                raise Refused(UNKNOWN_SCHEMA, str(error)[:300]) from None
        return self.readers[id]


def _ids(values: BytesColumn, records: Int64s, rejects: list[Reject]) -> Int64s:
    """Return the schema id of each of the `records`, -1 for those not in the wire format, which are rejects."""
    ids = np.full(len(records), -1)
    whole = values.length[records] >= HEADER
    indices = values.start[records][whole, None] + np.arange(HEADER)
    head = np.frombuffer(values.buffer, np.uint8)[indices].astype(np.int64)
    ids[whole] = np.where(head[:, 0] == 0, head[:, 1:] @ (256 ** np.arange(3, -1, -1)), -1)
    error_text = "not in Confluent's wire format: it must begin with a zero byte and the schema id in four bytes"
    rejects += [Reject(r, UNPARSEABLE, error_text) for r in records[ids < 0].tolist()]
    return ids
