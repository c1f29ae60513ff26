"""What may be asked of a ledger, in SQL: one text for every store that speaks it.

Written in what DuckDB and PostgreSQL both understand; what they say differently a
store brings itself. Money comes out as whole nano-dollars on both.
"""

from __future__ import annotations

import json
from array import array
from typing import TYPE_CHECKING, Any, Final, TypeVar

from otel_cost.core.assemble.snapshot import recorded_nodes
from otel_cost.core.budget import Spend
from otel_cost.core.detect._pace import Taken
from otel_cost.core.drift import Ran, facts_of_line
from otel_cost.core.enrich.lines import outcome_map, rfc3339, usd
from otel_cost.core.library import MOST_SHAPES, Seen
from otel_cost.core.model.measure import Teller
from otel_cost.core.model.money import nano_to_text
from otel_cost.core.model.vocabulary import MODEL_KINDS
from otel_cost.core.outcomes import judge, outcome_of, reaching
from otel_cost.core.per_outcome import ROUTE, Part, Silent, cost_per_outcome
from otel_cost.edge.ledger import ATTRIBUTE, checked_dimensions
from otel_cost.edge.ledger.rows import MOST, WHO, fitting, hexed, open_run, told_call
from otel_cost.edge.ledger.story import node_row, story, with_outcomes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from otel_cost.core.model.charge import Charge
    from otel_cost.core.model.outcome import Outcome
    from otel_cost.core.model.step import Step
    from otel_cost.core.model.vocabulary import Category
    from otel_cost.edge.ledger import Row, Selection

T = TypeVar("T")

_OF_RUNS: Final = frozenset((*WHO, "session"))  # dimensions that a run may tell for its calls
_CALL_ID: Final = "left(replace(c.id::VARCHAR, '-', ''), 24)"
_CALL_COLUMNS: Final = {
    "call_id": _CALL_ID,
    **{
        name: f"c.{name}"
        for name in (
            "run_id", "trace_id", "span_id", "start_ns", "end_ns", "attempts", "failed", "nano", "reported_nano",
            "input", "cache_read", "cache_write", "output", "reasoning", "items",
        )
    },
    **{
        name: f"f.{name}"
        for name in (
            "tenant", "kind", "operation", "provider", "model", "requested_model", "response_model", "agent", "tool",
            "status", "reason", "basis", "flags", "sources", "price_book",
        )
    },
    "whose": "coalesce(c.session, r.session)",
}  # fmt: skip
_OF_RUN: Final = "tenant = ? AND (run_id = ? OR trace_id = ANY(?::BYTEA[]))"
_LAST_WORD: Final = "row_number() OVER (PARTITION BY tenant, episode ORDER BY resolved DESC, at_ns DESC) AS place"


_SPEND_FACTS: Final = ("agent", "model", "provider", "tool", "kind", "status", "failed", "session", *WHO)
_SPEND_WHO: Final = ", ".join(f'coalesce(f."{name}", r."{name}")' for name in WHO)
SPENDS: Final = (
    f"SELECT {_CALL_ID}, f.tenant, c.run_id, c.start_ns, coalesce(c.nano, 0), f.attrs, f.agent,"  # noqa: S608  # our own names
    " f.model, f.provider, f.tool, f.kind, f.status, c.failed, coalesce(c.session, r.session),"
    f" {_SPEND_WHO} FROM call_rows c JOIN facets f ON f.id = c.facet"
    " LEFT JOIN runs r ON r.tenant = f.tenant AND r.run_id = c.run_id"
)
"""Calls as `spend_of` reads them."""


def spend_of(row: tuple[Any, ...]) -> tuple[str, Spend]:
    """Call id, and what it cost and for whom."""
    call_id, tenant, run_id, start_ns, nano, attrs, *told = row
    facts = (json.loads(attrs) if attrs else {}) | dict(zip(_SPEND_FACTS, told, strict=True))
    facts |= {"tenant": tenant, "run": run_id}
    return call_id, Spend(tenant, run_id, start_ns, nano, facts)


_LATEST_KEYS: Final = (
    "(SELECT k.tenant, k.key FROM run_keys k JOIN runs r USING (tenant, run_id) ORDER BY r.end_ns DESC LIMIT ?) k"
)


class SqlLedger:
    """The questions of `Ledger` over the tables that every store has.

    A store tells: `_attribute`, the value in `f.attrs` under a key that is a parameter; `_waste`, from `waste`;
    `_quotient`, the function that divides whole numbers; `_hex`, what reads a number of up to sixty bits in hex.
    """

    _attribute: str
    _waste: str
    _quotient: str
    _hex: str

    def __init__(self) -> None:
        self.charge: Callable[[Step], Charge] | None = None
        self.pause: Callable[[], None] = lambda: None
        # Runs that this process did not see begin, so that rows of theirs may be left from before.
        self._inherited: set[tuple[str, str]] = set()

    def _paced(self, things: Iterable[T]) -> Iterator[T]:
        """Things of a commit, one by one."""
        for one in things:
            self.pause()
            yield one

    def find_snapshot(self, tenant: str, key: str) -> bytes | None:
        found = self._asleep(tenant, key)
        if found is None:
            return None
        run_id, snapshot = found
        self.woken(tenant, run_id)
        return snapshot

    def woken(self, tenant: str, run_id: str) -> None:
        self._inherited.add((tenant, run_id))

    def _asleep(self, tenant: str, key: str) -> tuple[str, bytes] | None:
        """Run id and snapshot of the closed run that a key belongs to."""
        rows = self._rows(
            "SELECT k.run_id, s.snapshot FROM run_keys k JOIN snapshots s USING (tenant, run_id)"
            " WHERE k.tenant = ? AND k.key = ?",
            [tenant, key],
        )
        return (rows[0][0], bytes(rows[0][1])) if rows else None

    def _snapshot_of(self, tenant: str, run_id: str) -> bytes:
        """Empty where none was kept."""
        rows = self._rows("SELECT snapshot FROM snapshots WHERE tenant = ? AND run_id = ?", [tenant, run_id])
        return bytes(rows[0][0]) if rows else b""

    def closed_runs(
        self, since_ns: int | None = None, until_ns: int | None = None, tenant: str | None = None
    ) -> Iterator[tuple[str, str, bytes]]:
        names = self._rows(
            "SELECT tenant, run_id FROM runs WHERE end_ns >= ? AND start_ns < ? AND (?::VARCHAR IS NULL OR tenant = ?)"
            " ORDER BY start_ns, tenant, run_id",
            [_from(since_ns), _until(until_ns), tenant, tenant],
        )
        for owner, run_id in names:
            self.woken(owner, run_id)
            yield owner, run_id, self._snapshot_of(owner, run_id)

    def key_numbers(self, limit: int) -> array[int]:
        ((count,),) = self._rows("SELECT count(*) FROM run_keys")
        # Which are the latest is asked only where not all are wanted: it takes as long as all else.
        of, parameters = ("run_keys", []) if count <= limit else (_LATEST_KEYS, [limit])
        found = array("q")
        number = self._hex.format("left(md5(tenant || '/' || key), 15)")
        asked = f"SELECT {number} AS number FROM {of} ORDER BY number"  # noqa: S608  # our own words
        for rows in self._stream(asked, parameters):
            found.extend(number for (number,) in rows)
        return found

    def tellers(self) -> list[Teller]:
        rows = self._rows(
            "SELECT tenant, sender, hour, bool_and(in_session) FROM tellers GROUP BY tenant, sender, hour ORDER BY hour"
        )
        return [Teller(tenant, tuple(json.loads(sender)), hour, told) for tenant, sender, hour, told in rows]

    def sent_alerts(self) -> set[tuple[str, str]]:
        return set(self._rows("SELECT tenant, id FROM alerts"))

    def spends(self, since_ns: int) -> Iterator[tuple[str, Spend]]:
        for rows in self._stream(
            f"{SPENDS} WHERE c.start_ns >= ? AND c.nano > 0 ORDER BY c.start_ns, c.id", [_from(since_ns)]
        ):
            yield from map(spend_of, rows)

    def report(
        self,
        by: Sequence[str] = (),
        since_ns: int | None = None,
        until_ns: int | None = None,
        tenant: str | None = None,
    ) -> list[Row]:
        return self.reports([by], since_ns, until_ns, tenant)[0]

    def reports(
        self,
        asked: Sequence[Sequence[str]],
        since_ns: int | None = None,
        until_ns: int | None = None,
        tenant: str | None = None,
    ) -> list[list[Row]]:
        groupings = [checked_dimensions(by) for by in asked]
        if not groupings:
            return []
        names = tuple(dict.fromkeys(name for by in groupings for name in by))
        parameters: list[object] = []
        columns = "".join(f"{self._dimension(name, parameters)} AS k{index}, " for index, name in enumerate(names))
        keys = "".join(f"k{index}, " for index in range(len(names)))
        where, values = _span_of_time(since_ns, until_ns, tenant)
        sets = ", ".join(
            f"({', '.join(f'k{names.index(name)}' for name in sorted(by))})"
            for by in {frozenset(by) for by in groupings}
        )
        # A bit per key, the first the highest: it is not part of the grouping.
        place = f"grouping({', '.join(f'k{index}' for index in range(len(names)))})" if names else "0"
        has_waste = bool(self._rows("SELECT 1 FROM alerts WHERE wasted_nano > 0 LIMIT 1"))
        # Keys and tenants come as parameters; what is put into the text is ours.
        rows = self._rows(
            f"{f'WITH {self._waste}' if has_waste else ''} SELECT {keys} {place}, sum(nano) AS nano, count(*),"  # noqa: S608
            " count(*) FILTER (WHERE hole AND nano IS NULL), count(*) FILTER (WHERE incomplete),"
            " coalesce(sum(least(wasted, nano)) FILTER (WHERE wasted IS NOT NULL), 0),"
            " coalesce(sum(input), 0), coalesce(sum(output), 0)"
            f" FROM (SELECT {columns} c.nano, f.hole, f.incomplete, c.input, c.output,"
            f" {'w.nano' if has_waste else 'NULL::BIGINT'} AS wasted FROM call_rows c JOIN facets f ON f.id = c.facet"
            + (" LEFT JOIN runs r ON r.tenant = f.tenant AND r.run_id = c.run_id" if _OF_RUNS & set(names) else "")
            + (" LEFT JOIN waste w ON w.id = c.id" if has_waste else "")
            + f" WHERE {where}) c GROUP BY GROUPING SETS ({sets})",
            [*parameters, *values],
        )
        found: dict[int, list[tuple[Any, ...]]] = {}
        for row in rows:
            found.setdefault(row[len(names)], []).append(row)
        return [
            [
                _told_sums(row, by, names)
                for row in sorted(found.get(_place(by, names), []), key=_dearest(by, names))
                if by or row[len(names) + 2]
            ]
            for by in groupings
        ]

    def spend_over_time(
        self, step_ns: int, since_ns: int, until_ns: int, tenant: str | None = None
    ) -> list[tuple[int, int]]:
        where, values = _span_of_time(since_ns, until_ns, tenant)
        facets = "" if tenant is None else "JOIN facets f ON f.id = c.facet"
        rows = self._rows(
            # Nothing of the caller's is in the text.
            f"SELECT {self._quotient}(c.start_ns, ?) * ? AS step, sum(c.nano) FROM call_rows c {facets}"  # noqa: S608
            f" WHERE {where} AND c.nano IS NOT NULL GROUP BY step ORDER BY step",
            [step_ns, step_ns, *values],
        )
        return [(int(start), int(nano)) for start, nano in rows]

    def runs(
        self, top: int = 20, since_ns: int | None = None, until_ns: int | None = None, tenant: str | None = None
    ) -> list[Row]:
        rows = self._rows(
            "SELECT line FROM runs WHERE start_ns >= ? AND start_ns < ? AND (?::VARCHAR IS NULL OR tenant = ?)"
            " ORDER BY nano DESC NULLS LAST, start_ns DESC, run_id, tenant LIMIT ?",
            [_from(since_ns), _until(until_ns), tenant, tenant, top],
        )
        return self._judged([json.loads(line) for (line,) in rows])

    def alerts(
        self,
        limit: int = 100,
        since_ns: int | None = None,
        tenant: str | None = None,
        category: Category | None = None,
    ) -> list[Row]:
        rows = self._rows(
            f"SELECT line FROM (SELECT *, {_LAST_WORD} FROM alerts"  # noqa: S608  # our own words
            " WHERE at_ns >= ? AND (?::VARCHAR IS NULL OR tenant = ?)"
            " AND (?::VARCHAR IS NULL OR line::JSON ->> 'category' = ?)) a WHERE place = 1"
            " ORDER BY at_ns DESC, id, tenant LIMIT ?",
            [_from(since_ns), tenant, tenant, category, category, limit],
        )
        return [json.loads(line) for (line,) in rows]

    def loops(self, limit: int = 100, since_ns: int | None = None, tenant: str | None = None) -> list[Row]:
        return [
            {
                "tenant": of, "loop": loop, "kind": kind, "rule": rule, "summary": summary, "times": times,
                "runs": runs, "first_seen": rfc3339(first), "last_seen": rfc3339(last),
                "burn_usd": nano_to_text(nano),
            }
            for of, loop, times, runs, nano, first, last, kind, rule, summary in self._shapes(
                "at_ns >= ? AND (?::VARCHAR IS NULL OR tenant = ?)",
                limit,
                "last_ns >= ? AND (?::VARCHAR IS NULL OR tenant = ?)",
                *(2 * (_from(since_ns), tenant, tenant)),
            )
        ]  # fmt: skip

    def shapes_of_finished_runs(self, most: int) -> Iterator[tuple[str, str, Seen]]:
        over = "EXISTS (SELECT 1 FROM runs r WHERE r.tenant = a.tenant AND r.run_id = a.run_id)"
        for tenant, loop, times, runs, nano, *_ in reversed(self._shapes(over, most, "true")):
            yield tenant, loop, Seen(times, runs, nano)

    def _shapes(self, told: str, limit: int, past: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Shapes over episodes (`a`) that meet a condition and over what is left of forgotten ones, the dearest first.

        `parameters`: of both conditions.
        """
        latest = ", ".join(f"(array_agg({name} ORDER BY last_ns DESC))[1]" for name in ("kind", "rule", "summary"))
        return self._rows(
            "SELECT tenant, loop, sum(times)::BIGINT AS times, sum(runs)::BIGINT, sum(nano)::BIGINT AS nano,"  # noqa: S608  # our own words
            f" min(first_ns), max(last_ns), {latest}"
            f" FROM ({_shapes_told(told)} UNION ALL"
            " SELECT tenant, loop, times, runs, nano, first_ns, last_ns, kind, rule, summary FROM past_loops"
            f" WHERE {past}) s GROUP BY tenant, loop ORDER BY nano DESC, times DESC, loop, tenant LIMIT ?",
            [*parameters, limit],
        )

    def usual(self, most: int) -> Iterator[tuple[str, str, list[Taken]]]:
        rows = self._rows(
            "SELECT tenant, workflow, array_agg(nano ORDER BY end_ns), array_agg(calls ORDER BY end_ns) FROM ("
            "SELECT tenant, workflow, nano, end_ns, (line::JSON ->> 'llm_calls')::BIGINT"
            " + (line::JSON ->> 'tool_calls')::BIGINT AS calls,"
            " row_number() OVER (PARTITION BY tenant, workflow ORDER BY end_ns DESC) AS place"
            " FROM runs WHERE workflow IS NOT NULL) r WHERE place <= ? GROUP BY tenant, workflow",
            [most],
        )
        for tenant, workflow, nano, calls in rows:
            yield tenant, workflow, [Taken(*one) for one in zip(nano, calls, strict=True)]

    def run(self, run_or_trace_id: str, tenant: str | None = None) -> Row | None:
        mine = "(?::VARCHAR IS NULL OR tenant = ?)"
        for places in ("runs WHERE run_id = ?", "run_keys WHERE key = ?", "calls WHERE run_id = ?", None):
            asked: object = run_or_trace_id if places else _id_bytes(run_or_trace_id)
            found = self._rows(
                f"SELECT tenant, run_id FROM {places or 'calls WHERE trace_id = ?'} AND {mine} LIMIT 1",  # noqa: S608  # our own words
                [asked, tenant, tenant],
            )
            if found:
                break
        else:
            return None
        owner, run_id = found[0]
        calls = self._calls_of(owner, run_id)
        lines = self._rows("SELECT line FROM runs WHERE tenant = ? AND run_id = ?", [owner, run_id])
        whose = [owner, run_id]
        traces = sorted({bytes.fromhex(str(call["trace_id"])) for call in calls if call["trace_id"]})
        return story(
            self._judged([json.loads(lines[0][0]) if lines else open_run(owner, run_id, calls)])[0],
            self._lines("SELECT line FROM traces WHERE tenant = ? AND run_id = ? ORDER BY trace_id", whose),
            calls,
            self._nodes_of(owner, run_id),
            # What was said before two runs became one names the run of then; the trace stays.
            self._lines(
                f"SELECT line FROM (SELECT *, {_LAST_WORD} FROM alerts WHERE {_OF_RUN}) a"  # noqa: S608  # our own words
                " WHERE place = 1 ORDER BY at_ns, id",
                [*whose, traces],
            ),
            self._lines(f"SELECT line FROM corrections WHERE {_OF_RUN} ORDER BY at_ns, id", [*whose, traces]),  # noqa: S608
        )

    def outcomes(self, runs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[Outcome]]:
        if not runs:
            return {}
        return _by_run(
            self._with_pairs(
                f"{_REACHED} SELECT tenant, run_id, start_ns, key, line FROM reached",  # noqa: S608  # our own words
                sorted(set(runs)),
            )
        )

    def news(self, limit: int = 100, since_ns: int | None = None, tenant: str | None = None) -> list[Row]:
        told = [
            outcome_of(json.loads(line))
            for (line,) in self._rows(
                "SELECT line FROM outcomes WHERE at_ns >= ? AND (?::VARCHAR IS NULL OR tenant = ?)"
                " ORDER BY at_ns DESC, id, tenant LIMIT ?",
                [_from(since_ns), tenant, tenant, limit],
            )
        ]
        keys = sorted({key for one in told for key in one.keys})
        near = self._rows(
            "SELECT DISTINCT tenant, run_id FROM run_joins WHERE key = ANY(?::VARCHAR[])"
            " UNION SELECT DISTINCT tenant, run_id FROM run_keys WHERE key = ANY(?::VARCHAR[])",
            [keys, keys],
        )
        reached: dict[tuple[str, str], list[str]] = {}
        for (owner, run_id), outcomes in sorted(self.outcomes([(row[0], row[1]) for row in near]).items()):
            for one in outcomes:
                reached.setdefault((owner, one.id), []).append(run_id)
        return [
            {
                **outcome_map(one),
                "tenant": one.tenant,
                "keys": list(one.keys),
                "runs": reached.get((one.tenant, one.id), []),
            }
            for one in told
        ]

    def outcomes_by_keys(self, tenant: str, keys: Sequence[str], start_ns: int) -> list[Outcome]:
        rows = self._rows(
            "SELECT k.key, o.line FROM outcome_keys k JOIN outcomes o USING (tenant, id)"
            " WHERE k.tenant = ? AND k.key = ANY(?::VARCHAR[])",
            [tenant, list(keys)],
        )
        return reaching([(key, outcome_of(json.loads(line))) for key, line in rows], start_ns)

    def recorded(
        self, since_ns: int | None = None, until_ns: int | None = None, tenant: str | None = None
    ) -> Iterator[tuple[str, str, bytes, str]]:
        names = self._rows(
            "SELECT tenant, run_id FROM runs WHERE end_ns >= ? AND start_ns < ? AND (?::VARCHAR IS NULL OR tenant = ?)"
            " ORDER BY start_ns, tenant, run_id",
            [_from(since_ns), _until(until_ns), tenant, tenant],
        )
        for at in range(0, len(names), 100):
            some = names[at : at + 100]
            outcomes = self.outcomes(some)
            for owner, run_id in some:
                verdict = judge(outcomes.get((owner, run_id), ())).verdict
                if snapshot := self._snapshot_of(owner, run_id):
                    yield owner, run_id, snapshot, verdict

    def finished(self, since_ns: int) -> Iterator[Ran]:
        since = [_from(since_ns)]
        of_runs = (
            "FROM call_rows c JOIN facets f ON f.id = c.facet"
            " JOIN runs r ON r.tenant = f.tenant AND r.run_id = c.run_id WHERE r.end_ns >= ?"
        )
        figures = {
            (owner, run_id): rest
            for owner, run_id, *rest in self._rows(
                "SELECT f.tenant, c.run_id, percentile_cont(0.5) WITHIN GROUP (ORDER BY c.input)"  # our own words
                f" FILTER (WHERE f.kind IN {_MODEL_KINDS}),"
                f" count(*) FILTER (WHERE c.failed AND f.kind IN {_MODEL_KINDS}) + sum(c.attempts - 1),"
                f" array_agg(DISTINCT f.attrs) FILTER (WHERE f.attrs IS NOT NULL) {of_runs}"
                " GROUP BY f.tenant, c.run_id",
                since,
            )
        }
        tools: dict[tuple[str, str], dict[str, int]] = {}
        for owner, run_id, tool, count in self._rows(
            f"SELECT f.tenant, c.run_id, coalesce(f.tool, 'unknown'), count(*) {of_runs}"
            " AND f.kind = 'tool' GROUP BY f.tenant, c.run_id, coalesce(f.tool, 'unknown')",
            since,
        ):
            tools.setdefault((owner, run_id), {})[tool] = count
        loops: dict[tuple[str, str], dict[str, int]] = {}
        for owner, run_id, shape, nano in self._rows(
            "SELECT tenant, run_id, shape, wasted_nano FROM ("
            "SELECT a.tenant, a.run_id, a.wasted_nano, (a.line::JSON -> 'evidence' ->> 'loop') AS shape,"
            " row_number() OVER (PARTITION BY a.tenant, a.episode ORDER BY a.resolved DESC) AS place"
            " FROM alerts a JOIN runs r ON r.tenant = a.tenant AND r.run_id = a.run_id"
            " WHERE r.end_ns >= ? AND a.wasted_nano > 0 AND (a.line::JSON -> 'evidence' ->> 'loop') IS NOT NULL"
            ") told WHERE place = 1",
            since,
        ):
            mine = loops.setdefault((owner, run_id), {})
            mine[shape] = mine.get(shape, 0) + nano
        who = ", ".join(f'"{name}"' for name in WHO)
        for owner, run_id, start_ns, end_ns, nano, text, *said in self._rows(
            f"SELECT tenant, run_id, start_ns, end_ns, nano, line, {who} FROM runs"  # noqa: S608
            " WHERE end_ns >= ? AND nano IS NOT NULL ORDER BY end_ns, start_ns, run_id",
            since,
        ):
            line = json.loads(text)
            if line["complete"]:
                context, retries, attrs = figures.get((owner, run_id), (None, 0, None))
                of_whom = {name: value for name, value in zip(WHO, said, strict=True) if value is not None}
                more = {key: value for one in attrs or () for key, value in json.loads(one).items()}
                yield Ran(
                    tenant=owner,
                    run_id=run_id,
                    trace_id=bytes.fromhex(min(line["trace_ids"], default="")),
                    start_ns=start_ns,
                    end_ns=end_ns,
                    nano=nano,
                    facts=facts_of_line(line) | more | of_whom,
                    route=tuple(leg["model"] for leg in line["model_route"]),
                    context=round(context or 0),
                    llm_calls=line["llm_calls"],
                    retries=int(retries or 0),
                    tools=tools.get((owner, run_id), {}),
                    loops=loops.get((owner, run_id), {}),
                )

    def per_outcome(
        self,
        by: Sequence[str] = (),
        since_ns: int | None = None,
        until_ns: int | None = None,
        tenant: str | None = None,
    ) -> list[Row]:
        names = checked_dimensions(by, ROUTE)
        window = [_from(since_ns), _until(until_ns)]
        parameters: list[object] = [*window, *window, tenant, tenant]
        dimensions = [
            f"{'b.route' if name == ROUTE else self._dimension(name, parameters)} AS k{index}"
            for index, name in enumerate(names)
        ]
        keys = [f"k{index}" for index in range(len(names))]
        parts = _PARTS.format(
            began=_BEGAN_BY_ROUTE if ROUTE in names else _BEGAN,
            session="session" if "session" in names else "NULL::VARCHAR",
            columns="".join(f"{column}, " for column in dimensions),
            also="".join(f", {key}" for key in keys),
            keys="".join(f"{key}, " for key in keys),
            group=", ".join(keys) or "()",
            order=", ".join(str(number) for number in range(1, len(names) + 3)),
            runs=_RUN_OF_PART if _OF_RUNS & set(names) else "",
        )
        of_runs: list[Part] = []
        of_others: list[Silent] = []
        for owner, run, *rest in self._rows(parts, parameters):
            *group, nano, model_calls, holes, runs, with_holes = rest
            spent = None if nano is None else int(nano)
            if owner is not None:
                of_runs.append(Part((owner, run), tuple(group), spent, int(model_calls), int(holes)))
            else:
                counts = map(int, (model_calls, holes, runs, with_holes))
                of_others.append(Silent(tuple(group), spent, *counts))
        return cost_per_outcome(of_runs, self.outcomes([part.run for part in of_runs]), names, of_others)

    def _judged(self, lines: list[Row]) -> list[Row]:
        """Run lines with what is known of them by now."""
        found = self.outcomes([(str(line["tenant"]), str(line["run_id"])) for line in lines])
        return [with_outcomes(line, found.get((str(line["tenant"]), str(line["run_id"])), [])) for line in lines]

    def _lines(self, sql: str, parameters: Sequence[object]) -> list[Row]:
        return [json.loads(line) for (line,) in self._rows(sql, parameters)]

    def _calls_of(self, tenant: str, run_id: str) -> list[Row]:
        rows = [
            dict(zip(_CALL_COLUMNS, row, strict=True))
            for row in self._rows(
                f"SELECT {', '.join(_CALL_COLUMNS.values())} FROM call_rows c JOIN facets f ON f.id = c.facet"  # noqa: S608  # our own words
                " LEFT JOIN runs r ON r.tenant = f.tenant AND r.run_id = c.run_id"
                " WHERE f.tenant = ? AND c.run_id = ? ORDER BY c.start_ns, c.span_id, c.id",
                [tenant, run_id],
            )
        ]
        wanted = sorted({int(item.split(":")[0]) for row in rows for item in str(row["items"]).split(",") if item})
        rates = {
            row[0]: row[1:]
            for row in self._rows(
                "SELECT id, unit, part, femto, per, source, valid_from FROM rates WHERE id = ANY(?::INTEGER[])",
                [wanted],
            )
        }
        return [told_call(row, rates) for row in rows]

    def _nodes_of(self, tenant: str, run_id: str) -> list[Row]:
        """The tree as the run's snapshot tells it, or as rows do that are older than such snapshots."""
        snapshot = self._snapshot_of(tenant, run_id)
        nodes = recorded_nodes(snapshot, run_id) if snapshot else None
        if nodes is not None:
            nodes.sort(key=lambda node: (node.start_ns, not node.span_id, node.span_id))
            return [{name: fitting(name, value) for name, value in node_row(node).items()} for node in nodes]
        names = (
            "span_id", "trace_id", "parent_id", "call_id", "kind", "name", "agent", "start_ns", "end_ns", "failed",
            "status", "self_nano", "likeness",
        )  # fmt: skip
        rows = self._rows(
            "SELECT span_id, trace_id, parent, call_id, kind, name, agent, start_ns, end_ns, failed, status, self_nano,"
            " likeness FROM steps WHERE tenant = ? AND run_id = ? ORDER BY start_ns, span_id",
            [tenant, run_id],
        )
        return [dict(zip(names, (*map(hexed, row[:3]), *row[3:]), strict=True)) for row in rows]

    # ---- what each store says in its own words ------------------------------------------

    def _rows(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of an answer; `?` stands for a parameter.

        Raises:
            LedgerUnavailableError: the store does not answer now.
        """
        raise NotImplementedError

    def _stream(self, sql: str, parameters: Sequence[object]) -> Iterator[list[tuple[Any, ...]]]:
        """An answer that may be long, ten thousand rows at a time."""
        raise NotImplementedError

    def _with_pairs(self, sql: str, pairs: Sequence[tuple[str, str]]) -> list[tuple[Any, ...]]:
        """The answer to a query that begins with WITH and in which `staged` is a table of (tenant, run_id)."""
        raise NotImplementedError

    def _dimension(self, name: str, parameters: list[object]) -> str:
        """SQL of a dimension. What a call does not say its run may: who it was for is a fact of the whole run."""
        if name.startswith(ATTRIBUTE):
            parameters.append(name.removeprefix(ATTRIBUTE))
            return self._attribute
        if name == "session":
            return "coalesce(c.session, r.session)"
        if name in WHO:
            return f'coalesce(f."{name}", r."{name}")'
        return f'f."{name}"'


# Of a run's episodes those that its own figure counts (`core/assemble/summary.wasted`): its loops, or the largest
# single one if that is more. What each burnt is spread over the calls it burnt it on, to the nano-dollar: in proportion
# to their cost, the rest to the dearest. The calls are those of its spans from the onset on; where these have no
# price (tools), the model calls of the same run between them; where there are none, all calls of the run. Episodes are
# numbered (`e`): grouping by a number is several times faster than by names.
def waste(spans: str, onset: str, wide: str, quotient: str) -> str:
    """The tables up to `waste(id, nano)`.

    In the words of a store: the span ids of an alert as a list of bytes, the onset as bytes, its widest number, the
    function that divides whole numbers.
    """
    return f"""
told AS (
    SELECT tenant, run_id, trace_id, wasted_nano, episode, {spans} AS spans, {onset} AS onset,
        (line::JSON ->> 'category') = 'loop' AS is_loop
    FROM (SELECT *, {_LAST_WORD} FROM alerts WHERE wasted_nano > 0) a WHERE place = 1
),
episodes AS (
    SELECT tenant, run_id, trace_id, wasted_nano, spans, row_number() OVER () AS e,
        array_position(spans, onset) AS onset_pos, cardinality(spans) AS last_pos
    FROM (
        SELECT *, coalesce(sum(wasted_nano) FILTER (WHERE is_loop) OVER run, 0) AS looped,
            max(wasted_nano) OVER run AS largest,
            row_number() OVER (PARTITION BY tenant, run_id ORDER BY wasted_nano DESC, episode) AS place
        FROM told WINDOW run AS (PARTITION BY tenant, run_id)
    ) ranked WHERE CASE WHEN looped >= largest THEN is_loop ELSE place = 1 END
),
pairs AS (
    SELECT e.*, c.id, c.facet, c.nano, c.start_ns, c.span_id FROM episodes e JOIN call_rows c ON c.run_id = e.run_id
    UNION ALL
    SELECT e.*, c.id, c.facet, c.nano, c.start_ns, c.span_id
    FROM episodes e JOIN call_rows c ON c.trace_id = e.trace_id AND c.run_id <> e.run_id
),
suspects AS (
    SELECT e, wasted_nano, onset_pos, last_pos, p.id, nano, start_ns, array_position(spans, span_id) AS pos
    FROM pairs p JOIN facets f ON f.id = p.facet AND f.tenant = p.tenant
),
bounds AS (
    SELECT e, min(start_ns) FILTER (WHERE pos = 1) AS first_ns, max(start_ns) FILTER (WHERE pos = last_pos) AS last_ns
    FROM suspects GROUP BY e
),
levels AS (
    SELECT e, wasted_nano, id, nano,
        CASE WHEN pos >= onset_pos THEN 1 WHEN start_ns BETWEEN first_ns AND last_ns THEN 2 ELSE 3 END AS level
    FROM suspects JOIN bounds USING (e) WHERE nano > 0
),
blamed AS (
    SELECT * FROM levels JOIN (SELECT e, min(level) AS level FROM levels GROUP BY e) least USING (e, level)
),
shares AS (
    SELECT e, id, wasted_nano, {quotient}(wasted_nano::{wide} * nano, whole) AS share,
        row_number() OVER (PARTITION BY e ORDER BY nano DESC, id) AS place
    FROM blamed JOIN (SELECT e, sum(nano) AS whole FROM blamed GROUP BY e) sums USING (e)
),
waste AS (
    SELECT id, sum(share + CASE WHEN place = 1 THEN wasted_nano - given ELSE 0 END) AS nano
    FROM shares JOIN (SELECT e, sum(share) AS given FROM shares GROUP BY e) sums USING (e) GROUP BY id
)
"""  # noqa: S608  # our own words


# What became of the runs in `staged`: by the keys they are known by. A response's id leads to closed runs only.
_REACHED: Final = """
WITH known AS (
    SELECT tenant, run_id, key FROM staged JOIN run_joins USING (tenant, run_id)
    UNION
    SELECT tenant, run_id, key FROM staged JOIN run_keys USING (tenant, run_id) WHERE starts_with(key, 'response:')
),
reached AS (
    SELECT n.tenant, n.run_id, n.key, o.line, coalesce(r.start_ns, (
        SELECT min(c.start_ns) FROM call_rows c JOIN facets f ON f.id = c.facet
        WHERE c.run_id = n.run_id AND f.tenant = n.tenant
    ), 0) AS start_ns
    FROM known n
    JOIN outcome_keys k ON k.tenant = n.tenant AND k.key = n.key
    JOIN outcomes o ON o.tenant = k.tenant AND o.id = k.id
    LEFT JOIN runs r ON r.tenant = n.tenant AND r.run_id = n.run_id
)
"""


_MODEL_KINDS: Final = str(tuple(sorted(kind.value for kind in MODEL_KINDS)))

_BEGAN: Final = "SELECT f.tenant, c.run_id, NULL AS route FROM sums c JOIN facets f ON f.id = c.facet"
_BEGAN_BY_ROUTE: Final = f"""
    SELECT tenant, run_id, string_agg(model, ' → ' ORDER BY first_ns, model) FILTER (WHERE is_model) AS route
    FROM (
        SELECT f.tenant, c.run_id, coalesce(f.model, 'unknown') AS model, f.kind IN {_MODEL_KINDS} AS is_model,
            min(c.first_ns) AS first_ns
        FROM sums c JOIN facets f ON f.id = c.facet GROUP BY 1, 2, 3, 4
    ) firsts
"""  # noqa: S608  # our own words
_RUN_OF_PART: Final = "LEFT JOIN runs r ON r.tenant = f.tenant AND r.run_id = c.run_id"

# What each run that began in a stretch of time spent under each group of the dimensions, where news may be about it;
# the same added up for all others: of a run that spends, what spends nothing makes no row of its own. `route`: the
# models it went through, in the order of their first call. Calls are added up by run and facet before names are looked
# at: there are far fewer of these.
_PARTS: Final = f"""
WITH near AS (
    SELECT run_id FROM call_rows GROUP BY run_id HAVING max(start_ns) >= ? AND min(start_ns) < ?
),
sums AS (
    SELECT facet, run_id, {{session}} AS session, min(start_ns) AS first_ns, sum(nano) AS nano, count(*) AS calls
    FROM call_rows JOIN near USING (run_id) GROUP BY 1, 2, 3
),
began AS (
    {{began}} GROUP BY tenant, run_id
    HAVING min(first_ns) >= ? AND min(first_ns) < ? AND (?::VARCHAR IS NULL OR tenant = ?)
),
told AS (
    SELECT j.tenant, j.run_id FROM run_joins j
    WHERE EXISTS (SELECT 1 FROM outcome_keys o WHERE o.tenant = j.tenant AND o.key = j.key)
    UNION
    SELECT k.tenant, k.run_id FROM run_keys k
    WHERE EXISTS (SELECT 1 FROM outcome_keys o WHERE o.tenant = k.tenant AND o.key = k.key)
),
grouped AS (
    SELECT f.tenant, c.run_id, {{columns}} sum(c.nano) AS nano,
        coalesce(sum(c.calls) FILTER (WHERE f.kind IN {_MODEL_KINDS}), 0) AS model_calls,
        coalesce(sum(c.calls) FILTER (WHERE f.hole), 0) AS holes
    FROM sums c JOIN facets f ON f.id = c.facet
    JOIN began b ON b.tenant = f.tenant AND b.run_id = c.run_id {{runs}}
    GROUP BY f.tenant, c.run_id {{also}}
),
parts AS (
    SELECT g.*, t.run_id IS NOT NULL AS is_told
    FROM grouped g LEFT JOIN told t ON t.tenant = g.tenant AND t.run_id = g.run_id
),
spent AS (
    SELECT *, bool_or(spends) OVER (PARTITION BY tenant, run_id) AS any_spends
    FROM (SELECT *, nano IS NOT NULL OR model_calls + holes > 0 AS spends FROM parts WHERE NOT is_told) p
)
SELECT tenant, run_id, {{keys}} nano, model_calls, holes, NULL::BIGINT AS runs, NULL::BIGINT AS with_holes
FROM parts WHERE is_told
UNION ALL
SELECT NULL, NULL, {{keys}} sum(nano), sum(model_calls), sum(holes), count(*), count(*) FILTER (WHERE holes > 0)
FROM spent WHERE spends OR NOT any_spends GROUP BY {{group}} HAVING count(*) > 0
ORDER BY {{order}}
"""  # noqa: S608  # our own words


def _by_run(rows: Iterable[tuple[Any, ...]]) -> dict[tuple[str, str], list[Outcome]]:
    """Of (tenant, run id, start, shared key, line): the news that is about each run."""
    told: dict[tuple[str, str], list[tuple[str, Outcome]]] = {}
    starts: dict[tuple[str, str], int] = {}
    for tenant, run_id, start_ns, key, line in rows:
        starts[tenant, run_id] = start_ns
        told.setdefault((tenant, run_id), []).append((key, outcome_of(json.loads(line))))
    found = {run: reaching(news, starts[run]) for run, news in told.items()}
    return {run: news for run, news in found.items() if news}


def _place(by: Sequence[str], names: Sequence[str]) -> int:
    """What `grouping` says of rows that are grouped by some of the names."""
    return sum(1 << (len(names) - 1 - index) for index, name in enumerate(names) if name not in by)


def _dearest(by: Sequence[str], names: Sequence[str]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """Sort key of rows of sums: dearest first, what has no price last, then by their keys."""

    def key(row: tuple[Any, ...]) -> tuple[Any, ...]:
        nano, keys = row[len(names) + 1], (row[names.index(name)] for name in by)
        return nano is None, -(nano or 0), *((one is None, one or "") for one in keys)

    return key


def _told_sums(row: tuple[Any, ...], by: Sequence[str], names: Sequence[str]) -> Row:
    nano, calls, unpriced, incomplete, wasted, spent_in, spent_out = row[len(names) + 1 :]
    return {
        **{name: row[names.index(name)] for name in by},
        "cost_usd": usd(nano),
        "calls": calls,
        "unpriced_calls": unpriced,
        "incomplete_calls": incomplete,
        "wasted_usd": usd(wasted),
        "input_tokens": int(spent_in),
        "output_tokens": int(spent_out),
    }


def _span_of_time(since_ns: int | None, until_ns: int | None, tenant: str | None) -> tuple[str, list[object]]:
    where = "c.start_ns >= ? AND c.start_ns < ?"
    values: list[object] = [_from(since_ns), _until(until_ns)]
    if tenant is not None:
        where += " AND f.tenant = ?"
        values.append(tenant)
    return where, values


def _from(ns: int | None) -> int:
    return -1 if ns is None else min(ns, MOST)


def _until(ns: int | None) -> int:
    return MOST if ns is None else min(ns, MOST)


def _id_bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b"\0"  # no id looks like this


# ---- forgetting -----------------------------------------------------------------


def chosen(selection: Selection) -> tuple[str, list[object]]:
    """Which runs a selection means: a query for (tenant, run_id), and its parameters."""
    conditions, values = ["true"], list[object]()
    for condition, value in (
        ("tenant = ?", selection.tenant),
        ("run_id = ?", selection.run_id),
        ("end_ns < ?", selection.before_ns),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    if selection.user is not None:
        conditions.append('("user" = ? OR (tenant, run_id) IN (SELECT tenant, run_id FROM calls WHERE "user" = ?))')
        values += [selection.user, selection.user]
    return f"SELECT tenant, run_id FROM runs WHERE {' AND '.join(conditions)}", values  # noqa: S608  # our own text


def _shapes_told(condition: str) -> str:
    """A query for the shapes of loops and waste in alert lines: over episodes (`a`) that meet a condition."""
    latest = ", ".join(
        f"(array_agg(line::JSON ->> '{name}' ORDER BY at_ns DESC))[1] AS {name}" for name in ("kind", "rule", "summary")
    )
    return (
        "SELECT tenant, loop, count(*) AS times, count(DISTINCT run_id) AS runs,"  # noqa: S608  # our own words
        " coalesce(sum(wasted_nano), 0)::BIGINT AS nano,"
        f" min(begun_ns) AS first_ns, max(at_ns) AS last_ns, {latest}"
        " FROM (SELECT *, min(at_ns) OVER (PARTITION BY tenant, episode) AS begun_ns,"
        " (line::JSON -> 'evidence' ->> 'loop') AS loop,"
        f" (line::JSON ->> 'category') AS category, {_LAST_WORD} FROM alerts"
        f") a WHERE place = 1 AND loop IS NOT NULL AND category IN ('loop', 'waste') AND {condition}"
        " GROUP BY tenant, loop"
    )


_OF_DOOMED: Final = "(tenant, run_id) IN (SELECT tenant, run_id FROM doomed)"
_DOOMED_TABLES: Final = (
    "run_keys", "snapshots", "traces", "steps", "alerts", "corrections", "run_joins", "runs",
)  # fmt: skip
_REACHED_BY: Final = "SELECT tenant, key FROM run_joins {0} UNION SELECT tenant, key FROM run_keys {0}"
FORGET: Final = (
    """DELETE FROM call_rows WHERE id IN (SELECT c.id FROM call_rows c JOIN facets f ON f.id = c.facet
        JOIN doomed d ON d.tenant = f.tenant AND d.run_id = c.run_id)""",
    # News that reaches none but these runs goes with them; what it says of other work stays.
    f"""CREATE TEMP TABLE reached AS SELECT DISTINCT k.tenant, k.id FROM outcome_keys k
        JOIN ({_REACHED_BY.format("WHERE " + _OF_DOOMED)}) j ON j.tenant = k.tenant AND j.key = k.key""",  # noqa: S608
    *(f"DELETE FROM {table} WHERE {_OF_DOOMED}" for table in _DOOMED_TABLES),  # noqa: S608
    f"""DELETE FROM reached WHERE (tenant, id) IN (SELECT k.tenant, k.id FROM outcome_keys k
        JOIN ({_REACHED_BY.format("")}) j ON j.tenant = k.tenant AND j.key = k.key)""",  # noqa: S608
    "DELETE FROM outcome_keys WHERE (tenant, id) IN (SELECT tenant, id FROM reached)",
    "DELETE FROM outcomes WHERE (tenant, id) IN (SELECT tenant, id FROM reached)",
    # Names of users and attributes live in facets: those that nothing speaks of any more go as well.
    "DELETE FROM facets WHERE NOT EXISTS (SELECT 1 FROM call_rows c WHERE c.facet = facets.id)",
    "DROP TABLE reached",
)
"""What takes the runs in `doomed` (tenant, run_id) out, in order, in one transaction."""

KEEP_SHAPES: Final = (
    "INSERT INTO past_loops (tenant, loop, times, runs, nano, first_ns, last_ns, kind, rule, summary) "
    + _shapes_told(_OF_DOOMED)
    + """ ON CONFLICT (tenant, loop) DO UPDATE SET times = past_loops.times + excluded.times,
        runs = past_loops.runs + excluded.runs, nano = past_loops.nano + excluded.nano,
        first_ns = least(past_loops.first_ns, excluded.first_ns),
        last_ns = greatest(past_loops.last_ns, excluded.last_ns),
        kind = excluded.kind, rule = excluded.rule, summary = excluded.summary""",
    f"""DELETE FROM past_loops WHERE (tenant, loop) NOT IN
        (SELECT tenant, loop FROM past_loops ORDER BY last_ns DESC, tenant, loop LIMIT {MOST_SHAPES})""",  # noqa: S608
)
"""Before that, where runs go because they are old: what shapes of loops they have shown outlives them."""


def forgetting(selection: Selection | None) -> Iterator[tuple[str, Sequence[object]]]:
    """What takes out the runs in `doomed` and what else belongs to a selection (None: the oldest), with parameters.

    Of runs that are old the shapes of their loops stay; who wants to be forgotten, of him nothing stays.
    """
    if selection is None or (selection.before_ns is not None and not (selection.run_id or selection.user)):
        yield from ((statement, ()) for statement in KEEP_SHAPES)
    elif selection.tenant is not None and not (selection.run_id or selection.user):
        for table in ("past_loops", "tellers"):
            yield f"DELETE FROM {table} WHERE tenant = ?", (selection.tenant,)  # noqa: S608  # our own names
    yield from ((statement, ()) for statement in FORGET)
