"""What is written to Kafka: records of one topic, in columns, with their headers encoded as Kafka has them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import structlog
from kafka.record.util import decode_varint, encode_varint

from worker.blocks import BytesColumn, Headers
from worker.blocks.json_template import Template, Text
from worker.blocks.limits import MAX_ENTITY_BYTES

log = structlog.get_logger()

OVERHEAD: Final = 128  # bytes of a record that stands alone, besides key, value and headers, at most


class Output(NamedTuple):
    """One record."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Outputs(Sequence[Output]):
    """n records of one topic. `headers` are encoded (`encode_headers`); null is none."""

    topic: str
    keys: BytesColumn
    values: BytesColumn
    headers: BytesColumn

    @classmethod
    def of(cls, topic: str, records: Sequence[Output]) -> "Outputs":
        """Return the records, all of one topic, in columns."""
        return cls(
            topic,
            BytesColumn.of([record.key for record in records]),
            BytesColumn.of([record.value for record in records]),
            BytesColumn.of([encode_headers(record.headers) for record in records]),
        )

    @classmethod
    def concat(cls, parts: Sequence["Outputs"]) -> "Outputs":
        """Join outputs of one topic."""
        if len(parts) == 1:
            return parts[0]
        columns = ([getattr(p, name).compact() for p in parts] for name in ("keys", "values", "headers"))
        return cls(parts[0].topic, *map(BytesColumn.concat, columns))

    def within(self, max_bytes: int) -> "Outputs":
        """Return these outputs with each record at most `max_bytes` large.

        A larger record loses its value, and its key if need be. A header says so.
        """
        key, value, header = (np.maximum(c.length, 0) for c in (self.keys, self.values, self.headers))
        large = key + value + header > max_bytes - OVERHEAD
        if not large.any():
            return self
        log.warning("record_values_dropped", topic=self.topic, records=int(large.sum()), bytes=int(value[large].max()))
        records = [
            _without_value(record, max_bytes) if big else record for record, big in zip(self, large, strict=True)
        ]
        return Outputs.of(self.topic, records)

    @property
    def size(self) -> int:
        """Return the number of bytes of the values."""
        return int(self.values.length.sum())

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]
        if isinstance(i, slice):
            return list(self)[i]
        return Output(self.topic, self.values[i], self.keys[i], decode_headers(self.headers[i]))

    def __iter__(self) -> Iterator[Output]:
        return (self[i] for i in range(len(self)))


def _without_value(record: Output, max_bytes: int) -> Output:
    text = f"{len(record.value or b'')} bytes: {record.topic} takes records of {max_bytes}".encode()
    own_headers = [header for header in record.headers if header[0].startswith("offnormal-")]
    key = record.key if len(record.key or b"") <= MAX_ENTITY_BYTES else None
    return Output(record.topic, None, key, [*own_headers, ("offnormal-left-out", text)])


def encode_headers(headers: Headers) -> bytes | None:
    """Encode headers as a record has them: count, then name and value, each after its length as a zigzag varint."""
    if not headers:
        return None
    out = bytearray()
    encode_varint(len(headers), out.append)
    for name, value in headers:
        encode_varint(len(name.encode()), out.append)
        out += name.encode()
        encode_varint(-1 if value is None else len(value), out.append)
        out += value or b""
    return bytes(out)


def decode_headers(data: bytes | None) -> Headers:
    """Decode what `encode_headers`, or a producer elsewhere, has encoded."""
    if data is None:
        return []
    count, position = decode_varint(data, 0)
    headers = []
    for _ in range(count):
        size, position = decode_varint(data, position)
        name, position = data[position : position + size].decode("utf-8", "replace"), position + size
        size, position = decode_varint(data, position)
        headers.append((name, data[position : position + size] if size >= 0 else None))
        position += max(size, 0)
    return headers


def headers_with(name: str, values: BytesColumn, more: Headers) -> BytesColumn:
    """Encode headers of n records: one header with a value of its own for each, then the same `more` for all."""
    before, after = bytearray(), bytearray()
    encode_varint(1 + len(more), before.append)
    encode_varint(len(name), before.append)
    after += (encode_headers(more) or b"")[1:]
    sizes: list[bytes] = []
    for size in range(int(values.length.max(initial=0)) + 1):
        encoded = bytearray()
        encode_varint(size, encoded.append)
        sizes.append(bytes(encoded))
    size_column = BytesColumn.of(sizes).take(values.length)
    template = Template(bytes(before) + name.encode(), Text(0), Text(1), bytes(after))
    return template.render(len(values), [size_column, values])


def same_for_all(value: bytes | None, n: int) -> BytesColumn:
    """Return a column of n entries that share one place in memory."""
    length = -1 if value is None else len(value)
    return BytesColumn(memoryview(value or b""), np.zeros(n, np.int64), np.full(n, length))
