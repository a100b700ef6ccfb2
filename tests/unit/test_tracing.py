"""Spans reach a real collector, whole and harmless; while tracing is off there is nothing at all."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from mizzen import settings, tracing

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
Trace = Callable[..., Any]


def test_off_every_span_is_the_same_that_does_nothing(collector: Any) -> None:
    assert not tracing.start(role="test")
    with tracing.span("work", step=1) as span:
        span.set(more=2)
        span.event("now")
        assert span is tracing.part("other") is tracing.begin("third", {}) is tracing.current()
        assert span is tracing.NOTHING
    assert tracing.context() is None
    assert tracing.received([(b"traceparent", CALLER.encode())]) is None
    tracing.flush()
    tracing.stop()
    assert collector.num_requests == 0


def test_off_nothing_of_opentelemetry_is_imported() -> None:
    code = (
        "import sys; from mizzen import tracing, logs, client; import mizzen.training.loop, mizzen.store;"
        "assert not tracing.start();"
        "print([name for name in sys.modules if name.startswith('opentelemetry')]);"
        # FastAPI imports the interface by itself, if it is there.
        "import mizzen.serving.http;"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.ex'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]


def test_spans_lie_below_each_other_and_have_our_names(trace: Trace) -> None:
    collected = trace()
    with tracing.span("run", train_job="shop", workers=2) as run:
        with tracing.part("prepare", **{"http.route": "/x"}):
            pass
        assert tracing.current().trace_id == run.trace_id
    tracing.stop()
    outer, inner = collected.one("run"), collected.one("prepare")
    assert inner.parent_id == outer.span_id
    assert inner.trace_id == outer.trace_id == run.trace_id
    assert not outer.parent_id
    assert outer.attributes == {"mizzen.train_job": "shop", "mizzen.workers": 2}
    assert inner.attributes == {"http.route": "/x"}
    assert outer.start_ns <= inner.start_ns <= inner.end_ns <= outer.end_ns
    assert collected.resource["service.name"] == "mizzen"
    assert collected.resource["mizzen.role"] == "test"


def test_the_sdks_own_variables_hold(trace: Trace) -> None:
    collected = trace(OTEL_SERVICE_NAME="shop", OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test")
    with tracing.span("work"):
        pass
    tracing.stop()
    assert collected.resource["service.name"] == "shop"
    assert collected.resource["deployment.environment.name"] == "test"


def test_what_the_sampler_leaves_out_is_not_sent_with_all_that_lies_below(trace: Trace) -> None:
    collected = trace(OTEL_TRACES_SAMPLER="always_off")
    with tracing.span("work") as span:
        assert not span.recording
        assert span.trace_id  # log lines have it all the same
        assert tracing.context() is None
        assert tracing.part("part") is tracing.NOTHING
        with tracing.span("inner"):
            pass
    tracing.stop()
    assert collected.num_requests == 0


def test_a_part_begins_no_trace_of_its_own(trace: Trace) -> None:
    collected = trace()
    assert tracing.part("store read") is tracing.NOTHING
    tracing.stop()
    assert collected.spans == []


def test_an_exception_is_told_by_its_type_alone(trace: Trace) -> None:
    collected = trace()
    with pytest.raises(ValueError, match="the user's prompt"), tracing.span("work"):
        raise ValueError("the user's prompt")
    with pytest.raises(KeyboardInterrupt), tracing.span("stopped"):
        raise KeyboardInterrupt
    tracing.stop()
    failed, stopped = collected.one("work"), collected.one("stopped")
    assert failed.failed
    assert failed.attributes == {"error.type": "ValueError"}
    assert not stopped.failed
    assert not any(b"prompt" in body for body in collected.raw)


def test_a_span_of_another_process_is_the_parent(trace: Trace) -> None:
    collected = trace()
    with tracing.below(CALLER), tracing.span("run"):
        handed_on = tracing.handed_on()
    tracing.stop()
    run = collected.one("run")
    assert run.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert run.parent_id == "00f067aa0ba902b7"
    assert handed_on == f"00-{run.trace_id}-{run.span_id}-01"


@pytest.mark.parametrize(
    "header", ["", "nonsense", CALLER.upper(), f"00-{'0' * 32}-00f067aa0ba902b7-01", None]
)
def test_a_malformed_parent_is_as_none(trace: Trace, header: str | None) -> None:
    collected = trace()
    with tracing.below(header), tracing.span("run"):
        pass
    tracing.stop()
    assert not collected.one("run").parent_id


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (CALLER, "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("01-" + CALLER[3:] + "-what-comes-later", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("ff-" + CALLER[3:], ""),
        (CALLER[:-1], ""),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", ""),
        (f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01", ""),
        ('"}\n{"', ""),
    ],
)
def test_log_lines_have_the_callers_trace_also_while_tracing_is_off(header: str, found: str) -> None:
    headers = [(b"host", b"x"), (b"traceparent", header.encode())]
    assert tracing.trace_id_in(headers) == found
    assert tracing.trace_id_in(headers[:1]) == ""


def test_a_job_gets_what_this_process_was_handed_also_while_tracing_is_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for given, handed_on in [(CALLER, CALLER), ("$(rm -rf /)", ""), ("", "")]:
        monkeypatch.setenv("TRACEPARENT", given)
        settings.current.cache_clear()
        assert tracing.handed_on() == handed_on
    settings.current.cache_clear()


def test_a_collector_that_refuses_is_told_once_and_in_one_line(
    trace: Trace, caplog: pytest.LogCaptureFixture
) -> None:
    collected = trace(OTEL_BSP_MAX_EXPORT_BATCH_SIZE="1")
    collected.status = 400
    for _ in range(3):
        with tracing.span("work"):
            pass
    tracing.stop()
    assert collected.num_requests == 3
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert "1 lost" in line.getMessage()


def test_a_collector_that_is_not_there_costs_the_end_of_a_process_no_more_than_its_time(trace: Trace) -> None:
    trace(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    started = time.monotonic()
    with tracing.span("work"):
        pass
    assert time.monotonic() - started < 0.1
    tracing.stop(timeout_s=0.2)
    assert time.monotonic() - started < 2
    assert not tracing.on()
