"""Fuzzing of the compiled loops, which read and write by raw addresses. Their buffers end (some begin) at pages that
may not be touched (tests/faults/guarded.py), and their results are compared with the slow path where there is one.

    python -m tests.faults.fuzz_guarded json avro --records 1000000 --seed 7
    python -m tests.faults.fuzz_guarded json --seed 7 --chunk 12      # the chunk in which an earlier run died

A run consists of chunks. Each starts from its own number, so a single chunk can be run again with the same inputs. An
input is written to a file before a target works on it, and the file survives a SIGSEGV.
"""

import argparse
import faulthandler
import importlib
import io
import itertools
import json as json_text
import mmap
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Final

import fastavro
import numba
import numpy as np
import pyarrow as pa
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from tests.faults.guarded import Guarded, GuardedEmpty, guarded_empty
from worker.blocks import BytesColumn
from worker.blocks.json_template import Integer, Number, Template, Text
from worker.blocks.vector_block import Reject
from worker.decoding import f32
from worker.decoding.arrow import loop as arrow_loop
from worker.decoding.arrow.flatbuffer import prefix_of
from worker.decoding.arrow.format import Arrow
from worker.decoding.avro import loop as avro_loop
from worker.decoding.avro.format import HEADER, Avro
from worker.decoding.documents import Documents
from worker.decoding.f32 import F32
from worker.decoding.format import NO_TIME, Parsed
from worker.decoding.json import loop as json_loop
from worker.decoding.json.format import Json, load
from worker.decoding.loop_output import Taken
from worker.decoding.reject_reasons import INFINITE, WRONG_LENGTH
from worker.kafka.client import record_batch
from worker.kafka.client.produce import _encode, _murmur2
from worker.kafka.client.record_batch import Batch
from worker.kafka.outputs import Outputs, encode_headers
from worker.native.jit import read_only
from worker.schema_registry import UnknownSchema

ROOT: Final = Path(__file__).parents[2]
CHUNK: Final = 2000  # records, or some more
BLOCK: Final = 40  # records that are decoded together
LARGEST: Final = 1 << 20  # bytes of an input
PATIENCE: Final = 120.0  # seconds that a chunk may take before it hangs


class Journal:
    """What is worked on, in a file that the kernel writes, whatever becomes of the process."""

    _HEAD = struct.Struct("<qq")  # chunk, bytes of the input

    def __init__(self, path: Path):
        with path.open("w+b") as file:
            file.truncate(self._HEAD.size + LARGEST)
            self._map = mmap.mmap(file.fileno(), 0)

    def begin(self, chunk: int) -> None:
        self._map[: self._HEAD.size] = self._HEAD.pack(chunk, 0)

    def note(self, data: bytes) -> None:
        self._map[8:16] = len(data).to_bytes(8, "little")
        self._map[16 : 16 + len(data)] = data

    @classmethod
    def read(cls, path: Path) -> tuple[int, bytes]:
        """-> the last chunk and the last input."""
        told = path.read_bytes()
        chunk, size = cls._HEAD.unpack_from(told)
        return chunk, told[cls._HEAD.size :][:size]


class Target:
    """One chunk's work on one kind of input: state that is learned from inputs is the chunk's."""

    def __init__(self, rng: random.Random, journal: Journal, memory: Guarded, empty: GuardedEmpty | None):
        """Without `empty`, all is compiled, and numpy.empty is numpy's."""
        self.rng, self.journal, self.memory, self.empty = rng, journal, memory, empty
        self._before = b""
        self.prepare()

    def prepare(self) -> None:
        pass

    def step(self) -> int:
        """-> how many records that were. Raises AssertionError where they are not read as they should be."""
        raise NotImplementedError

    def placed(self, data: bytes) -> BytesColumn:
        """Mostly alone, and the end of it is that of its memory; some stand behind another, some at the beginning."""
        where = self.rng.random()
        self.journal.note(data)
        if where < 0.7:
            return column_of(self.memory.ending(data), [len(data)])
        if where < 0.85:
            return column_of(self.memory.beginning(data), [len(data)])
        before = self._before if len(self._before) + len(data) <= self.memory.size else b""
        self._before = data
        return column_of(self.memory.ending(before + data), [len(before), len(data)])

    def exactly(self, size: int) -> Any:
        return self.empty.exactly(size) if self.empty is not None else nullcontext()


def column_of(buffer: memoryview, lengths: Sequence[int]) -> BytesColumn:
    """Of strings end to end; a length of -1 is null."""
    sizes = np.maximum(lengths, 0)
    return BytesColumn(buffer, np.cumsum(sizes) - sizes, np.array(lengths, np.int64))


# -- mutations

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


# -- formats

FEATURES: Final = ("a", "b", "c")
NAMED: Final = ("id", "ts")  # entity, time
OPTIONS: Final = ((None, None, False), (*NAMED, False), (*NAMED, True), ("a", None, False))


def told(parts: Sequence[Parsed]) -> dict[int, Any]:
    """What became of each record: the bits of its rows, its entity and its times; or why it was refused."""
    found: dict[int, Any] = {}
    for part in parts:
        x = np.where(np.isnan(part.x), np.float32(np.nan), part.x)  # there is more than one NaN
        end = 0
        for r, count in zip(part.records.tolist(), part.counts.tolist(), strict=True):
            end += count
            times = [] if part.row_times is None else part.row_times[end - count : end].tolist()
            if times and set(times) == {NO_TIME}:
                times = []
            found[r] = (x[end - count : end].tobytes(), part.entities.get(r), part.times.get(r), times)
        found.update((reject.record, reject.reason) for reject in part.rejects)
    return found


class FormatTarget(Target):
    """A block of records, the last of which ends where memory does, as the worker decodes it and the slow way: both
    give the same. Then the loop has each record alone, most of them at the end of memory: it may leave it, else it
    gives the same again.
    """

    width: int
    form: Any
    reference: Any

    def step(self) -> int:
        values = [self.value() for _ in range(BLOCK)]
        whole = b"".join(values)
        self.journal.note(whole)
        column = column_of(self.memory.ending(whole), list(map(len, values)))
        want = self.compared(column)
        alone = self.alone(values)
        if want is not None:
            for r, each in alone.items():
                assert self.alike(each, want[r]), (values[r], each, want[r])
        return BLOCK

    def value(self) -> bytes:
        raise NotImplementedError

    def compared(self, column: BytesColumn) -> dict[int, Any] | None:
        """What the slow way gives; None where it was not asked."""
        records = np.arange(len(column))
        got, want = told(self.form.decode(column, records)), told(self.slowly(column, records))
        for r in records.tolist():
            assert self.alike(got[r], want[r]), (column[r], got[r], want[r])
        return want

    def slowly(self, column: BytesColumn, records: Any) -> list[Parsed]:
        found: list[Parsed] = self.reference.decode(column, records)
        return found

    def alike(self, got: Any, want: Any) -> bool:
        return bool(got == want)

    def alone(self, values: Sequence[bytes]) -> dict[int, Any]:
        """What the loop takes."""
        taken, good = Taken(len(values), self.width, False), np.zeros(len(values), np.bool_)
        for i, value in enumerate(values):
            mine = slice(i, i + 1)
            if (found := self.parse(value, taken.x[mine], taken.times[mine], taken.names[mine])) is not None:
                good[i] = found[0]
        column = BytesColumn.of(values)
        taken.names += np.where(taken.names > 0, column.start[:, None], 0)
        return told([taken.parsed(column, np.arange(len(values)), good)[0]])

    def parse(self, value: bytes, x: Any, times: Any, names: Any) -> Any:
        """Whether the loop takes it [1]; None where it does not come to it."""
        raise NotImplementedError

    def placed_alone(self, value: bytes) -> Any:
        self.journal.note(value)
        place = self.memory.ending if self.rng.random() < 0.85 else self.memory.beginning
        return np.frombuffer(place(value), np.uint8)


_ZERO: Final = np.zeros(1, np.int64)


class JsonTarget(FormatTarget):
    def prepare(self) -> None:
        self.width = self.rng.choice([1, 2, 3, 3, 4, 9])
        self._features = tuple("abcdefghi"[: self.width])
        options = OPTIONS[self.rng.randrange(len(OPTIONS))]
        self.form, self.reference = Json(self._features, *options), Documents(self._features, *options)
        # Each is written by one of few programs, whose layout the loop is told of: it would else leave most.
        programs = [self.rng.random() for _ in range(3)]
        self._seeds = [self._seed(random.Random(program)) for program in programs * 20]
        self._layouts = []
        for seed in self._seeds[: len(programs)]:
            learner = Json(self._features, *options)
            learner._learn(BytesColumn.of([seed]), _ZERO)
            self._layouts.append(learner._layout)
        self._written_by: deque[int] = deque()

    def value(self) -> bytes:
        k = self.rng.randrange(len(self._seeds))
        self._written_by.append(k % len(self._layouts))
        return mutated(self._seeds[k], self.rng, TEXTS)

    def slowly(self, column: BytesColumn, records: Any) -> list[Parsed]:
        return self.reference.decode(column, records, load)  # type: ignore[no-any-return]

    def parse(self, value: bytes, x: Any, times: Any, names: Any) -> Any:
        how, buffer = self._layouts[self._written_by.popleft()], self.placed_alone(value)
        length = np.array([len(value)])
        more = how.words, how.masks, how.ends, how.sizes, how.roles
        return json_loop.parse(buffer, _ZERO, length, *more, x, times, names)

    def _seed(self, program: random.Random) -> bytes:
        """`program` chooses how it is written, and self.rng what."""
        rng = self.rng
        comma, colon = ((",", ":"), (",", ":"), (", ", ": "))[program.randrange(3)]
        numbers = [self.number() for _ in range(self.width)]
        if rng.random() < 0.05:
            numbers[rng.randrange(self.width)] = "null"
        array = f"[{comma.join(numbers)}]"
        kind = program.randrange(8)
        if kind < 3:
            return array.encode()
        if kind == 3:
            return f"[{array}{comma}{array}]".encode()
        named = [f'"id"{colon}"m{rng.randrange(99)}"', f'"ts"{colon}{rng.choice([1, 1.5, 170e10, 1700000000])}']
        parts = named if program.random() < 0.7 else []
        if kind == 4:
            parts.append(f'"values"{colon}{array}')
        else:
            parts += [f'"{name}"{colon}{number}' for name, number in zip(self._features, numbers, strict=True)]
        if program.random() < 0.5:  # a field that nobody wants, the last one too
            odd = rng.choice(["true", "false", "null", "1e5", '"x"'])
            parts.insert(program.randrange(len(parts) + 1), f'"ok"{colon}{odd}')
        return f"{{{comma.join(parts)}}}".encode()

    def number(self) -> str:
        rng = self.rng
        kind = rng.randrange(6)
        if kind == 0:
            return str(rng.randrange(-100, 10 ** rng.randrange(2, 21)))
        if kind == 1:
            return repr(struct.unpack("<f", rng.randbytes(4))[0])
        if kind == 2:
            return f"{rng.gauss(0, 1):.{rng.randrange(20)}e}"
        return f"{rng.gauss(0, 10):.{rng.randrange(1, 8)}f}"


class DigitsTarget(JsonTarget):
    """Short numbers and what looks like them, which are read eight bytes at a time."""

    def number(self) -> str:
        rng = self.rng
        if rng.random() < 0.2:
            return "".join(rng.choices("-+.eE0123456789 ,]}", k=rng.randrange(11)))
        whole = str(rng.randrange(10 ** rng.randrange(1, 9)))
        point = "." + str(rng.randrange(10 ** rng.randrange(1, 8))) if rng.random() < 0.6 else ""
        return "-" * (rng.random() < 0.3) + whole + point


class F32Target(FormatTarget):
    def prepare(self) -> None:
        self.width = self.rng.randrange(1, 5)
        self.form = F32(self.width)
        self._out = Guarded(LARGEST)

    def value(self) -> bytes:
        rng = self.rng
        data = rng.randbytes(4 * self.width * rng.randrange(1, 5))
        if rng.random() < 0.3:
            data = data[:-4] + struct.pack("<I", rng.choice([0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 1]))
        return mutated(data, rng, VARINTS) if rng.random() < 0.5 else data

    def slowly(self, column: BytesColumn, records: Any) -> list[Parsed]:
        found = []
        for r in records.tolist():
            data = bytes(column.view(r))
            if not data or len(data) % (4 * self.width):
                found.append(self._refused(r, WRONG_LENGTH))
                continue
            x = np.frombuffer(data, "<f4").reshape(-1, self.width)
            one = Parsed(np.array([r]), np.array([len(x)]), x)
            found.append(self._refused(r, INFINITE) if np.isinf(x).any() else one)
        return found

    def _refused(self, r: int, reason: str) -> Parsed:
        nothing = np.zeros(0, np.int64)
        return Parsed(nothing, nothing, np.zeros((0, self.width), np.float32), [Reject(r, reason, "")])

    def alone(self, values: Sequence[bytes]) -> dict[int, Any]:
        found: dict[int, Any] = {}
        for i, value in enumerate(values):
            if value and not len(value) % (4 * self.width):
                out = self._out.last(len(value))
                infinite = f32._rows(self.placed_alone(value), _ZERO, np.array([len(value)]), out, out.view(np.uint32))
                assert bytes(out) == value
                if not infinite:
                    x = out.view(np.float32).reshape(-1, self.width)
                    found |= told([Parsed(np.array([i]), np.array([len(x)]), x)])
        return found


def _record(*fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": "Reading", "fields": [{"name": n, "type": t} for n, t in fields]}


def _array(items: str) -> dict[str, str]:
    return {"type": "array", "items": items}


_ENUM: Final = {"type": "enum", "name": "E", "symbols": ["X", "Y", "Z"]}
SCHEMAS: Final = {
    1: _record(("a", "float"), ("b", "float"), ("c", "float")),
    2: _record(("id", "string"), ("ts", "long"), ("c", "double"), ("b", "double"), ("a", "double")),
    3: _record(("a", ["null", "double"]), ("ok", "boolean"), ("b", ["float", "null"]), ("raw", "bytes"), ("e", _ENUM),
               ("c", "int"), ("ts", {"type": "long", "logicalType": "timestamp-millis"}), ("id", ["null", "string"])),
    4: _record(("id", "string"), ("values", _array("float"))),
    5: _record(("values", _array("double")), ("ts", {"type": "long", "logicalType": "timestamp-micros"})),
    6: _record(("ts", ["null", "double"]), ("values", ["null", _array("float")]), ("note", ["string", "null"])),
    7: _array("double"),
}  # fmt: skip


class Schemas:
    """Stands for the registry."""

    def schema(self, number: int) -> tuple[Any, dict[str, Any]]:
        if number not in SCHEMAS:
            raise UnknownSchema("nobody has said")
        return json_text.loads(json_text.dumps(SCHEMAS[number])), {}


class AvroTarget(FormatTarget):
    width = len(FEATURES)
    _pool: ClassVar[list[bytes]] = []

    def prepare(self) -> None:
        if not self._pool:
            self._pool.extend(_avro_records(random.Random(0)))
        options = OPTIONS[self.rng.randrange(3)]
        self.form, self.reference = (Avro(FEATURES, *options, Schemas()) for _ in range(2))  # type: ignore[arg-type]
        self.reference._plan = lambda schema: None

    def value(self) -> bytes:
        seed = self._pool[self.rng.randrange(len(self._pool))]
        return mutated(seed, self.rng, VARINTS, begin=HEADER if self.rng.random() < 0.97 else 0)

    def parse(self, value: bytes, x: Any, times: Any, names: Any) -> Any:
        reader = self.form._readers.get(int.from_bytes(value[1:HEADER], "big"))
        if len(value) < HEADER or value[0] or reader is None or reader.plan is None:
            return None
        plan, buffer = reader.plan, self.placed_alone(value)
        more = plan.kinds, plan.roles, plan.nulls, plan.units
        return avro_loop.parse(buffer, _ZERO + HEADER, np.array([len(value) - HEADER]), *more, x, times, names)


def _avro_records(rng: random.Random) -> Iterator[bytes]:
    for number, given in SCHEMAS.items():
        schema = fastavro.parse_schema(json_text.loads(json_text.dumps(given)))
        for _ in range(60):
            numbers = [rng.choice([rng.gauss(0, 1), float(rng.randrange(100))]) for _ in range(3)]
            name = "m" * rng.choice([0, 1, 2, 9, 70])
            whole: Any = dict(zip("abc", numbers, strict=True))
            whole |= {"id": name, "ts": 1_700_000_000, "ok": True, "raw": b"\xff" * rng.randrange(9), "e": "Y"}
            whole |= {"values": numbers, "note": name}
            if number == 3:
                whole |= {"c": rng.randrange(-1000, 1000), "id": rng.choice([None, name]), "b": rng.choice([None, 2.0])}
            out = io.BytesIO()
            fastavro.schemaless_writer(out, schema, numbers if number == 7 else whole)
            yield b"\0" + struct.pack(">I", number) + out.getvalue()


class ArrowTarget(FormatTarget):
    width = len(FEATURES)
    _pool: ClassVar[list[tuple[bytes, int]]] = []

    def prepare(self) -> None:
        if not self._pool:
            self._pool.extend(_arrow_records(random.Random(0)))
        options = OPTIONS[self.rng.randrange(3)]
        self.form, self.reference = (Arrow(FEATURES, *options) for _ in range(2))
        self.reference._plan = lambda prefix: None
        # Few schemas a chunk: as many are known at a time as a worker knows.
        self._mine = self.rng.sample(self._pool, 6)
        seeds = BytesColumn.of([seed for seed, _ in self._mine])
        self.form.decode(seeds, np.arange(len(seeds)))

    def value(self) -> bytes:
        seed, prefix = self._mine[self.rng.randrange(len(self._mine))]
        return mutated(seed, self.rng, VARINTS, begin=prefix if self.rng.random() < 0.97 else 0)

    def compared(self, column: BytesColumn) -> dict[int, Any] | None:
        return super().compared(column) if self.rng.random() < 0.05 else None  # pyarrow takes its time

    def alike(self, got: Any, want: Any) -> bool:
        """Of a damaged stream the loop does not look at all."""
        return bool(got == want) or (isinstance(want, str) and not isinstance(got, str))

    def alone(self, values: Sequence[bytes]) -> dict[int, Any]:
        found: dict[int, Any] = {}
        for i, value in enumerate(values):
            plan = self.form._plans.get(prefix_of(memoryview(value)))
            if plan is None:
                continue
            buffer = self.placed_alone(value)
            rows, places, names = np.zeros(1, np.int64), np.zeros((1, 3), np.int64), np.zeros((1, 2), np.int64)
            more = plan.n_nodes, plan.n_buffers, plan.columns, self.width, rows, places
            arrow_loop.measure(buffer, _ZERO, np.array([len(value)]), read_only(plan.prefix), *more)
            x = np.full((int(rows[0]), self.width), np.nan, np.float32)
            times = np.full(len(x), NO_TIME)
            if rows[0] and arrow_loop.fill(rows, places, plan.columns, x, times, names)[0]:
                begin, end = (names[0] - buffer.ctypes.data if names[0, 0] else _NO_NAME).tolist()
                entities = {} if end == 0 else {i: value[begin:end].decode("ascii")}
                parsed = Parsed(np.array([i]), rows, x, (), entities, row_times=times)
                found |= told([parsed])
        return found


_NO_NAME: Final = np.zeros(2, np.int64)


def _arrow_records(rng: random.Random) -> Iterator[tuple[bytes, int]]:
    """-> the stream, and where its schema ends."""
    kinds = [pa.float32(), pa.float64(), pa.int8(), pa.int16(), pa.int32(), pa.int64()]
    kinds += [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
    times = [pa.int64(), pa.float64(), *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns"))]
    lists = [pa.list_(pa.float32()), pa.list_(pa.float64()), pa.list_(pa.float32(), 3), pa.list_(pa.float64(), 3)]
    for k in range(300):
        n = rng.randrange(1, 7)
        columns: dict[str, Any] = {}
        if k % 3 == 0:
            rows = [[rng.gauss(0, 1) for _ in FEATURES] for _ in range(n)]
            columns["values"] = pa.array(rows, rng.choice(lists))
        else:
            same = pa.float32() if k % 3 == 1 else None
            for name in FEATURES:
                missing = rng.random() < 0.2
                numbers = [None if missing and rng.random() < 0.4 else rng.randrange(100) for _ in range(n)]
                columns[name] = pa.array(numbers, same or rng.choice(kinds))
        if rng.random() < 0.5:
            columns["ts"] = pa.array([1_700_000_000 + j for j in range(n)], rng.choice(times))
        if rng.random() < 0.5:
            columns["id"] = pa.array([rng.choice(["m1", "", "machine"])] * n)
        if rng.random() < 0.3:
            columns["other"] = pa.array(["x", None, "yz"][: min(n, 3)] + ["w"] * (n - 3))
        batch = pa.record_batch(columns)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        stream = sink.getvalue().to_pybytes()
        yield stream, 8 + int.from_bytes(stream[4:8], "little")


# -- Kafka


class BatchesTarget(Target):
    _pool: ClassVar[list[tuple[bytes, int]]] = []

    def prepare(self) -> None:
        if not self._pool:
            self._pool.extend(_record_batches(random.Random(0)))

    def step(self) -> int:
        rng, count, parts = self.rng, 0, []
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            data, n = self._pool[rng.randrange(len(self._pool))]
            count += n
            kind = rng.random()
            data = mutated(data, rng, VARINTS, begin=record_batch.HEADER if kind < 0.9 else 0)
            if (
                kind < 0.8 and len(data) >= record_batch.HEADER
            ):  # else the loop that reads records would see few of these
                made = bytearray(data)
                struct.pack_into(">i", made, 8, len(data) - 12)
                if kind < 0.1:
                    struct.pack_into(">I", made, 57, (EXTREMES[rng.randrange(len(EXTREMES))] + n) & 0xFFFFFFFF)
                data = bytes(made)
            parts.append(data)
        column = self.placed(b"".join(parts))
        buffer = np.frombuffer(column.buffer, np.uint8)
        found, end = record_batch.batches(buffer)
        assert 0 <= end <= len(buffer)
        places = [batch._replace(begin=batch.begin + record_batch.HEADER) for batch in found]
        columns, sound = record_batch.records(buffer, places)
        assert sound <= len(found) and len(columns) <= sum(batch.n for batch in found[:sound])
        if len(columns):
            assert columns.starts.min() >= 0 and columns.lengths.min() >= -1
            assert (columns.starts + np.maximum(columns.lengths, 0)).max() <= len(buffer)
            parts_of = [BytesColumn(column.buffer, columns.starts[:, k], columns.lengths[:, k]) for k in range(3)]
            for part in parts_of:
                assert list(part.compact()) == list(part)
            if rng.random() < 0.2:
                self._as_kafka_python(column.buffer, found[:sound], parts_of)
        return count

    def _as_kafka_python(self, data: memoryview, sound: Sequence[Batch], parts: Sequence[BytesColumn]) -> None:
        at = 0
        for batch in sound:
            if not batch.attributes & record_batch.CODEC:
                try:
                    told = [(each.key, each.value) for each in DefaultRecordBatch(bytes(data[batch.begin : batch.end]))]
                except CorruptRecordError as error:
                    if "UnicodeDecodeError" not in str(error):  # an odd name of a header costs nobody anything here
                        raise
                    told = []
                for k, (key, value) in enumerate(told):
                    assert (parts[0][at + k], parts[1][at + k]) == (key, value)
            at += batch.n


def _record_batches(rng: random.Random) -> Iterator[tuple[bytes, int]]:
    for _ in range(400):
        builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 20)
        n = rng.choice([1, 1, 2, 3, 8])
        for k in range(n):
            key, value = (rng.choice([None, b"", rng.randbytes(rng.choice([1, 5, 63, 64, 200]))]) for _ in range(2))
            headers = [(f"h{j}", rng.choice([None, b"", rng.randbytes(9)])) for j in range(rng.choice([0, 0, 0, 1, 3]))]
            builder.append(k * rng.choice([1, 1, 100]), 1_700_000_000_000 + k, key, value, headers)
        yield bytes(builder.build()), n


_SIZES: Final = (-1, 0, 1, 2, 3, 4, 5, 30, 62, 63, 64, 65, 127, 128, 300)


class ProduceTarget(Target):
    """The encoder of record batches: keys, values and headers each end at a forbidden page, and so does what it writes:
    once in as many bytes as it asks for, once in as many as it takes.
    """

    def prepare(self) -> None:
        self._memories = [self.memory, Guarded(LARGEST), Guarded(LARGEST)]
        self._noise = self.rng.randbytes(20_000)

    def step(self) -> int:
        rng = self.rng
        # The number of a record within its batch takes two bytes from the 65th on, three from the 8193rd on.
        n = rng.choice([1, 1, 2, 3, 5, 8, 70]) if rng.random() < 0.9998 else 8200
        usual = _SIZES if n < 100 else _SIZES[:3]
        sizes = [[usual[rng.randrange(len(usual))] for _ in range(n)] for _ in range(2)]
        if n < 8 and rng.random() < 0.01:
            sizes[rng.randrange(2)][rng.randrange(n)] = rng.choice([8191, 8192, 16_383, 16_384])
        headers = [self._headers() for _ in range(n)]
        sizes.append([-1 if each is None else len(each) for each in headers])
        texts = [self._noise[: sum(max(size, 0) for size in of)] for of in sizes[:2]]
        if max(map(len, texts)) == len(self._noise):  # it has no more
            return 0
        texts.append(b"".join(each or b"" for each in headers))
        keys, values, told = (
            column_of(memory.ending(text), of) for memory, text, of in zip(self._memories, texts, sizes, strict=True)
        )
        outputs = Outputs("t", keys, values, told)
        hashes = np.empty(n, np.int64)
        _murmur2(np.frombuffer(keys.buffer, np.uint8), keys.start, keys.length, hashes)
        rows = np.arange(n) if rng.random() < 0.5 else np.array(sorted(rng.sample(range(n), rng.randrange(1, n + 1))))
        encoded = bytes(_encode(outputs, rows))
        with self.exactly(len(encoded)):
            assert bytes(_encode(outputs, rows)) == encoded
        batch = Batch(0, len(encoded), 0, 0, 0, 0, len(rows) - 1, 0, 0, -1, len(rows))
        columns, sound = record_batch.records(np.frombuffer(encoded, np.uint8), [batch])
        assert sound == 1 and columns.offset.tolist() == list(range(len(rows)))
        for k, given in enumerate((keys, values, told)):
            column = BytesColumn(columns.buffer.data, columns.starts[:, k], columns.lengths[:, k])
            assert list(column) == [given[i] for i in rows.tolist()]
        return len(rows)

    def _headers(self) -> bytes | None:
        rng = self.rng
        if rng.random() < 0.5:
            return None
        return encode_headers([("h" * rng.randrange(9), rng.choice([None, b"", b"value"]))] * rng.choice([0, 1, 3]))


class TemplateTarget(Target):
    """Documents from columns: what is written ends at a forbidden page, likewise twice."""

    def prepare(self) -> None:
        rng = self.rng
        self._parts: list[Any] = []
        for _ in range(rng.randrange(1, 9)):
            kind = rng.randrange(4)
            constant = rng.choice(["x", '{"id":', "", "☃"])
            self._parts += [constant] if kind == 0 else [(Text, Number, Integer)[kind - 1](rng.randrange(2)), ","]
        if len(self._parts) > 1 and rng.random() < 0.5:  # a number is the last that is written
            del self._parts[-1]
        self._template = Template(*self._parts)

    def step(self) -> int:
        rng = self.rng
        n = rng.choice([1, 1, 2, 9, 40])
        texts = [[b"t" * rng.choice([0, 1, 5, 40]) for _ in range(n)] for _ in range(2)]
        numbers = [[self._number() for _ in range(n)] for _ in range(2)]
        integers = [[rng.choice([0, 9, 10, 2**63 - 1, 10**18, rng.randrange(10**9)]) for _ in range(n)] for _ in "xy"]
        columns = [BytesColumn.of(column) for column in texts]
        made = self._template.render(n, columns, numbers, integers)
        with self.exactly(len(made.buffer)):
            again = self._template.render(n, columns, numbers, integers)
        assert bytes(again.buffer) == bytes(made.buffer)
        for i, document in enumerate(made):
            rest = document or b""
            for part in self._parts:
                if isinstance(part, Number):
                    spelled, _, _ = rest.partition(b",")
                    assert _is_spelled(numbers[part.column][i], spelled), (numbers[part.column][i], spelled)
                elif isinstance(part, Integer):
                    spelled = b"%d" % integers[part.column][i]
                else:
                    spelled = texts[part.column][i] if isinstance(part, Text) else part.encode()
                assert rest.startswith(spelled), (rest, spelled)
                rest = rest[len(spelled) :]
            assert not rest
        return n

    def _number(self) -> float:
        rng = self.rng
        kind = rng.randrange(6)
        if kind == 0:
            return float(struct.unpack("<d", rng.randbytes(8))[0])
        if kind == 1:
            return float(struct.unpack("<f", rng.randbytes(4))[0])
        if kind == 2:
            near = 10.0 ** rng.randrange(-320, 309)
            return float(rng.choice([near, -near, np.nextafter(near, 0), np.nextafter(near, np.inf), near * 9.9999999]))
        if kind == 3:
            return rng.choice([0.0, -0.0, float("nan"), float("inf"), 5e-324, 1.7976931348623157e308, -2.2e-308])
        return rng.gauss(0, 10 ** rng.randrange(-7, 18))


def _is_spelled(value: float, spelled: bytes) -> bool:
    if not np.isfinite(value):
        return spelled == b"null"
    back = float(spelled)
    return abs(back - value) <= max(6e-7 * abs(value), 1e-307)


TARGETS: Final[dict[str, type[Target]]] = {
    "json": JsonTarget, "digits": DigitsTarget, "f32": F32Target, "avro": AvroTarget, "arrow": ArrowTarget,
    "batches": BatchesTarget, "produce": ProduceTarget, "template": TemplateTarget,
}  # fmt: skip


# -- the child


def fuzz(
    make: type[Target], name: str, n: int, seed: int, journal: Journal, chunks: Iterable[int], patience: float
) -> int:
    """-> how many records were tried: n, or some more."""
    memory = Guarded(LARGEST)

    def chunk(number: int, empty: GuardedEmpty | None, most: int) -> int:
        faulthandler.dump_traceback_later(patience if empty is not None else 10 * patience, exit=True)
        journal.begin(number)
        target = make(random.Random(f"{seed}/{name}/{number}"), journal, memory, empty)
        done = 0
        while done < min(most, CHUNK):
            done += target.step()
        faulthandler.cancel_dump_traceback_later()
        return done

    chunk(-1, None, sys.maxsize)  # compiles
    done = 0
    with guarded_empty() as empty:
        for number in chunks:
            done += chunk(number, empty, n - done)
            if done >= n:
                break
    return done


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.fuzz_guarded",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all, unless some are named")
    parser.add_argument("--records", type=int, default=20_000, help="of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chunk", type=int, help="this one alone")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds that a chunk may take")
    parser.add_argument("--journal", type=Path, help="the file for what is worked on")
    arguments = parser.parse_args()
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    journal = Journal(arguments.journal or Path(tempfile.mkdtemp(), "journal"))
    # The wrong ones, which import this, are had by name alone.
    known = TARGETS | importlib.import_module("tests.faults.wrong_loops").WRONG
    for name in arguments.targets or TARGETS:
        began = time.monotonic()
        chunks = itertools.count() if arguments.chunk is None else [arguments.chunk]
        done = fuzz(known[name], name, arguments.records, arguments.seed, journal, chunks, arguments.patience)
        seconds = round(time.monotonic() - began, 1)
        print(json_text.dumps({"target": name, "records": done, "seconds": seconds}), flush=True)


# -- the parent


@dataclass
class Found:
    """How many records of each target were tried, and in how many seconds; and what each complaint is about."""

    records: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)


def in_child(
    names: Sequence[str], n: int, seed: int, folder: Path, *, bounds: bool = False, patience: float = PATIENCE
) -> Found:
    """n records of each target, in a process that may die: then the target is told of, what it has died of is kept in
    the folder, and another process goes on with the next one. With `bounds`, all indices of arrays are looked at too.
    """
    found, left = Found(), list(names)
    environment = dict(os.environ)
    if bounds:
        environment |= {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(_cache_for_bounds())}
    while left:
        journal = folder / "journal"
        command = [sys.executable, "-m", "tests.faults.fuzz_guarded", *left, f"--records={n}", f"--seed={seed}"]
        command += [f"--patience={patience}", f"--journal={journal}"]
        ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        for line in map(json_text.loads, ran.stdout.splitlines()):
            left.remove(line["target"])
            found.records[line["target"]], found.seconds[line["target"]] = line["records"], line["seconds"]
        if not ran.returncode:
            break
        name = left.pop(0)
        found.complaints.append(f"{name}: {_how(ran.returncode)}; {_kept(name, seed, journal)}\n{ran.stderr[-3000:]}")
    return found


def _how(code: int) -> str:
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def _kept(name: str, seed: int, journal: Path) -> str:
    if not journal.exists():
        return "it has not begun"
    chunk, data = Journal.read(journal)
    kept = journal.with_name(f"{name}-{seed}-{chunk}")
    kept.write_bytes(data)
    again = f"python -m tests.faults.fuzz_guarded {name} --seed {seed} --chunk {chunk} --records 1000000"
    return f"the last input is in {kept}; again: {again}"


def _cache_for_bounds() -> Path:
    """Of machine code that looks at its bounds: numba does not tell it from the other in its cache, nor what was
    compiled before a module that is compiled into another was changed.
    """
    sources = sha256(numba.__version__.encode())
    for file in sorted([*ROOT.glob("worker/**/*.py"), Path(__file__).with_name("wrong_loops.py")]):
        sources.update(file.read_bytes())
    return ROOT / "build" / f"numba-bounds-{sources.hexdigest()[:12]}"


if __name__ == "__main__":
    main()
