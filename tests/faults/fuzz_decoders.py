"""Coverage-guided fuzzing (atheris) of all that reads bytes from others: formats, headers, record batches, artefacts,
the registry.

    python -m tests.faults.fuzz_decoders -runs=100000 FOLDER_FOR_WHAT_IT_FINDS tests/faults/corpus

The first byte of an input says which reader gets the rest. None may raise but what its docstring names; the compiled
JSON loop gives what orjson gives; a good neighbour in the block is decoded all the same.
"""

import sys
from pathlib import Path
from typing import Any, ClassVar

import atheris
import numpy as np
import structlog

ROOT = Path(__file__).parents[2]
# What numba compiles must stay as it is.
COMPILED = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in ROOT.glob("worker/**/*.py")
    if "@compiled" in file.read_text()
]
with atheris.instrument_imports(
    include=["worker"], exclude=[*COMPILED, "worker.native.jit", "worker.native.raw_memory"]
):
    from kafka import TopicPartition
    from kafka.record.memory_records import MemoryRecords
    from pydantic import SecretStr

    from tests.record_blocks import block_of
    from tests.unit.worker.decoding.json.test_format import check as check_json
    from worker.blocks import TopicSet
    from worker.decoding import Decoder
    from worker.errors import ArtefactError
    from worker.kafka.client.fetch import PartitionColumns, block_of as block_of_chunks
    from worker.kafka.unreadable import Unreadable
    from worker.models import Artefact
    from worker.models.artefact import check_signature
    from worker.registry import RegistryView
    from worker.schema_registry import SchemaRegistry
    from worker.settings import InputSettings, SchemaRegistrySettings

FEATURES = ("a", "b", "c")
PLACE = TopicPartition("t", 0)


class Schemas(SchemaRegistry):
    """Its answers are `texts`."""

    texts: ClassVar[dict[int, bytes]] = {}

    def _once(self, method: str, path: str, body: Any) -> Any:
        return {"schema": self.texts[int(path.rsplit("/", 1)[1])].decode("utf-8", "replace")}

    def schema(self, id: int) -> Any:
        self._schemas.clear(), self._unknown.clear()
        return super().schema(id)


SCHEMAS = Schemas(SchemaRegistrySettings(url="http://nowhere"))
DECODER = Decoder(InputSettings(entity_field="id", time_field="ts", time_header="time"), FEATURES, SCHEMAS)


def json(data: bytes) -> None:
    check_json([b"[1,2,3]", data, data, b'{"a":1,"b":2,"c":3}'], entity_field="id", time_field="ts")


def record(data: bytes) -> None:
    """Key, value and headers, parted by the bytes ff fe."""
    key, value, name, content = (data.split(b"\xff\xfe", 3) + [b""] * 4)[:4]
    headers = [(name.decode("latin-1"), content), ("content-type", content), ("time", name)]
    found = DECODER.decode(block_of([b"[1,2,3]", value, b"[4,5,6]"], [b"k", key, None], {1: headers}))
    good = {int(r) for r in found.record} | {reject.record for reject in found.rejects}
    assert good == {0, 1, 2}, (good, data)
    assert found.x[found.record == 0].tolist() == [[1, 2, 3]] and found.x[found.record == 2].tolist() == [[4, 5, 6]]
    assert np.isfinite(found.x[~np.isnan(found.x)]).all()


def batch(data: bytes) -> None:
    part = PartitionColumns(0, PLACE, MemoryRecords(data), check_crcs=False, max_bytes=1 << 20)
    try:
        while part:
            taken = part.take(7)
            if len(taken):
                block = block_of_chunks(TopicSet.of("t"), {PLACE: taken})
                assert len(list(block.values)) == len(block) and len(dict(block.headers)) <= len(block)
    except Unreadable as bad:
        assert bad.end > bad.begin


def artefact(data: bytes) -> None:
    try:
        check_signature(data, SecretStr("a key of some length"))
    except ArtefactError:
        pass
    else:
        raise AssertionError("a signature out of nothing")
    try:
        Artefact.load(data)
    except ArtefactError:
        return


def registry(data: bytes) -> None:
    key, _, value = data.partition(b"\xff\xfe")
    view = RegistryView("default")
    view.apply(block_of([value], [b"/".join([key.split(b"/")[0], b"default", *key.split(b"/")[1:]])]))
    view.history(), view.champion(), view.versions()


def arrow(data: bytes) -> None:
    _beside_a_good_one(data, b"arrow")


def avro(data: bytes) -> None:
    """A schema and a record, parted by the bytes ff fe."""
    text, _, body = data.partition(b"\xff\xfe")
    SCHEMAS.texts[1] = text
    DECODER._formats.pop("avro", None)  # it remembers schemas
    _beside_a_good_one(b"\0\0\0\0\1" + body, b"avro")


def _beside_a_good_one(value: bytes, kind: bytes) -> None:
    found = DECODER.decode(block_of([b"[1,2,3]", value], headers={1: [("content-type", kind)]}))
    assert {int(r) for r in found.record} | {reject.record for reject in found.rejects} == {0, 1}, value
    assert found.x[found.record == 0].tolist() == [[1, 2, 3]] and not np.isinf(found.x).any()


READERS = (json, record, batch, artefact, registry, arrow, avro)


def one(data: bytes) -> None:
    if data:
        READERS[data[0] % len(READERS)](data[1:])


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
