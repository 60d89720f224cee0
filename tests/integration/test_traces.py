"""Spans of a real worker at a collector that speaks OTLP."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.brokers import Broker
from tests.models import normal_rows
from tests.stage import Stage, encode
from worker.models import Artefact

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_spans_reach_a_collector(
    stage: Callable[..., Stage], broker: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    requests: list[ExportTraceServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            requests.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    s = stage(OFFNORMAL_TRACES="true").make_topics(1)
    s.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{server.server_address[1]}"
    s.publish(artefact)
    far = normal_rows(1, rng) + np.array([1e4, 0, 0, 0], np.float32)
    s.send(encode(normal_rows(20, rng), "json"))
    s.send(encode(far, "json"), headers=[[("traceparent", PARENT)]])
    worker = s.worker("--until-end")
    assert worker.wait() == 0, worker.errors
    server.shutdown()
    spans = [
        span
        for request in requests
        for each in request.resource_spans
        for scope in each.scope_spans
        for span in scope.spans
    ]
    assert {span.name for span in spans} == {f"process {s.topics.sensors}"}
    told = [{a.key: a.value.int_value or a.value.string_value for a in span.attributes} for span in spans]
    assert sum(each["offnormal.vectors"] for each in told) == 21
    assert {each["messaging.consumer.group.name"] for each in told} == {s.settings.kafka.group}
    assert any(link.span_id.hex() == "00f067aa0ba902b7" for span in spans for link in span.links)
    headers = [dict(record.headers) for record in s.read(s.topics.anomalies)]
    assert PARENT in [each["traceparent"] for each in headers]
    resource = {a.key: a.value.string_value for a in requests[0].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "offnormal-worker"
