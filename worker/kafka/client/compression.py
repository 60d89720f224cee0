"""Unpacks compressed batches up to a size limit, since a few KiB may unpack to many GiB.

What these functions refuse, kafka-python may still accept, unless it is too large.
"""

import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import lz4.frame
import snappy
import zstandard

_XERIAL: Final = b"\x82SNAPPY\x00"  # the framing of snappy-java; 16 bytes, then blocks after their lengths
_PIECE: Final = 1 << 20
_MEMBERS: Final = 1000


class TooLarge(ValueError):
    """A batch unpacks to more bytes than are allowed."""


def decompress(codec: int, data: memoryview, max_bytes: int) -> Any:
    """Return the unpacked bytes of a batch whose attributes name this codec.

    Raises TooLarge beyond `max_bytes`, else whatever the library raises: ValueError, KeyError.
    """
    return _CODECS[codec](data, max_bytes)


def _gathered(pieces: Iterator[bytes], max_bytes: int) -> bytes:
    parts, size = [], 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size > max_bytes:
            raise TooLarge(f"it unpacks to more than {max_bytes} bytes")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _gzip(data: memoryview, max_bytes: int) -> bytes:
    return _gathered(_members(data, max_bytes), max_bytes)


def _members(data: Any, max_bytes: int) -> Iterator[bytes]:
    for n in itertools.count():
        if not data:
            return
        if n == _MEMBERS:
            raise TooLarge(f"more than {_MEMBERS} members")
        stream = zlib.decompressobj(31)
        yield stream.decompress(data, max_bytes + 1)
        if not stream.eof:
            raise ValueError("it is cut off")
        data = stream.unused_data


def _zstd(data: memoryview, max_bytes: int) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
        return _gathered(iter(lambda: reader.read(_PIECE), b""), max_bytes)


def _lz4(data: memoryview, max_bytes: int) -> bytes:
    # When asked for the whole frame, the library allocates the size that the frame's header claims.
    if (claimed := lz4.frame.get_frame_info(data)["content_size"]) > max_bytes:
        raise TooLarge(f"it claims to unpack to {claimed} bytes, more than {max_bytes}")
    stream = lz4.frame.LZ4FrameDecompressor()
    unpacked = _gathered(_lz4_pieces(stream, data), max_bytes)
    if not stream.eof or stream.unused_data:
        raise ValueError("not one whole frame")
    return unpacked


def _lz4_pieces(stream: Any, data: memoryview) -> Iterator[bytes]:
    yield stream.decompress(data, _PIECE)  # the library allocates this much, whatever the frame contains
    while not stream.eof and not stream.needs_input:
        yield stream.decompress(b"", _PIECE)


def _snappy(data: memoryview, max_bytes: int) -> bytes:
    if bytes(data[:8]) != _XERIAL:
        return _gathered(iter([_snappy_block(data, max_bytes)]), max_bytes)
    return _gathered(_snappy_blocks(data, max_bytes), max_bytes)


def _snappy_blocks(data: memoryview, max_bytes: int) -> Iterator[bytes]:
    position = 16
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big", signed=True)
        if size < 0 or position + 4 + size > len(data):
            raise ValueError("a block is cut off")
        yield _snappy_block(data[position + 4 : position + 4 + size], max_bytes)
        position += 4 + size


def _snappy_block(data: memoryview, max_bytes: int) -> bytes:
    """Unpack a block. Check the size in its header first, since the library allocates that much memory."""
    size, shift = 0, 0
    for byte in data[:5]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if size > max_bytes:
        raise TooLarge(f"it unpacks to {size} bytes, more than {max_bytes}")
    unpacked: bytes = snappy.decompress(bytes(data))
    return unpacked


_CODECS: Final[Mapping[int, Callable[[memoryview, int], Any]]] = {
    0: lambda data, most: data,
    1: _gzip,
    2: _snappy,
    3: _lz4,
    4: _zstd,
}
