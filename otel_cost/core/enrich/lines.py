"""Lines: calls, traces and runs in the words of contract section 2.2: ids in hex, money as decimal strings or null."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_cost.core.model.money import nano_to_text

if TYPE_CHECKING:
    from otel_cost.core.model.call import Call
    from otel_cost.core.model.outcome import Outcome
    from otel_cost.core.model.run import ClosedRun, RunSummary, TraceSummary
    from otel_cost.core.model.usage import Usage

Line = dict[str, object]


def closed_lines(run: ClosedRun) -> list[Line]:
    """Everything to be said about a run when it closes: its calls, its traces, itself."""
    return [
        *(call_line(call, run.summary) for call in run.calls),
        *({**trace_line(trace), **verdict_words(run.summary)} for trace in run.traces),
        run_line(run.summary),
    ]


def call_line(call: Call, run: RunSummary) -> Line:
    """One call that counts."""
    step, charge = call.step, call.charge
    return {
        "type": "call",
        "run_id": run.run_id,
        "tenant": run.tenant,
        "trace_id": step.trace_id.hex() or None,
        "span_id": step.span_id.hex() or None,
        "kind": call.kind,
        "operation": step.operation,
        "provider": step.provider,
        "model": step.model,
        "requested_model": step.requested_model,
        "response_model": step.response_model,
        "tool": step.tool,
        "start_time": rfc3339(step.start_ns),
        "session": step.session or run.session,
        "agent": call.agent,
        "attempts": call.attempts,
        "status": charge.status,
        "reason": charge.reason,
        "cost_usd": usd(charge.nano),
        "reported_usd": usd(step.reported_nano),
        "usage": usage_map(charge.usage or step.usage),
        "basis": charge.basis,
        "flags": sorted(call.flags),
        "sources": list(call.sources),
    }


def trace_line(trace: TraceSummary) -> Line:
    """One trace that has calls."""
    return {
        "type": "trace",
        "run_id": trace.run_id,
        "tenant": trace.tenant,
        "trace_id": trace.trace_id.hex(),
        "cost_usd": usd(trace.nano),
        "llm_calls": trace.llm_calls,
        "tool_calls": trace.tool_calls,
        "errors": trace.errors,
    }


def run_line(run: RunSummary) -> Line:
    """One run. `complete` false: the cost is a floor."""
    return {
        "type": "run",
        "run_id": run.run_id,
        "tenant": run.tenant,
        "trace_ids": [trace_id.hex() for trace_id in run.trace_ids],
        "cost_usd": usd(run.nano),
        "complete": run.complete,
        "unpriced_calls": run.unpriced_calls,
        "llm_calls": run.llm_calls,
        "tool_calls": run.tool_calls,
        "errors": run.errors,
        "agents": list(run.agents),
        "workflow": run.who.get("workflow"),
        "user": run.who.get("user"),
        "team": run.who.get("team"),
        "session": run.session,
        "wasted_usd": usd(run.wasted_nano),
        **verdict_words(run),
        "outcomes": [outcome_map(one) for one in run.outcomes],
        "model_route": [{"model": leg.model, "calls": leg.calls, "cost_usd": usd(leg.nano)} for leg in run.model_route],
    }


def verdict_words(run: RunSummary) -> Line:
    """Was it worth its money, and why; one verdict for a run and its traces."""
    return {"outcome": run.outcome, "verdict": run.verdict, "verdict_why": run.verdict_why}


def outcome_map(one: Outcome) -> Line:
    """One piece of news about finished work."""
    return {
        "id": one.id,
        "name": one.name,
        "value": one.value,
        "source": one.source,
        "at": rfc3339(one.at_ns),
        "subject": one.subject,
        "label": one.label,
        "score": one.score,
        "url": one.url,
    }


def usage_map(usage: Usage | None) -> Line | None:
    """Canonical, inclusive counts; null inside: the sender never tells."""
    if usage is None:
        return None
    return {
        "input": usage.input,
        "cache_read": usage.cache_read,
        "cache_write": usage.cache_write,
        "output": usage.output,
        "reasoning": usage.reasoning,
    }


def usd(nano: int | None) -> str | None:
    """Decimal string of USD, or None where no price is known."""
    return None if nano is None else nano_to_text(nano)


def rfc3339(ns: int) -> str:
    """UTC instant with nanoseconds, without a float in between."""
    seconds, rest = divmod(ns, 10**9)
    days, second = divmod(seconds, 86_400)
    year, month, day = _civil(days)
    clock = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
    return f"{year:04d}-{month:02d}-{day:02d}T{clock}.{rest:09d}Z"


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month, day of a day number since 1970-01-01, for the whole range of 64-bit nanoseconds."""
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of_era + era * 400 + (month <= 2)
    return year, month, day_of_year - (153 * shifted + 2) // 5 + 1
