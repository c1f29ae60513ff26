"""What an integration tells and what the framework's own instrumentation sends of the same run are one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from guard_helper import STOP, framework
from running import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from running import Process

    Serve = Callable[[str], Process]


@contextmanager
def exporting(process: Process) -> Iterator[Any]:
    """A tracer provider whose spans all reach the service at the end."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    address = process.http if "://" in process.http else f"http://{process.http}"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{address}/v1/traces")))
    try:
        yield provider
    finally:
        provider.shutdown()


def told(process: Process) -> dict[str, int]:
    """Calls by kind over all runs, as the ledger counts them."""
    rows = process.get("/v1/report?by=kind")["rows"]
    return {row["kind"]: row["calls"] for row in rows if row["calls"]}


def runs_of(process: Process) -> set[str]:
    return {row["session"] for row in process.get("/v1/report?by=session")["rows"]}


def settled(process: Process) -> dict[str, int]:
    """Counts once the spans are in, too."""
    until(lambda: process.get("/v1/report?by=kind")["rows"])
    seen: list[dict[str, int]] = []

    def stands() -> bool:
        seen.append(told(process))
        return len(seen) > 20 and len({str(one) for one in seen[-20:]}) == 1

    until(stands, 60)
    return seen[-1]


@pytest.mark.slow
@pytest.mark.parametrize("outer", ["span", "thread", "nothing"])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_langchain_and_openinference(serve: Serve, way: str, outer: str) -> None:
    framework("langchain")
    framework("openinference")
    from openinference.instrumentation.langchain import LangChainInstrumentor
    from test_langchain import Agent

    process = serve(STOP)
    with exporting(process) as provider:
        instrumentor = LangChainInstrumentor()
        instrumentor.instrument(tracer_provider=provider)
        try:
            agent = Agent()
            if outer == "span":
                with provider.get_tracer("app").start_as_current_span("job"):
                    agent.run(way)
            else:
                agent.run(way, **({"configurable": {"thread_id": "thread-1"}} if outer == "thread" else {}))
        finally:
            instrumentor.uninstrument()
    assert len(agent.model.asked) == 3
    assert settled(process) == {"inference": 3, "tool": 3}
    assert len(runs_of(process)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("outer", ["span", "nothing"])
@pytest.mark.parametrize("way", ["async", "stream"])
def test_pydantic_ai_and_its_own_instrumentation(serve: Serve, way: str, outer: str) -> None:
    framework("pydantic_ai")
    from pydantic_ai.capabilities import Instrumentation
    from pydantic_ai.models.instrumented import InstrumentationSettings
    from test_pydantic_ai import Scripted

    process = serve(STOP)
    with exporting(process) as provider:
        agent = Scripted(more=[Instrumentation(InstrumentationSettings(tracer_provider=provider))])
        if outer == "span":
            with provider.get_tracer("app").start_as_current_span("job"):
                agent.run(way)
        else:
            agent.run(way)
    assert len(agent.stub.asked) == 3
    assert settled(process) == {"inference": 3, "tool": 3}
    assert len(runs_of(process)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("way", ["run", "stream"])
def test_openai_agents_and_openinference(serve: Serve, way: str) -> None:
    framework("agents")
    framework("openinference")
    from agents import set_trace_processors
    from openinference.instrumentation.openai_agents import OpenAIAgentsInstrumentor
    from test_openai_agents import Scripted

    process = serve(STOP)
    with exporting(process) as provider:
        instrumentor = OpenAIAgentsInstrumentor()
        set_trace_processors([])
        instrumentor.instrument(tracer_provider=provider)
        try:
            agent = Scripted()
            agent.run(way)
        finally:
            instrumentor.uninstrument()
            set_trace_processors([])
    assert len(agent.model.calls) == 3
    assert settled(process) == {"inference": 3, "tool": 3}
    assert len(runs_of(process)) == 1
