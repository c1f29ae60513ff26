"""One backend is away: the other gets everything, nobody is refused, and the first gets it all when it is back."""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from backends import OverGrpc, OverHttp

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

from kill_loop import EXPORT, span_ids
from load import export_requests
from running import until

from otel_cost.edge.books import check_books
from ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable

    from running import Process


@pytest.mark.slow
def test_a_backend_that_is_down_hurts_nobody_else(
    serve: Callable[..., Process], backends: tuple[OverGrpc, OverHttp]
) -> None:
    well, _ = backends
    port = free_ports(1)[0]
    queue = "{sizer: items, queue_size: 1000}"
    config = f"""
exporters:
  otlp_grpc/well: {{endpoint: "127.0.0.1:{well.port}", tls: {{insecure: true}}}}
  otlp_http/away:
    endpoint: "http://127.0.0.1:{port}"
    sending_queue: {queue}
    retry_on_failure: {{initial_interval: 100ms, max_interval: 500ms}}
engine: {{settle: 200ms}}
"""
    service = serve(config)
    bodies = export_requests(12_000, 200)
    with grpc.insecure_channel(service.grpc) as channel:
        export = channel.unary_unary(EXPORT, None, None)
        for body in bodies:
            export(body, timeout=10)  # never refused
    sent = span_ids(bodies)
    until(lambda: {span.span_id for span in well.spans()} == sent)
    assert service.get("/readyz")["ready"]
    until(lambda: 'breaker_open{exporter="otlp_http/away"} 1.0' in service.get("/metrics"))
    assert check_books(service.get("/metrics")) == []
    # Stopped and started again while it is still away; then it comes back.
    assert service.stop() == 0
    service = serve(config)
    back = OverHttp(port)
    until(lambda: {span.span_id for span in back.spans()} == sent)
    until(lambda: check_books(service.get("/metrics"), at_rest=True) == [])
    assert len(back.spans()) == len(sent)
    assert len(well.spans()) == len(sent)
    assert service.stop() == 0
    back.stop()


def test_the_books_balance_whatever_was_sent(
    serve: Callable[..., Process], backends: tuple[OverGrpc, OverHttp]
) -> None:
    one, other = backends
    service = serve(
        f"""
exporters:
  otlp_grpc/one: {{endpoint: "127.0.0.1:{one.port}", tls: {{insecure: true}}}}
  langsmith: {{api_key: k, endpoint: "http://127.0.0.1:{other.port}"}}
engine: {{settle: 200ms}}
"""
    )
    bodies = export_requests(500, 50)
    with grpc.insecure_channel(service.grpc) as channel:
        export = channel.unary_unary(EXPORT, None, None)
        for body in [*bodies, bodies[0], b""]:  # a resend, an empty one
            export(body, timeout=10)
        with pytest.raises(grpc.RpcError):
            export(b"\xff\xff\xff", timeout=10)
    bad = (
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"00","spanId":"01"},'
        b'{"traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"0102030405060708","name":"ok"}]}]}]}'
    )
    for path, body in (
        ("traces", bad),
        ("logs", b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"x"}}]}]}]}'),
    ):
        request = urllib.request.Request(
            f"http://{service.http}/v1/{path}", body, {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200
    until(lambda: check_books(service.get("/metrics"), at_rest=True) == [])
    scrape = service.get("/metrics")
    assert "otel_cost_duplicate_spans_total 50.0" in scrape
    assert 'otel_cost_rejected_spans_total{reason="invalid_trace_id"} 1.0' in scrape
    # A book that is cooked is found.
    for true, cooked in (
        ("duplicate_spans_total 50.0", "duplicate_spans_total 49.0"),
        ("exporter_sent_spans_total", "exporter_lost_spans_total"),
        ('rejected_spans_total{reason="invalid_trace_id"} 1.0', 'rejected_spans_total{reason="invalid_trace_id"} 0.0'),
    ):
        assert true in scrape
        assert check_books(scrape.replace(true, cooked), at_rest=True), true
