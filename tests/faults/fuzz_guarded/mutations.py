"""What becomes of a sound input: bits, numbers and tokens are changed, put in or taken out."""

import random
import struct
from collections.abc import Sequence
from typing import Final

from tests.faults.fuzz_guarded.target import LARGEST

EXTREMES: Final = (0, 1, 7, 8, 63, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 8, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 8,
                   2**60, 2**62, 2**63 - 8, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1)  # fmt: skip
TEXTS: Final = (
    b"1e999", b"-1e999", b"NaN", b"-0", b"0.1e-400", b"9" * 30, b"1e-45", b"null", b"nul", b"true", b"fals", b'"1"',
    b"{}", b"[]", b"[[", b"\\u0000", b"\xed\xa0\x80", b"\x00", b"1.", b".5", b"+1", b"01", b'"values":[', b" " * 9,
    b"\n", b",", b":", b'"', b"\\", b"-", b"e", b"1234567", b"12345678", b"123.4567",
)  # fmt: skip
VARINTS: Final = (
    b"\xff" * 9 + b"\x01", b"\xfe" + b"\xff" * 8 + b"\x01", b"\xfe\xff\xff\xff\x0f", b"\xff\xff\xff\xff\x0f",
    b"\x80" * 9 + b"\x00", b"\x80" * 9 + b"\x01", b"\x80" * 10, b"\xff" * 10, b"\x80\x00", b"\xff" * 8 + b"\x7f",
    b"\x01", b"\x00", b"\x80", b"\xfe\xff\x7f", b"\xfe\xff" + b"\xff" * 6 + b"\x7f",
)  # fmt: skip


def mutated(value: bytes, rng: random.Random, tokens: Sequence[bytes], begin: int = 0) -> bytes:
    """Changed, from `begin` on, some times or not at all; or as it was, and cut off, often not far from its end."""
    if rng.random() < 0.3:
        first = begin if rng.random() < 0.5 else max(begin, len(value) - 16)
        return value[: rng.randrange(first, len(value) + 1)] if first <= len(value) else value
    data = bytearray(value)
    for _ in range((0, 1, 1, 1, 1, 2, 3, 8)[rng.randrange(8)]):
        at = begin + int(rng.random() * (len(data) + 1 - begin)) if len(data) > begin else len(data)
        kind = rng.randrange(10)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:at] = tokens[rng.randrange(len(tokens))]
        elif kind == 2:
            token = tokens[rng.randrange(len(tokens))]
            data[at : at + len(token)] = token
        elif kind == 3:
            del data[at : at + rng.randrange(1, 9)]
        elif kind == 4:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 5:
            other = int(rng.random() * (len(data) + 1))
            data[at:at] = data[other : other + rng.randrange(40)]
        elif kind == 6:
            del data[at:]
        elif kind == 7:
            del data[-rng.randrange(1, 13) :]
        elif kind == 8:
            size = (1, 2, 4, 8)[rng.randrange(4)]
            told = EXTREMES[rng.randrange(len(EXTREMES))] & ((1 << 8 * size) - 1)
            data[at : at + size] = told.to_bytes(size, "little" if rng.random() < 0.5 else "big")
        else:  # a field that lies on a multiple of eight
            data[at & ~7 : (at & ~7) + 8] = struct.pack("<Q", EXTREMES[rng.randrange(len(EXTREMES))])
    return bytes(data[:LARGEST])
