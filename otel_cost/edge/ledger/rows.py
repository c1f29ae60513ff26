"""Rows: what a ledger keeps, as tuples in the order of its tables' columns, whichever store they go to.

What a call says besides its numbers repeats a lot, so it is kept once as a facet;
the prices it was charged by likewise, as rates. A call's row is then narrow: ids,
times, tokens and nano-dollars.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otel_cost.core.assemble.meter import HOUR_NS
from otel_cost.core.enrich.lines import rfc3339, trace_line, usd
from otel_cost.core.enrich.records import alert_json, correction_json
from otel_cost.core.model.charge import shares_of
from otel_cost.core.model.money import Rate, exact_text, usd_to_nano
from otel_cost.core.model.outcome import UNJUDGED, Verdict
from otel_cost.core.model.vocabulary import MODEL_KINDS, Flag, Kind, Reason, Status
from otel_cost.core.outcomes import outcome_json
from otel_cost.edge.clock import now_ns
from otel_cost.edge.ledger import names_of
from otel_cost.edge.ledger.story import told_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from otel_cost.core.model.call import Call
    from otel_cost.core.model.run import ClosedRun
    from otel_cost.edge.ledger import Batch, Row

_HALF: Final = re.compile(r"\\ud[89ab][0-9a-f]{2}(?!\\ud[c-f])|(?<!\\ud[89ab][0-9a-f]{2})\\ud[c-f][0-9a-f]{2}")

WHO: Final = ("org", "team", "user", "api_key", "project", "workflow")
MOST: Final = 2**63 - 1  # what a BIGINT holds
TEXT, INT, BLOB, BOOL = "text", "int8", "bytea", "bool"
_TELLER_HOURS: Final = 48

Values = tuple[object, ...]


class Shape(NamedTuple):
    """How rows of one table travel: column names and types, in the order of the row tuples; the key among them."""

    table: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    key: tuple[str, ...]


def as_json(value: object, *, sort_keys: bool = False) -> str:
    """A line. Half a surrogate pair, which no database takes for JSON, becomes a replacement character."""
    text = json.dumps(value, sort_keys=sort_keys)
    return _HALF.sub(r"\\ufffd", text) if "\\ud" in text else text


def shape(table: str, *key: str, **columns: str) -> Shape:
    """A shape from its columns and their types."""
    return Shape(table, tuple(columns), tuple(columns.values()), key)


FACETS: Final = shape(
    "facets", id=INT, tenant=TEXT, kind=TEXT, operation=TEXT, provider=TEXT, model=TEXT, requested_model=TEXT,
    response_model=TEXT, agent=TEXT, tool=TEXT, org=TEXT, team=TEXT, user=TEXT, api_key=TEXT, project=TEXT,
    workflow=TEXT, attrs=TEXT, status=TEXT, reason=TEXT, basis=TEXT, flags=TEXT, sources=TEXT,
    price_book=TEXT, hole=BOOL, incomplete=BOOL,
)  # fmt: skip
RATES: Final = shape("rates", id=INT, unit=TEXT, part=TEXT, femto=TEXT, per=TEXT, source=TEXT, valid_from=TEXT)
CALLS: Final = shape(
    "call_rows", "id", id=TEXT, facet=INT, run_id=TEXT, trace_id=BLOB, span_id=BLOB, session=TEXT, start_ns=INT,
    end_ns=INT, attempts=INT, failed=BOOL, nano=INT, reported_nano=INT, input=INT, cache_read=INT,
    cache_write=INT, output=INT, reasoning=INT, items=TEXT,
)  # fmt: skip
RUNS: Final = shape(
    "runs", "tenant", "run_id", tenant=TEXT, run_id=TEXT, start_ns=INT, end_ns=INT, nano=INT, wasted_nano=INT,
    session=TEXT, org=TEXT, team=TEXT, user=TEXT, api_key=TEXT, project=TEXT, workflow=TEXT, line=TEXT,
)  # fmt: skip
KEYS: Final = shape("run_keys", "tenant", "key", tenant=TEXT, key=TEXT, run_id=TEXT)
SNAPSHOTS: Final = shape("snapshots", "tenant", "run_id", tenant=TEXT, run_id=TEXT, snapshot=BLOB)
TRACES: Final = shape("traces", "tenant", "trace_id", tenant=TEXT, trace_id=TEXT, run_id=TEXT, nano=INT, line=TEXT)
ALERTS: Final = shape(
    "alerts", "tenant", "id", id=TEXT, tenant=TEXT, run_id=TEXT, trace_id=BLOB, at_ns=INT, episode=TEXT, resolved=BOOL,
    wasted_nano=INT, span_ids=TEXT, onset=TEXT, line=TEXT,
)  # fmt: skip
CORRECTIONS: Final = shape("corrections", "id", id=TEXT, tenant=TEXT, run_id=TEXT, trace_id=BLOB, at_ns=INT, line=TEXT)
OUTCOMES: Final = shape("outcomes", "tenant", "id", tenant=TEXT, id=TEXT, name=TEXT, value=TEXT, at_ns=INT, line=TEXT)
OUTCOME_KEYS: Final = shape("outcome_keys", "tenant", "key", "id", tenant=TEXT, key=TEXT, id=TEXT)
RUN_JOINS: Final = shape("run_joins", "tenant", "key", "run_id", tenant=TEXT, key=TEXT, run_id=TEXT)
TELLERS: Final = shape("tellers", "tenant", "sender", "hour", tenant=TEXT, sender=TEXT, hour=INT, in_session=BOOL)


class Numbers:
    """Numbers for values that repeat; new ones are kept only once their rows are committed.

    `known`: numbers of before; `free`: numbers that nothing has.
    """

    _FULL: Final = 200_000  # then start over: a value that is numbered twice costs a row, nothing else

    def __init__(self, known: dict[Values, int], free: Iterator[int]) -> None:
        self._known, self._free = known, free
        self._new: dict[Values, int] = {}
        self.rows: list[Values] = []

    def number(self, key: Values, row: Callable[..., Values]) -> int:
        found = self._known.get(key) or self._new.get(key)
        if found is None:
            found = self._new[key] = next(self._free)
            self.rows.append((found, *row(*key)))
        return found

    def keep(self) -> None:
        """Remember the new ones."""
        if len(self._known) > self._FULL:
            self._known.clear()
        self._known.update(self._new)


def call_row(tenant: str, run_id: str, call: Call, facets: Numbers, rates: Numbers) -> Values:
    """A call as a row; its facet and its rates get their numbers."""
    step, charge = call.step, call.charge
    usage = charge.usage or step.usage
    status, reason, nano, items = charge.status, charge.reason, charge.nano, charge.items
    if nano is not None and nano > MOST:
        # Nine billion dollars for one call is a sender's mistake; it must not stop the ledger.
        status, reason, nano, items = Status.INVALID, Reason.INCONSISTENT_USAGE, None, ()
    steps = call.steps
    facet = facets.number(
        (
            tenant, call.kind, step.operation, step.provider, step.requested_model, step.response_model, call.agent,
            step.tool, tuple(call.who.items()), status, reason, charge.basis, call.flags,
            (steps[0].source,) if len(steps) == 1 else call.sources, charge.price_book,
        ),
        _facet_row,
    )  # fmt: skip
    return (
        uuid_of(call.id),
        facet,
        run_id,
        step.trace_id or None,
        step.span_id or None,
        step.session,
        step.start_ns,
        step.end_ns,
        call.attempts,
        call.failed,
        nano,
        step.reported_nano,
        *(
            (None, None, None, None, None)
            if usage is None
            else (
                usage.input, usage.cache_read, usage.cache_write,
                usage.output, usage.reasoning,
            )
        ),
        ",".join(
            [f"{rates.number(tariff, _rate_row)}:{quantity}:{share}" for tariff, quantity, share in shares_of(items)]
        ),
    )  # fmt: skip


def _facet_row(
    tenant: str, kind: Kind, operation: str | None, provider: str | None, requested: str | None,
    response: str | None, agent: str | None, tool: str | None, who: tuple[tuple[str, str], ...], status: Status,
    reason: Reason | None, basis: str, flags: frozenset[Flag], sources: tuple[str, ...], price_book: str,
) -> Values:  # fmt: skip
    said = dict(who)
    dimensions = [said.pop(name, None) for name in WHO]
    return (
        tenant, kind, operation, provider, response or requested, requested, response, agent, tool, *dimensions,
        as_json(said, sort_keys=True) if said else None, status, reason, basis, ",".join(sorted(flags)),
        ",".join(sources), price_book, _is_hole(kind, status, reason, flags), Flag.INCOMPLETE in flags,
    )  # fmt: skip


def _is_hole(kind: str, status: str, reason: str | None, flags: Iterable[str]) -> bool:
    """As `Call.is_hole`: money was or may have been spent that no total shows."""
    if status == Status.PRICED or kind not in MODEL_KINDS:
        return Flag.INCOMPLETE in flags
    return reason != Reason.FAILED_CALL


def _rate_row(unit: str, part: str, rate: Rate, source: str, valid_from: str | None) -> Values:
    return unit, part, str(rate.femto), str(rate.per), source, valid_from


def _run_row(run: ClosedRun) -> Values:
    summary = run.summary
    return (
        summary.tenant, summary.run_id, summary.start_ns, summary.end_ns, summary.nano,
        summary.wasted_nano, summary.session, *(summary.who.get(name) for name in WHO),
        as_json(told_run(summary, is_open=False)),
    )  # fmt: skip


def told_call(row: Row, rates: dict[int, tuple[Any, ...]]) -> dict[str, Any]:
    """A call line (`story.told_call`) from its row."""
    items = []
    for item in str(row["items"]).split(","):
        if item:
            number, quantity, nano = map(int, item.split(":"))
            unit, part, femto, per, source, valid_from = rates[number]
            items.append(
                {
                    "unit": unit,
                    "part": part,
                    "quantity": quantity,
                    "rate": exact_text(Rate(int(femto), int(per)).usd),
                    "usd": usd(nano),
                    "source": source,
                    "valid_from": valid_from,
                }
            )
    usage = {name: row[name] for name in ("input", "cache_read", "cache_write", "output", "reasoning")}
    told: dict[str, Any] = {
        name: row[name]
        for name in (
            "run_id", "tenant", "kind", "operation", "provider", "model", "requested_model", "response_model", "tool",
            "agent", "attempts", "status", "reason", "basis", "failed", "price_book",
        )
    }  # fmt: skip
    return told | {
        "type": "call",
        "id": row["call_id"],
        "trace_id": hexed(row["trace_id"]),
        "span_id": hexed(row["span_id"]),
        "start_time": rfc3339(row["start_ns"]),  # type: ignore[arg-type]  # BIGINT NOT NULL
        "end_time": rfc3339(row["end_ns"]),  # type: ignore[arg-type]
        "session": row["whose"],
        "cost_usd": usd(row["nano"]),  # type: ignore[arg-type]  # BIGINT or NULL
        "reported_usd": usd(row["reported_nano"]),  # type: ignore[arg-type]
        "usage": None if usage["input"] is None else usage,
        "flags": [flag for flag in str(row["flags"]).split(",") if flag],
        "sources": str(row["sources"]).split(","),
        "items": items,
    }


def open_run(tenant: str, run_id: str, calls: list[dict[str, Any]]) -> Row:
    """A run line for a run that has not been closed, from the calls that have been written so far."""
    model_calls = [call for call in calls if call["kind"] in MODEL_KINDS]
    route: dict[str, dict[str, Any]] = {}
    for call in model_calls:
        leg = route.setdefault(
            call["model"] or "unknown", {"model": call["model"] or "unknown", "calls": 0, "cost_usd": None}
        )
        leg["calls"] += 1
        leg["cost_usd"] = _sum_usd([leg["cost_usd"], call["cost_usd"]])
    holes = [call for call in calls if _is_hole(call["kind"], call["status"], call["reason"], call["flags"])]
    return {
        "type": "run",
        "run_id": run_id,
        "tenant": tenant,
        "trace_ids": sorted({call["trace_id"] for call in calls if call["trace_id"]}),
        "cost_usd": _sum_usd([call["cost_usd"] for call in calls]),
        "complete": not holes,
        "unpriced_calls": sum(call["status"] != Status.PRICED for call in holes),
        "llm_calls": len(model_calls),
        "tool_calls": sum(call["kind"] == Kind.TOOL for call in calls),
        "errors": sum(call["failed"] for call in calls),
        "agents": list(dict.fromkeys(call["agent"] for call in calls if call["agent"])),
        "workflow": None,
        "user": None,
        "team": None,
        "session": next((call["session"] for call in calls if call["session"]), None),
        "wasted_usd": None,
        "outcome": None,
        "verdict": Verdict.UNKNOWN,
        "verdict_why": UNJUDGED.why,
        "outcomes": [],
        "model_route": list(route.values()),
        "start_time": min(call["start_time"] for call in calls),
        "end_time": max(call["end_time"] for call in calls),
        "open": True,
    }


def _sum_usd(amounts: Iterable[str | None]) -> str | None:
    known = [usd_to_nano(amount) for amount in amounts if amount is not None]
    return usd(sum(known)) if known else None


def closed_rows(
    runs: Sequence[ClosedRun], paced: Callable[[Sequence[ClosedRun]], Iterator[ClosedRun]]
) -> list[tuple[Shape, list[Values]]]:
    """Of runs that have closed: their lines, snapshots, traces and keys. Each replaces what has the same key.

    `paced`: the runs one by one, with a pause where somebody else must come first; putting one to sleep takes a while.
    """
    keys = {(run.summary.tenant, key): run.summary.run_id for run in runs for key in run.keys}
    traces = {(trace.tenant, trace.trace_id): trace for run in runs for trace in run.traces}
    return [
        (RUNS, [_run_row(run) for run in runs]),
        (KEYS, [(tenant, key, run_id) for (tenant, key), run_id in keys.items()]),
        (SNAPSHOTS, [(r.summary.tenant, r.summary.run_id, frozen) for r in paced(runs) if (frozen := r.snapshot())]),
        (TRACES, [(t.tenant, t.trace_id.hex(), t.run_id, t.nano, as_json(trace_line(t))) for t in traces.values()]),
    ]


def alert_rows(batch: Batch) -> list[Values]:
    """What was told."""
    return [
        (
            alert.id, alert.tenant, alert.run_id, alert.trace_id or None, alert.at_ns,
            f"{alert.fingerprint}-{alert.seq}", alert.state == "resolved", alert.wasted_nano,
            ",".join(span_id.hex() for span_id in alert.span_ids), alert.onset_span_id.hex(),
            as_json(alert_json(alert)),
        )
        for alert in batch.alerts.values()
    ]  # fmt: skip


def correction_rows(batch: Batch) -> list[Values]:
    """Each once, whatever is committed again: its key is a digest of its line."""
    lines = ((correction, as_json(correction_json(correction))) for correction in batch.corrections)
    rows = {_digest(line): (one.tenant, one.run_id, one.trace_id or None, one.at_ns, line) for one, line in lines}
    return [(key, *row) for key, row in rows.items()]


def outcome_rows(batch: Batch) -> list[Values]:
    """What became of work."""
    return [
        (one.tenant, one.id, one.name, one.value, one.at_ns, as_json(outcome_json(one)))
        for one in batch.outcomes.values()
    ]


def outcome_key_rows(batch: Batch) -> list[Values]:
    """By which keys outcomes are found."""
    return sorted({(one.tenant, key, one.id) for one in batch.outcomes.values() for key in one.keys})


def teller_rows(batch: Batch) -> list[Values]:
    """Who told model calls one by one."""
    return [(tenant, as_json(sender), hour, said) for (tenant, sender, hour), said in batch.tellers.items()]


def oldest_hour(batch: Batch) -> int:
    """From when on it is kept who told model calls; times that are to come are a sender's mistake."""
    return min(now_ns() // HOUR_NS, max(hour for _, _, hour in batch.tellers)) - _TELLER_HOURS


def join_rows(batch: Batch) -> list[tuple[str, str, str]]:
    """By which keys outcomes find runs: what was said of open ones, and of closed ones their traces and sessions."""
    closed = {
        (tenant, key, run_id)
        for (tenant, run_id), run in batch.closed.items()
        for key in (*(f"trace:{t.hex()}" for t in run.summary.trace_ids), *run.joins)
    }
    closed |= {
        (tenant, key, run_id)
        for (tenant, run_id), run in batch.closed.items()
        for key in run.keys
        if key.startswith("session:")
    }
    former = former_names(batch)
    return sorted({row for row in batch.joins if (row[0], row[2]) not in former} | closed)


def former_names(batch: Batch) -> set[tuple[str, str]]:
    """What runs that have closed may have been called before, with their tenants."""
    return {name for run in batch.closed.values() for name in names_of(run)} - batch.closed.keys()


def calls_to_write(
    batch: Batch, written: Mapping[str, tuple[str, Call]]
) -> tuple[dict[str, tuple[str, str, Call]], list[str]]:
    """Calls by id as (tenant, run id, call), and the ids of those that are gone.

    `written`: calls as they stand in the ledger (run id, call); a closing run writes only what differs. A call that a
    run had as it closed may have gone since, and be no other closed run's.
    """
    calls: dict[str, tuple[str, str, Call]] = {}
    gone: list[str] = []
    for (tenant, call_id), word in batch.calls.items():
        if word is None:
            gone.append(call_id)
        else:
            calls[call_id] = (tenant, *word)
    for (tenant, run_id), run in batch.closed.items():
        for call in run.calls:
            if (tenant, call.id) not in batch.calls and written.get(call.id) != (run_id, call):
                calls[call.id] = (tenant, run_id, call)
    return calls, gone


def told_ids(batch: Batch) -> set[str]:
    """Rows' ids of all calls that a batch says are there: of its closed runs, and of those that have gone on since."""
    told = {uuid_of(call_id) for (_, call_id), word in batch.calls.items() if word is not None}
    return told | {
        uuid_of(call.id)
        for (tenant, _), run in batch.closed.items()
        for call in run.calls
        if batch.calls.get((tenant, call.id), run) is not None
    }


def uuid_of(call_id: str) -> str:
    """A call id (12 bytes in hex, made from the tenant too) as the text of a UUID, the narrowest 16-byte key."""
    return call_id + "00000000"


def key_digest(tenant: str, key: str) -> bytes:
    """What is known of a key without the key; databases can make it, too."""
    return hashlib.md5(f"{tenant}/{key}".encode(), usedforsecurity=False).digest()


def key_number(digest: bytes) -> int:
    """Its first sixty bits, which fit into a BIGINT."""
    return int.from_bytes(digest[:8]) >> 4


def hexed(value: object) -> str | None:
    """An id as it is told."""
    return value.hex() if isinstance(value, bytes) else None


def _digest(line: str) -> str:
    return hashlib.blake2b(line.encode(), digest_size=12).hexdigest()


def fitting(name: str, value: Any) -> Any:  # noqa: ANN401  # of a column: only numbers are changed
    """A number that no 64 bits hold is a sender's mistake and must not stop the ledger.

    OTLP's times go to the year 2554, ours to 2262: the last instant stands for what is later. A count is left out.
    """
    if not isinstance(value, int) or -MOST <= value <= MOST:
        return value
    return MOST if name.endswith("_ns") else None
