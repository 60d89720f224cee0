"""Reads those fields of an Arrow stream's flatbuffers that decide whether and how its records can be read."""

import struct
from typing import Final

import pyarrow as pa

from worker.decoding.dead_letter_reasons import UNPARSEABLE, Refused

# Fields in Arrow's Message.fbs and Schema.fbs: of a message, a dictionary, a batch, a schema.
_KIND, _HEADER, _DATA, _COMPRESSION, _ENDIANNESS = 1, 2, 1, 3, 0
_DICTIONARY: Final = 2
_LITTLE: Final = 0


def is_compressed(message: bytes) -> bool:
    """Return whether a batch's metadata name a compression, which pyarrow does not report."""
    header = _table(message, _field(message, _table(message, 0), _HEADER))
    if message[_field(message, _table(message, 0), _KIND)] == _DICTIONARY:
        header = _table(message, _field(message, header, _DATA))
    return _field(message, header, _COMPRESSION) != 0


def is_little(prefix: bytes) -> bool:
    """Return whether the stream's numbers are little endian, by its schema message."""
    schema = _table(prefix, _field(prefix, _table(prefix, 8), _HEADER))
    position = _field(prefix, schema, _ENDIANNESS)
    return position == 0 or struct.unpack_from("<h", prefix, position)[0] == _LITTLE


def prefix_of(value: memoryview) -> bytes | None:
    """Return the beginning of a stream, its schema; None if it is not a plain one."""
    if len(value) < 16 or bytes(value[:4]) != b"\xff\xff\xff\xff":
        return None
    size = 8 + int.from_bytes(value[4:8], "little")
    return bytes(value[:size]) if size % 8 == 0 and size <= len(value) else None


def _table(message: bytes, position: int) -> int:
    table: int = position + struct.unpack_from("<I", message, position)[0]
    return table


def _field(message: bytes, table: int, number: int) -> int:
    """Return the position of a field; 0 if it is left out."""
    fields = table - struct.unpack_from("<i", message, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", message, fields)[0]:
        return 0
    offset: int = struct.unpack_from("<H", message, fields + 4 + 2 * number)[0]
    return table + offset if offset else 0


def refuse_compressed(buffer: pa.Buffer) -> None:
    """Raise Refused for a compressed body.

    The sender declares how large the body is when unpacked, and that much memory is allocated before the size is
    verified. Kafka can compress records instead.
    """
    messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(buffer))
    while True:
        try:
            message = messages.read_next_message()
        except StopIteration:
            return
        if message.type != "schema" and is_compressed(bytes(message.metadata)):
            raise Refused(UNPARSEABLE, "its buffers are compressed: let Kafka compress the record instead")
