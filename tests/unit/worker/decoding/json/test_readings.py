"""The compiled loop over readings: what it gives is what ReadingDocuments gives."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tests.record_blocks import block_of
from worker.blocks import RecordBlock
from worker.blocks.reading_block import ReadingBlock
from worker.decoding.format import FeatureSchema
from worker.decoding.json.format import load
from worker.decoding.json.readings import JsonReadings
from worker.decoding.readings import ParsedReadings, ReadingDocuments

T = 1_795_888_000
TAGS = ("heat", "speed", "a", "heat.2")
ALONE = FeatureSchema(TAGS, "line", "t", tag_field="tag", value_field="v", quality_field="q")
NESTED = FeatureSchema(TAGS, "from.line", "from.t", tag_field="r.tag", value_field="r.v", quality_field="r.q")
MANY = FeatureSchema(TAGS, "line", "m[].t", tag_field="m[].tag", value_field="m[].v", quality_field="m[].q")
OUTER = FeatureSchema(TAGS, "m[].line", "from.t", tag_field="m[].tag", value_field="m[].v")
LIST = FeatureSchema(TAGS, "[].line", "[].t", tag_field="[].tag", value_field="[].v", quality_field="[].q")

iso = st.datetimes(datetime(1985, 1, 1), datetime(2105, 1, 1)).flatmap(
    lambda moment: st.sampled_from(
        [
            moment.isoformat(),
            moment.isoformat() + "Z",
            moment.replace(microsecond=0).isoformat(" "),
            moment.isoformat(timespec="milliseconds") + "+02:30",
            moment.replace(tzinfo=UTC).isoformat(),
            moment.isoformat(timespec="minutes"),
            moment.date().isoformat(),
        ]
    )
)


def mostly(usual: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw what the loop reads in nine of ten cases: else it would refuse nearly all records."""
    return st.integers(0, 9).flatmap(lambda k: odd if k == 0 else usual)


times = mostly(
    st.one_of(st.integers(T, T + 9), st.just(T * 1000 + 5), st.just(T * 10**9), st.just(T + 0.25), st.none(), iso),
    st.sampled_from(["2026-02-29T10:00:00Z", "2026-13-01T10:00:00", "2026-01-01T24:00:00", "2026-01-01T1:00:00Z"])
    | st.integers(-5, 10**19),
)
numbers = st.one_of(
    st.floats(-1e3, 1e3).map(lambda x: round(x, 3)),
    st.floats(-1e30, 1e30),
    st.integers(-(10**6), 10**6),
    st.none(),
)
values = mostly(
    numbers, st.floats(allow_infinity=False) | st.sampled_from(["7", True, False, [1], float("nan"), -0.0, 1e39])
)
qualities = mostly(
    st.sampled_from(["Good", "good_local", "BAD", "", "true", "tru", None, True, False, 0, 192, 255, 256, 192.5]),
    st.sampled_from(["x" * 9, "g\u00f6\u00f6d", "goo", {"Symbol": "Good"}, ["Good"]]),
)
tags = mostly(
    st.sampled_from([*TAGS, "other", "hea", "heat.", ""]), st.sampled_from(["h\u00e9at", 'q"', 5, None, "heat\\"])
)
lines = mostly(st.sampled_from(["A", "B2"]), st.sampled_from(["\u00e9", 7, None, "x" * 2000]))


def document(draw: st.DrawFn, schema: FeatureSchema) -> Any:
    def reading() -> dict[str, Any]:
        return {"tag": draw(tags), "x": draw(st.sampled_from([1, "s", None, True])), "v": draw(values)}

    def element(**more: Any) -> dict[str, Any]:
        return reading() | {"q": draw(qualities), "t": draw(times)} | more

    if schema is ALONE:
        return element(line=draw(lines))
    if schema is NESTED:
        return {"from": {"line": draw(lines), "t": draw(times)}, "r": reading() | {"q": draw(qualities)}, "n": [1, {}]}
    size = draw(mostly(st.integers(1, 4), st.just(0)))
    if schema is MANY:
        return {"line": draw(lines), "m": [element() for _ in range(size)], "end": {"n": draw(st.integers(0, 9))}}
    same = draw(lines)
    named = [{**reading(), "line": same if draw(st.integers(0, 9)) else draw(lines)} for _ in range(size)]
    if schema is OUTER:
        return {"m": named, "from": {"t": draw(times)}}
    return [element(line=same) for _ in range(size)]


@st.composite
def streams(draw: st.DrawFn) -> tuple[FeatureSchema, list[bytes]]:
    schema = draw(st.sampled_from([ALONE, NESTED, MANY, OUTER, LIST]))
    separators = draw(st.sampled_from([None, (",", ":")]))
    texts = []
    for _ in range(draw(st.integers(1, 12))):
        text = json.dumps(document(draw, schema), separators=separators, ensure_ascii=draw(st.booleans())).encode()
        cut = draw(st.integers(0, 30))
        if cut == 0:
            text = text[: draw(st.integers(0, len(text)))]
        elif cut == 1:
            text = b" " + text + b" \n"
        elif cut == 2:
            at = draw(st.integers(0, max(len(text) - 1, 0)))
            text = text[:at] + bytes([draw(st.integers(0, 255))]) + text[at + 1 :]
        texts.append(text)
    return schema, texts


def read(format: Any, records: RecordBlock) -> ReadingBlock:
    parsed = ParsedReadings([])
    format.decode(records.values, np.arange(len(records)), parsed)
    return parsed.block(records, {}, 0)


def told(block: ReadingBlock) -> Any:
    bits = block.value.view(np.uint32).tolist()
    values = ["nan" if np.isnan(value) else bit for value, bit in zip(block.value, bits, strict=True)]
    readings = list(zip(block.record.tolist(), block.column.tolist(), values, block.time.tolist(), strict=True))
    return readings, [(r.record, r.reason) for r in block.rejects], block.entities, block.timed


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_the_loop_gives_what_documents_give(data: st.DataObject) -> None:
    schema, texts = data.draw(streams())
    loop = JsonReadings(schema)
    by_documents = ReadingDocuments(schema, lambda value: load(bytes(value))[0])
    for records in (block_of(texts), block_of(texts[::-1])):
        assert told(read(loop, records)) == told(read(by_documents, records))


@pytest.mark.parametrize("schema", [ALONE, NESTED, MANY, OUTER, LIST], ids=["alone", "nested", "many", "outer", "list"])
def test_usual_readings_are_read_by_the_loop(schema: FeatureSchema) -> None:
    def of(k: int) -> Any:
        time = (datetime.fromtimestamp(T, UTC) + timedelta(milliseconds=k)).isoformat(timespec="milliseconds")
        reading = {"tag": "speed", "v": k / 7, "q": "Good", "t": time, "line": "A"}
        if schema is ALONE:
            return reading
        if schema is NESTED:
            return {"from": {"line": "A", "t": time}, "r": reading}
        if schema is LIST:
            return [reading] * 3
        return {"line": "A", "m": [reading] * 3, "from": {"t": time}}

    loop = JsonReadings(schema)
    records = block_of([json.dumps(of(k)).encode() for k in range(50)])
    read(loop, records)
    loop._documents = None  # type: ignore[assignment]
    block = read(loop, records)
    assert len(block) == (50 if schema in (ALONE, NESTED) else 150)
    assert block.time[-1] == T * 1000 + 49
    assert set(block.column.tolist()) == {1}
    assert not np.isnan(block.value).any()
