"""The records of a compressed batch. What these refuse, kafka-python may still take: it has the last word."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import lz4.frame
import snappy
import zstandard

_XERIAL: Final = b"\x82SNAPPY\x00"  # the framing of snappy-java; 16 bytes, then blocks after their lengths


def decompress(codec: int, data: memoryview) -> Any:
    """Bytes, of a batch whose attributes name this codec. Raises whatever the library raises, ValueError, KeyError."""
    return _CODECS[codec](data)


def _gzip(data: memoryview) -> bytes:
    return _whole(zlib.decompressobj(31), data)


def _zstd(data: memoryview) -> bytes:
    return _whole(zstandard.ZstdDecompressor().decompressobj(), data)


def _whole(stream: Any, data: memoryview) -> bytes:
    found: bytes = stream.decompress(data)
    if not stream.eof or stream.unused_data:
        raise ValueError("not one whole frame")
    return found


def _snappy(data: memoryview) -> Any:
    if bytes(data[:8]) != _XERIAL:
        return snappy.decompress(bytes(data))
    blocks, at = [], 16
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big", signed=True)
        if size < 0 or at + 4 + size > len(data):
            raise ValueError("a block is cut off")
        blocks.append(snappy.decompress(bytes(data[at + 4 : at + 4 + size])))
        at += 4 + size
    return b"".join(blocks)


_CODECS: Final[Mapping[int, Callable[[memoryview], Any]]] = {
    0: lambda data: data,
    1: _gzip,
    2: _snappy,
    3: lambda data: lz4.frame.decompress(data),
    4: _zstd,
}
