"""Pages: an owner's first minute: what was spent, on what, what of it was wasted, and what has no price.

Made on the server from the same views as the API; they need nothing from
anywhere else, and everything a sender wrote is escaped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote, unquote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse
from starlette.routing import Route

from otel_cost.core.enrich.lines import rfc3339, usd
from otel_cost.core.model.money import usd_to_nano
from otel_cost.core.model.vocabulary import Category
from otel_cost.core.per_outcome import ROUTE
from otel_cost.edge.kept_backtests import kept_report, kept_reports
from otel_cost.edge.ledger.story import without_echoes
from otel_cost.edge.serve.drift_chart import drift_charts
from otel_cost.edge.serve.when import instant_ns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from otel_cost.edge.ledger import Row
    from otel_cost.edge.ledger.story import Branch
    from otel_cost.edge.serve.views import Views

HERE: Final = Path(__file__).parent
_HOUR: Final = 3600 * 10**9
_DAY: Final = 24 * _HOUR
# What can be chosen, and how long one bar is.
_SPANS: Final = {"24h": (_DAY, _HOUR), "7d": (7 * _DAY, 6 * _HOUR), "30d": (30 * _DAY, _DAY)}
_PACE_NS: Final = 10 * 60 * 10**9
_OVERVIEW: Final = ((), ("provider", "model"), ("user",), ("workflow",))
FOLD: Final = "rounds"
_ROUNDS: Final = 3  # so often the same again is shown as one line
_PERIOD: Final = 6  # steps of one round
_ROWS: Final = 100
_WARMING_S: Final = 10.0  # for all pages that are made before anybody asks
_AT_ONCE_S: Final = 0.03
_LINES: Final = 4000  # of one run's tree and calls; more no one reads, and no browser likes


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a chart, in units of its view box (1000 × 160)."""

    x: float
    y: float
    width: float
    height: float
    label: str
    cost_usd: str


class Pages:
    """HTML of each page."""

    def __init__(self, views: Views) -> None:
        self.views = views
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(
            money=money,
            count=count,
            percent=percent,
            clock=clock,
            dims=dims,
            moment=moment,
            run_path=run_path,
            run_name=run_name,
            milliseconds=milliseconds,
        )

    def warm(self) -> None:
        """Make what people open first, so that it is quick for them, too; other windows of time while that is cheap.

        Where even all that the ledger holds is shown at once, nothing else needs it; least of all an empty one.
        """
        if not self.views.ledger.runs(top=1):
            return
        begun_s = time.monotonic()
        self.overview(None, None)
        self.workflows(None, None)
        asked_s = time.monotonic()
        self.overview("all", None)
        if time.monotonic() - asked_s < _AT_ONCE_S:
            return
        self.workflows("all", None)
        for window in _SPANS:
            if time.monotonic() - begun_s > _WARMING_S:
                return
            self.overview(window, None)
            self.workflows(window, None)
        self.workflows(None, None, by_route=True)

    def living(self, path: str, query: Mapping[str, str]) -> Response | None:
        """The page at a path, if it is one that shows what happens; None: it is not.

        Raises:
            UsageError: `since` is no time.
        """
        tenant = query.get("tenant")
        if path == "/":
            return self.overview(query.get("since"), tenant)
        if path == "/budgets":
            return self.budgets(tenant)
        if path == "/alerts":
            return self.alerts(tenant)
        if path == "/workflows":
            return self.workflows(query.get("since"), tenant, by_route=query.get("by") == ROUTE)
        return self.run(unquote(path.removeprefix("/runs/")), tenant) if path.startswith("/runs/") else None

    def overview(self, since: str | None, tenant: str | None) -> Response:
        """Spend over time, dearest runs, spend by model and by user, alerts, holes.

        Raises:
            UsageError: `since` is no time.
        """
        now_ns = time.time_ns()
        chosen = since or "24h"
        ledger = self.views.ledger
        since_ns = None if chosen == "all" else instant_ns(chosen, now_ns)
        whole, models, *by_whom = self.views.reports(_OVERVIEW, chosen, since_ns, tenant)
        if since is None and not whole:
            # Old telemetry was read in: an empty page would hide it.
            whole, models, *by_whom = self.views.reports(_OVERVIEW, "all", None, tenant)
            chosen, since_ns = ("all", None) if whole else (chosen, since_ns)
        totals = next(iter(whole), None)
        open_runs = self.views.open_runs(tenant)
        bars = self._bars(chosen, since_ns, now_ns, tenant)
        return self._page(
            "overview.html",
            chosen=chosen,
            spans=[*_SPANS, "all"],
            tenant=tenant,
            now=rfc3339(now_ns),
            totals=totals,
            wasted_share=_share(totals["wasted_usd"], _nano(totals["cost_usd"]) or 0) if totals else 0.0,
            bars=bars,
            highest=max((bar.cost_usd for bar in bars), key=usd_to_nano, default="0"),
            runs=self.views.runs(12, since_ns, None, tenant),
            open_runs=open_runs,
            models=_shares(row for row in models if row["cost_usd"] is not None)[:8],
            who={
                name: _shares(row for row in rows if row["cost_usd"] is not None)[:6]
                for name, rows in zip(("user", "workflow"), by_whom, strict=True)
            },
            alerts=ledger.alerts(12, since_ns, tenant),
            pace_usd=self._pace(now_ns, tenant),
            budgets=[(row, min(float(str(row["used_share"])), 1.0)) for row in self.views.budgets(tenant, 4)],
            loops=self._looping(open_runs, tenant),
            listens=self.views.host.listens,
            holes=[row for row in models if row["unpriced_calls"] or row["incomplete_calls"]][:8],
        )

    def budgets(self, tenant: str | None) -> Response:
        """Every budget's groups in the window that is running, the fullest first."""
        rows = self.views.budgets(tenant)
        return self._page(
            "budgets.html",
            tenant=tenant,
            now=rfc3339(time.time_ns()),
            rows=[(row, min(float(str(row["used_share"])), 1.0)) for row in rows],
        )

    def alerts(self, tenant: str | None) -> Response:
        """What is firing, what was, who has it in hand, what is silenced."""
        alerts = self.views.alerts(200, tenant)
        firing = [alert for alert in alerts if alert["state"] == "firing" and alert["severity"] != "notice"]
        shown = {alert["id"] for alert in firing}
        return self._page(
            "alerts.html",
            tenant=tenant,
            now=rfc3339(time.time_ns()),
            firing=firing,
            past=[alert for alert in alerts if alert["id"] not in shown],
            silences=self.views.silences(tenant),
            untold=[] if tenant is not None else self.views.untold(),
        )

    def workflows(self, since: str | None, tenant: str | None, *, by_route: bool = False) -> Response:
        """What each workflow costs, what its outcomes cost (by model route if asked), and which have become dearer.

        Raises:
            UsageError: `since` is no time.
        """
        chosen = since or "30d"
        now_ns = time.time_ns()
        since_ns = None if chosen == "all" else instant_ns(chosen, now_ns)
        (spent,) = self.views.reports([["workflow"]], chosen, since_ns, tenant)
        drift = self.views.alerts(500, tenant, Category.DRIFT)
        return self._page(
            "workflows.html",
            chosen=chosen,
            spans=[*_SPANS, "all"],
            tenant=tenant,
            now=rfc3339(now_ns),
            rows=_shares(spent)[:_ROWS],
            outcomes=self.views.per_outcome(
                ["workflow", ROUTE] if by_route else ["workflow"], chosen, since_ns, tenant
            )[:_ROWS],
            by_route=by_route,
            drift=drift[:20],
            charts=drift_charts(self.views.drift(tenant), drift),
        )

    def backtests(self, tenant: str | None) -> Response:
        """Kept reports, the newest first. They are over all tenants together: none for who sees one only."""
        reports = [] if tenant is not None else kept_reports(self.views.host.backtests)
        return self._page("backtests.html", tenant=tenant, reports=reports)

    def backtest(self, report_id: str, tenant: str | None) -> Response:
        """One kept report; 404 with a page for an unknown one."""
        report = None if tenant is not None else kept_report(self.views.host.backtests, report_id)
        if report is None:
            return self._page("missing.html", 404, wanted=report_id)
        return self._page("kept_backtest.html", **report)

    def run(self, run_or_trace_id: str, tenant: str | None) -> Response:
        """One run's story; 404 with a page for an unknown one."""
        run = self.views.run(run_or_trace_id, tenant)
        if run is None:
            return self._page("missing.html", 404, wanted=run_or_trace_id)
        blamed = {
            span_id: str(alert["category"]) for alert in run["alerts"] for span_id in alert["span_ids"] if span_id
        }
        tree, echoes = without_echoes(run["tree"])
        branches = list(flat(folded(tree)))
        dearest = _nano(run["cost_usd"]) or 0
        models = [call for call in run["calls"] if call["kind"] != "tool" or call["cost_usd"] is not None]
        return self._page(
            "run.html",
            run=run,
            now=rfc3339(time.time_ns()),
            tree=[
                (depth, branch, _share(branch["subtree_usd"], dearest), blamed.get(branch["span_id"] or ""), hidden)
                for depth, branch, hidden in branches[:_LINES]
            ],
            timeline=_timeline(run, dearest),
            parts=[(name, usd_, _share(usd_, dearest)) for name, usd_ in _parts(run["sums"]) if usd_ != "0"],
            hidden=max(0, len(branches) - _LINES),
            echoes=echoes,
            calls=models[:_LINES],
            holes=[call for call in models if call["status"] != "priced" and call["reason"] != "failed_call"],
            route=[(leg, _share(leg["cost_usd"], dearest)) for leg in run["model_route"]],
            wasted_share=_share(run["wasted_usd"], dearest),
        )

    def _pace(self, now_ns: int, tenant: str | None) -> str:
        """Dollars an hour, as spent in the last ten minutes."""
        spent = self.views.spend_over_time(_PACE_NS, "pace", now_ns - _PACE_NS, now_ns, tenant)
        return usd(sum(nano for _, nano in spent) * (_HOUR // _PACE_NS)) or "0"

    def _looping(self, open_runs: Sequence[Row], tenant: str | None) -> list[Row]:
        """Loops that are burning: the last word on them is that they go on, and their runs are open."""
        # An alert names the run as it was called then; the trace stays.
        known: set[object] = {run["run_id"] for run in open_runs}
        known.update(trace_id for run in open_runs for trace_id in cast("list[str]", run["trace_ids"]))
        return [
            alert
            for alert in (self.views.ledger.alerts(200, None, tenant) if open_runs else ())
            if alert["state"] == "firing"
            and alert["category"] == "loop"
            and {alert["run_id"], alert["trace_id"]} & known
        ][:8]

    def _bars(self, chosen: str, since_ns: int | None, now_ns: int, tenant: str | None) -> list[Bar]:
        over_time = self.views.spend_over_time
        if since_ns is None:
            days = over_time(_DAY, "all", 0, now_ns, tenant)
            if not days:
                return []
            since_ns, now_ns = days[0][0], min(now_ns, days[-1][0] + _DAY)
        length = _SPANS.get(chosen, (0, 0))[1] or _step(now_ns - since_ns)
        spent = dict(over_time(length, chosen, since_ns, now_ns, tenant))
        return _chart(spent, since_ns // length * length, now_ns, length)

    def _page(self, name: str, status: int = 200, **values: Any) -> Response:  # noqa: ANN401  # whatever it shows
        return HTMLResponse(self._templates.get_template(name).render(values), status)


def page_routes(pages: Pages) -> list[Route]:
    """Where the pages are."""

    def asked(request: Request, name: str) -> str | None:
        return request.query_params.get(name)

    def overview(request: Request) -> Response:
        return pages.overview(asked(request, "since"), asked(request, "tenant"))

    def budgets(request: Request) -> Response:
        return pages.budgets(asked(request, "tenant"))

    def alerts(request: Request) -> Response:
        return pages.alerts(asked(request, "tenant"))

    def workflows(request: Request) -> Response:
        by_route = asked(request, "by") == ROUTE
        return pages.workflows(asked(request, "since"), asked(request, "tenant"), by_route=by_route)

    def backtests(request: Request) -> Response:
        return pages.backtests(asked(request, "tenant"))

    def backtest(request: Request) -> Response:
        return pages.backtest(request.path_params["id"], asked(request, "tenant"))

    def run(request: Request) -> Response:
        return pages.run(request.path_params["id"], asked(request, "tenant"))

    return [
        Route("/", overview),
        Route("/budgets", budgets),
        Route("/alerts", alerts),
        Route("/workflows", workflows),
        Route("/backtests", backtests),
        Route("/backtests/{id}", backtest),
        Route("/runs/{id:path}", run),
    ]


def _chart(spent: dict[int, int], first_ns: int, until_ns: int, length_ns: int) -> list[Bar]:
    starts = range(first_ns, max(until_ns, first_ns + 1), length_ns)
    most = max(spent.values(), default=0) or 1
    slot = 1000 / len(starts)
    bars = []
    for index, start in enumerate(starts):
        nano = spent.get(start, 0)
        height = 150 * nano / most
        label = clock(rfc3339(start))
        if nano:
            height = max(height, 1.5)
        bars.append(Bar(index * slot + slot * 0.1, 160 - height, slot * 0.8, height, label, usd(nano) or "0"))
    return bars


def _step(range_ns: int) -> int:
    """A length of bar that makes at most 60 of them."""
    for length in (_HOUR // 4, _HOUR, 6 * _HOUR, _DAY, 7 * _DAY, 30 * _DAY):
        if range_ns <= 60 * length:
            return length
    return range_ns // 60 + 1


def flat(tree: Sequence[Branch]) -> Iterator[tuple[int, Branch, bool]]:
    """(depth, branch, hidden) of every branch, each before what is below it; hidden: inside a fold."""
    waiting = [(0, branch, False) for branch in reversed(tree)]
    while waiting:
        depth, branch, hidden = waiting.pop()
        yield depth, branch, hidden
        inside = hidden or branch["kind"] == FOLD
        waiting.extend((depth + 1, child, inside) for child in reversed(branch["children"]))


def folded(tree: Sequence[Branch]) -> list[Branch]:
    """Rounds of a loop as one line: the same steps again and again, side by side, with the sum of what they cost."""
    top: list[Branch] = []
    waiting: list[tuple[Sequence[Branch], list[Branch]]] = [(tree, top)]
    while waiting:
        branches, target = waiting.pop()
        names = [(one["kind"], one["name"], one["agent"]) for one in branches]
        fresh: list[Branch] = []
        for one in branches:
            below: list[Branch] = []
            waiting.append((one["children"], below))
            fresh.append({**one, "children": below})
        at = 0
        while at < len(fresh):
            period, rounds = _repeats(names, at)
            end = at + period * rounds
            target.extend(fresh[at:end] if rounds < _ROUNDS else [_fold(fresh[at:end], period, rounds)])
            at = end
    return top


def _repeats(names: Sequence[object], at: int) -> tuple[int, int]:
    """(period, rounds) of what repeats itself from here on, the longest stretch; (1, 1): nothing does."""
    best = (1, 1)
    for period in range(1, _PERIOD + 1):
        rounds, shape = 1, names[at : at + period]
        while names[at + rounds * period : at + (rounds + 1) * period] == shape:
            rounds += 1
        if rounds >= _ROUNDS and period * rounds > best[0] * best[1]:
            best = (period, rounds)
    return best


def _fold(steps: Sequence[Branch], period: int, rounds: int) -> Branch:
    costs = [_nano(one["subtree_usd"]) for one in steps]
    known = [nano for nano in costs if nano is not None]
    return {
        **steps[0],
        "span_id": None,
        "call_id": None,
        "kind": FOLD,
        "name": f"{' → '.join(str(one['name']) for one in steps[:period])} × {rounds}",
        "duration_ms": sum(one["duration_ms"] for one in steps),
        "failed": any(one["failed"] for one in steps),
        "status": None,
        "self_usd": None,
        "subtree_usd": usd(sum(known)) if known else None,
        "children": list(steps),
    }


def _timeline(run: Row, dearest: int) -> list[dict[str, Any]]:
    """What rules said and when, with what the run had cost by then."""
    calls: Any = run["calls"]
    spent = sorted((str(call["end_time"]), _nano(call["cost_usd"]) or 0) for call in calls)
    alerts: Any = run["alerts"]
    told = []
    for alert in sorted(alerts, key=lambda one: int(one["at_unix_nano"])):
        at = rfc3339(int(alert["at_unix_nano"]))
        by_then = sum(nano for ended, nano in spent if ended <= at)
        told.append(
            {
                "at": at,
                "alert": alert,
                "spent_usd": usd(by_then),
                "share": by_then / dearest if dearest else 0.0,
                "compared": _compared(alert["evidence"]),
            }
        )
    return told


def _compared(evidence: Row) -> str:
    """The numbers that a rule compared, where it names them."""
    if evidence.get("observed") is not None and evidence.get("threshold") is not None:
        return f"{money(str(evidence['observed']))} of {money(str(evidence['threshold']))}"
    for name in ("repeats", "times", "failures", "rounds"):
        if evidence.get(name) is not None:
            return f"{evidence[name]} {name}"
    return ""


def _parts(sums: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401  # `story.sums`
    for name, key in (
        ("carried context", "carried_usd"),
        ("new input", "new_usd"),
        ("output", "output_usd"),
        ("fees", "fee_usd"),
        ("other", "other_usd"),
    ):
        if sums["cost"].get(key) is not None:
            yield name, sums["cost"][key]


def _shares(rows: Iterable[Row]) -> list[tuple[Row, float]]:
    """Rows with their share of the whole, 0 to 1."""
    rows = list(rows)
    whole = sum(_nano(row["cost_usd"]) or 0 for row in rows)
    return [(row, _share(row["cost_usd"], whole)) for row in rows]


def _share(cost_usd: object, of_nano: int) -> float:
    return (_nano(cost_usd) or 0) / of_nano if of_nano else 0.0


def _nano(cost_usd: object) -> int | None:
    return None if cost_usd is None else usd_to_nano(str(cost_usd))


def money(cost_usd: str | None) -> str:
    """Money for the eye: `$1,234.50`, `$0.0225`, `< $0.0001`; unknown is said, never shown as zero."""
    if cost_usd is None:
        return "no price"
    nano = usd_to_nano(cost_usd)
    if nano == 0:
        return "$0"
    if nano < 100_000:
        return "< $0.0001"
    if nano < 10**9:
        return f"${nano / 1e9:.4f}"
    return f"${nano / 1e9:,.2f}"


def count(number: int | None) -> str:
    """A count in groups of three digits."""
    return "–" if number is None else f"{number:,}"


def percent(share: float) -> str:
    """A share, 0 to 1, in whole percent; what is not nothing does not look like it."""
    return "< 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def milliseconds(duration: float) -> str:
    """A duration in its fitting unit."""
    if duration < 1000:
        return f"{duration:.0f} ms"
    return f"{duration / 1000:.1f} s" if duration < 60_000 else f"{duration / 60_000:.1f} min"


def clock(instant: str) -> str:
    """`2026-11-23 14:05` of an RFC 3339 instant, UTC."""
    return instant[:16].replace("T", " ")


def moment(unix_nano: str) -> str:
    """`2026-11-23 14:05` of Unix nanoseconds, UTC."""
    return clock(rfc3339(int(unix_nano)))


def dims(values: Row) -> str:
    """`team red, user ann` of a budget's group."""
    return ", ".join(f"{name} {value or 'unattributed'}" for name, value in values.items()) or "everyone together"


def run_name(run: Row) -> object:
    """What a person calls it: its workflow, else its first agent, else its id."""
    agents: Any = run["agents"]
    return run["workflow"] or next(iter(agents), None) or run["run_id"]


def run_path(run_id: str) -> str:
    """Where a run's page is."""
    return f"/runs/{quote(run_id, safe='')}"
