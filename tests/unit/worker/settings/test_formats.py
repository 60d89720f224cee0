"""The catalogue of formats: whatever is in it can be read, written and described."""

import sys
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest

from tests.models import make_artefact, normal_rows
from tests.record_blocks import block_of
from worker.blocks import BytesColumn
from worker.decoding import Decoder
from worker.decoding.format import FeatureSchema, Format, Parsed
from worker.native.arrays import Int64s
from worker.publishing import asyncapi
from worker.publishing.encoder import EventEncoder
from worker.publishing.vector_values import VectorRows
from worker.runtime.pipeline import per_vector
from worker.serving.model_swap import ResidentModels
from worker.settings import InputSettings, PerVectorOutput, Settings
from worker.settings.formats import FORMATS, FormatName, FormatSpec, OutputFormatName, format_of


class Csv:
    """A format that the product does not have: one row a record, readings separated by commas."""

    @classmethod
    def of(cls, schema: FeatureSchema) -> Format:
        return cls()

    def decode(self, values: BytesColumn, records: Int64s) -> list[Parsed]:
        x = np.array([[float(reading) for reading in bytes(values.view(int(r))).split(b",")] for r in records])
        return [Parsed(records, np.ones(len(records), np.int64), x.astype(np.float32), [])]

    def document(self, value: memoryview) -> Any:
        return bytes(value).decode().split(",")


def write_csv(rows: VectorRows) -> BytesColumn:
    return BytesColumn.of([",".join(f"{value:g}" for value in row).encode() for row in rows.values])


@pytest.fixture
def csv(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("plant_csv")
    module.Csv, module.write_csv = Csv, write_csv  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "plant_csv", module)
    spec = FormatSpec(
        content_types=("text/csv",),
        reader="plant_csv:Csv",
        writer="plant_csv:write_csv",
        label="Csv",
        title="CSV",
        media_type="text/csv",
    )
    monkeypatch.setitem(FORMATS, "csv", spec)


def settings_of(format: str, **more: Any) -> Settings:
    """As if `format` was one of FormatName."""
    settings = Settings(device="cpu", **more)
    return settings.model_copy(update={"input": settings.input.model_copy(update={"format": format})})


def test_a_new_format_is_read_written_and_described_by_its_entry_alone(csv: None) -> None:
    outputs: tuple[PerVectorOutput, ...] = ("scores", "latents", "reconstructions")
    settings = settings_of("csv", outputs=outputs)
    resident = ResidentModels(settings).load(make_artefact(1).dump())
    x = normal_rows(5, np.random.default_rng(0))
    records = block_of([",".join(map(str, row)).encode() for row in x.tolist()])
    block = Decoder(settings.input, resident.features).decode(records)
    assert (block.x == x).all()
    assert not block.rejects
    scores = resident.score(block.x)
    for output in outputs:
        values = per_vector(output, resident, block.x, scores)
        written = EventEncoder(settings).vectors(output, scores, values, block, resident)
        for record, row in zip(written, values, strict=True):
            assert record.value == ",".join(f"{value:g}" for value in row).encode()
            assert ("content-type", b"text/csv") in record.headers
    messages = asyncapi.document(settings)["components"]["messages"]
    assert messages["vectorsAsCsv"]["contentType"] == "text/csv"
    assert messages["score"]["contentType"] == "text/csv"


def test_a_content_type_means_one_format(csv: None) -> None:
    types = [content_type for spec in FORMATS.values() for content_type in spec.content_types]
    assert len(types) == len(set(types))
    assert format_of("text/csv") == "csv"
    assert format_of("text/plain") is None


def test_the_names_of_formats_are_said_once() -> None:
    assert set(get_args(FormatName)) == set(FORMATS)
    assert set(get_args(OutputFormatName)) == {
        "input",
        *(name for name, spec in FORMATS.items() if spec.writer is not None),
    }
    assert set(get_args(InputSettings.model_fields["format"].annotation)) == set(FORMATS)
