"""Trace contexts from records to events, and spans."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.models import make_artefact, normal_rows
from tests.record_blocks import block_of
from worker.kafka import Output
from worker.observability.tracing import Span, Traces, context
from worker.runtime.pipeline import Pipeline, ScoredBatch
from worker.serving.model_swap import ResidentModels
from worker.settings import DetectionSettings, InputSettings, Settings

SETTINGS = Settings(input=InputSettings(format="f32"), detection=DetectionSettings(false_alarm_rate=0.01), device="cpu")
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CONTEXT = [("traceparent", f"00-{TRACE}-{PARENT}-01".encode()), ("tracestate", b"rojo=1")]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    made = Pipeline.standalone(SETTINGS)
    made.serve(ResidentModels(SETTINGS).load(make_artefact(seed=0).dump()))
    return made


def score(pipeline: Pipeline, headers: dict[int, Any], span: Span | None = None) -> ScoredBatch:
    """Of ten records; the third and the seventh are far off."""
    x = normal_rows(10, np.random.default_rng(0))
    x[[3, 7], 0] += 1e4
    return pipeline.score(block_of([row.tobytes() for row in x], [b"m"] * 10, headers), span)


def events(scored: ScoredBatch) -> Sequence[Output]:
    (found,) = (each for each in scored.outputs if each.topic == SETTINGS.topics.anomalies)
    return list(found)


def test_an_event_has_the_context_of_its_record(pipeline: Pipeline) -> None:
    first, second = events(score(pipeline, {3: [("other", b"x"), *CONTEXT], 5: [("traceparent", b"no")]}))
    assert list(first.headers)[1:] == CONTEXT
    assert [name for name, _ in second.headers] == ["content-type"]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("traceparent", None)],
        [("traceparent", b"00-xyz")],
        [("traceparent", b"x" * 5000)],
        [("traceparent", b"ff" + CONTEXT[0][1][2:])],
        [("traceparent", b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01")],
        [("tracestate", b"rojo=1")],
    ],
)
def test_what_is_no_context_is_not_passed_on(pipeline: Pipeline, headers: Any) -> None:
    assert context(headers) == []
    assert [name for name, _ in events(score(pipeline, {3: headers}))[0].headers] == ["content-type"]


def test_a_state_that_is_too_long_stays_behind() -> None:
    assert context([CONTEXT[0], ("tracestate", b"x" * 513)]) == CONTEXT[:1]


def test_a_batch_is_a_span_linked_to_the_records_that_became_events(pipeline: Pipeline) -> None:
    exporter = InMemorySpanExporter()
    traces = Traces(SETTINGS)
    traces.export(TracerProvider(), SimpleSpanProcessor(exporter))
    records = block_of([b"x"])
    with traces.batch(records, "default") as span:
        first, second = events(score(pipeline, {3: CONTEXT, 4: CONTEXT}, span))
    (told,) = exporter.get_finished_spans()
    assert told.name == "process t" and told.attributes["messaging.consumer.group.name"] == "offnormal"
    assert (told.attributes["offnormal.vectors"], told.attributes["offnormal.events"]) == (10, 2)
    (link,) = told.links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == (TRACE, PARENT)
    assert list(first.headers)[1:] == CONTEXT
    own = f"00-{told.context.trace_id:032x}-{told.context.span_id:016x}-{told.context.trace_flags:02x}".encode()
    assert list(second.headers)[1:] == [("traceparent", own)]


def test_a_collector_that_is_away_does_not_hold_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    traces = Traces(SETTINGS.model_copy(update={"traces": True}))
    for _ in range(600):
        with traces.batch(block_of([b"x"]), "default"):
            pass
    began = time.monotonic()
    traces.close()
    assert time.monotonic() - began < 3


def test_without_the_setting_there_are_none() -> None:
    with Traces(SETTINGS).batch(block_of([b"x"]), "default") as span:
        assert span is None
