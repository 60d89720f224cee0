"""OpenTelemetry spans, one for each batch of a model, where OFFNORMAL_TRACES asks for them.

The trace context of a record lies in its headers, as W3C defines it. Events pass it on whether there are spans or not.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

from worker.blocks import Headers, RecordBlock
from worker.settings import Settings

_PARENT: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_LONGEST_STATE: Final = 512  # bytes that W3C asks one to carry
_MOST_LINKS: Final = 32
_LAST_SPANS: Final = 2.0  # seconds
_NOTHING: Final = (b"0" * 32, b"0" * 16)


def context(headers: Headers) -> list[tuple[str, bytes | None]]:
    """Return the headers traceparent and tracestate; none where traceparent is missing or malformed."""
    by_name = {name.lower(): value for name, value in headers}
    parent, state = by_name.get("traceparent"), by_name.get("tracestate")
    match = _PARENT.fullmatch(parent or b"")
    if match is None or match[1] == _NOTHING[0] or match[2] == _NOTHING[1]:
        return []
    headers_out: list[tuple[str, bytes | None]] = [("traceparent", parent)]
    return [*headers_out, ("tracestate", state)] if state and len(state) <= _LONGEST_STATE else headers_out


class Span:
    """The span of one batch."""

    def __init__(self, span: Any):
        self._span = span

    @property
    def headers(self) -> Headers:
        """Return its trace context, for events whose record has none."""
        own = self._span.get_span_context()
        if not own.is_valid:  # OTEL_SDK_DISABLED
            return []
        return [("traceparent", b"00-%032x-%016x-%02x" % (own.trace_id, own.span_id, own.trace_flags))]

    def tell(self, records: RecordBlock, guilty: Sequence[int], **attributes: int | str) -> None:
        """Record what became of the batch, linked to the contexts of some of the records that became events."""
        from opentelemetry.trace import SpanContext, TraceFlags

        if not self._span.is_recording():
            return
        for name, value in attributes.items():
            self._span.set_attribute(f"offnormal.{name}", value)
        contexts = (context(records.headers[record]) for record in guilty if record in records.headers)
        for told_by, *_ in islice(filter(None, contexts), _MOST_LINKS):
            match = _PARENT.fullmatch(told_by[1] or b"")
            assert match is not None
            trace, span, flags = (int(part, 16) for part in match.groups())
            self._span.add_link(SpanContext(trace, span, is_remote=True, trace_flags=TraceFlags(flags)))


class Traces:
    """The exporter of spans, configured by the usual OTEL_ variables."""

    def __init__(self, settings: Settings):
        self._group = settings.kafka.group
        self._provider: Any = None
        self._tracer: Any = None
        if settings.traces:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            resource = Resource.create()  # by OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
            if str(resource.attributes["service.name"]).startswith("unknown_service"):
                resource = resource.merge(Resource({"service.name": "offnormal-worker"}))
            provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            self.export(provider, BatchSpanProcessor(OTLPSpanExporter()))

    def export(self, provider: Any, processor: Any) -> None:
        """Send the spans of this provider to the processor."""
        provider.add_span_processor(processor)
        self._provider, self._tracer = provider, provider.get_tracer("offnormal")

    @contextmanager
    def batch(self, records: RecordBlock, model: str) -> Iterator[Span | None]:
        """Open a span for a batch; None where there are no spans."""
        if self._tracer is None:
            yield None
            return
        from opentelemetry.trace import SpanKind

        attributes = {
            "messaging.system": "kafka",
            "messaging.operation.type": "process",
            "messaging.destination.name": str(records.topics),
            "messaging.consumer.group.name": self._group,
            "messaging.batch.message_count": len(records),
            "offnormal.model": model,
        }
        with self._tracer.start_as_current_span(
            f"process {records.topics}", kind=SpanKind.CONSUMER, attributes=attributes
        ) as span:
            yield Span(span)

    def close(self) -> None:
        """Wait a limited time for the remaining spans: an unavailable collector would delay the end for longer."""
        if self._provider is not None:
            last = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
            last.start()
            last.join(_LAST_SPANS)
