"""Usage metrics: what every client's token counters have in common, and how each names the parts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from otel_cost.core.model.attributes import text
from otel_cost.core.model.measure import Measure, Sender
from otel_cost.core.model.vocabulary import Basis, Kind
from otel_cost.core.normalise._read import reported_nano, who_of
from otel_cost.core.normalise._usage import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from otel_cost.core.model.event import MetricPoint, Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """How one client counts tokens: `parts` maps the value of its type attribute to a field of `Counts`."""

    dialect: str
    name: str
    type_key: str
    parts: Mapping[str, str]
    cost: str = ""  # its own idea of the cost, in USD
    basis: Basis = Basis.INCLUSIVE
    reasoning_outside: bool = False
    provider: str | None = None

    def read(self, point: MetricPoint) -> Measure | None:
        """What a data point of this client counts; None for any other metric of it."""
        attributes = point.attributes
        if point.name == self.name:
            part = self.parts.get(text(attributes, self.type_key) or "")
            amount = whole(point.value)
        elif self.cost and point.name == self.cost:
            part, amount = "cost", reported_nano(point.value)
        else:
            return None
        if part is None or amount is None or amount < 0:
            return None
        return Measure(
            dialect=self.dialect,
            scope=point.scope.name,
            line=self.name,
            part=part,
            amount=amount,
            session=text(attributes, "session.id", "gen_ai.conversation.id", "conversation.id")
            or text(point.resource.attributes, "session.id"),
            provider=text(attributes, "gen_ai.provider.name") or self.provider,
            requested_model=text(attributes, "model", "gen_ai.request.model"),
            agent=text(attributes, "agent.name", "gen_ai.agent.name"),
            who=who_of(attributes, point.resource),
            basis=self.basis,
            reasoning_outside=self.reasoning_outside,
        )


def of_conventions(point: MetricPoint) -> Measure | None:
    """GenAI conventions: the counters of the new line, and the histogram that most libraries still write.

    The histogram tells input and output and no cached part, so what it comes to is not known in full.
    """
    attributes = point.attributes
    if point.name == _HISTOGRAM:
        part, rank, line = _TYPES.get(text(attributes, "gen_ai.token.type") or ""), 2, _HISTOGRAM
    else:
        part, rank, line = _COUNTERS.get(point.name), 1, _LINE
    operation = text(attributes, "gen_ai.operation.name") or "chat"
    amount = whole(point.value)
    if part is None or amount is None or amount < 0 or operation in _NO_CALLS:
        return None
    return Measure(
        dialect="semconv",
        scope=point.scope.name,
        line=line,
        part=part,
        amount=amount,
        rank=rank,
        session=text(attributes, "gen_ai.conversation.id", "session.id"),
        kind=Kind.EMBEDDING if operation in {"embeddings", "embedding"} else Kind.INFERENCE,
        operation=operation,
        provider=text(attributes, "gen_ai.provider.name", "gen_ai.system"),
        requested_model=text(attributes, "gen_ai.request.model"),
        response_model=text(attributes, "gen_ai.response.model"),
        agent=text(attributes, "gen_ai.agent.name"),
        service_tier=text(attributes, "openai.response.service_tier", "gen_ai.openai.response.service_tier"),
        who=who_of(attributes, point.resource),
        incomplete=rank == 2 and operation != "embeddings",
    )


_NO_CALLS: Final = frozenset({"create_agent", "execute_tool", "invoke_agent", "invoke_workflow"})
_HISTOGRAM: Final = "gen_ai.client.token.usage"
_TYPES: Final = {"input": "input", "output": "output", "completion": "output"}
_LINE: Final = "gen_ai.client.inference.usage"
_COUNTERS: Final = {
    f"{_LINE}.input_tokens": "input",
    f"{_LINE}.output_tokens": "output",
    f"{_LINE}.cache_read.input_tokens": "cache_read",
    f"{_LINE}.cache_write.input_tokens": "cache_write",
    f"{_LINE}.cache_creation.input_tokens": "cache_write",
    f"{_LINE}.reasoning.output_tokens": "reasoning",
}


def gemini_counter(dialect: str, prefix: str, *, reasoning_outside: bool) -> Callable[[MetricPoint], Measure | None]:
    """The counter of Gemini CLI and its forks. What tools put into a prompt is outside Gemini's input count."""
    parts = {"input": "input", "output": "output", "thought": "reasoning", "cache": "cache_read"}
    if reasoning_outside:
        parts["tool"] = "tool_input"
    counter = Counter(
        dialect=dialect,
        name=f"{prefix}token.usage",
        type_key="type",
        parts=parts,
        reasoning_outside=reasoning_outside,
        provider="gcp.gemini" if reasoning_outside else None,
    )
    return counter.read


@lru_cache(maxsize=512)
def sender_of(resource: Resource) -> Sender:
    """Which process sent it, as far as its resource tells; empty where it names no service."""
    attributes = resource.attributes
    service = text(attributes, "service.name")
    if service is None:
        return ()
    pid = attributes.get("process.pid")
    instance, host = text(attributes, "service.instance.id"), text(attributes, "host.name")
    return service, instance or "", host or "", "" if pid is None else str(pid)
