"""Pages: an owner's first minute: what was spent, on what, what of it was wasted, and what has no price.

Made on the server from the same views as the API; they need nothing from
anywhere else, and everything a sender wrote is escaped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from otel_cost.core.enrich.lines import rfc3339, usd
from otel_cost.core.model.money import usd_to_nano
from otel_cost.edge.ledger.story import without_echoes
from otel_cost.edge.serve.when import instant_ns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from starlette.responses import Response

    from otel_cost.edge.ledger import Row
    from otel_cost.edge.ledger.story import Branch
    from otel_cost.edge.serve.views import Views

HERE: Final = Path(__file__).parent
_HOUR: Final = 3600 * 10**9
_DAY: Final = 24 * _HOUR
# What can be chosen, and how long one bar is.
_SPANS: Final = {"24h": (_DAY, _HOUR), "7d": (7 * _DAY, 6 * _HOUR), "30d": (30 * _DAY, _DAY)}
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
        self._views = views
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
            run_path=run_path,
            run_name=run_name,
            milliseconds=milliseconds,
        )

    def overview(self, since: str | None, tenant: str | None) -> Response:
        """Spend over time, dearest runs, spend by model and by user, alerts, holes.

        Raises:
            UsageError: `since` is no time.
        """
        now_ns = time.time_ns()
        chosen = since or "24h"
        ledger = self._views.ledger
        if since is None and not ledger.report(since_ns=now_ns - _DAY, tenant=tenant) and ledger.report(tenant=tenant):
            chosen = "all"  # old telemetry was read in: an empty page would hide it
        since_ns = None if chosen == "all" else instant_ns(chosen, now_ns)
        totals = next(iter(ledger.report(since_ns=since_ns, tenant=tenant)), None)
        models = ledger.report(["provider", "model"], since_ns, tenant=tenant)
        open_runs = self._views.open_runs(tenant)
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
            runs=self._views.runs(12, since_ns, None, tenant),
            open_runs=open_runs,
            models=_shares(row for row in models if row["cost_usd"] is not None)[:8],
            who={
                name: _shares(
                    row for row in ledger.report([name], since_ns, tenant=tenant) if row["cost_usd"] is not None
                )[:6]
                for name in ("user", "workflow")
            },
            alerts=ledger.alerts(12, since_ns, tenant),
            holes=[row for row in models if row["unpriced_calls"] or row["incomplete_calls"]][:8],
        )

    def run(self, run_or_trace_id: str, tenant: str | None) -> Response:
        """One run's story; 404 with a page for an unknown one."""
        run = self._views.run(run_or_trace_id, tenant)
        if run is None:
            return self._page("missing.html", 404, wanted=run_or_trace_id)
        blamed = {
            span_id: str(alert["category"]) for alert in run["alerts"] for span_id in alert["span_ids"] if span_id
        }
        tree, echoes = without_echoes(run["tree"])
        branches = list(flat(tree))
        dearest = _nano(run["cost_usd"]) or 0
        models = [call for call in run["calls"] if call["kind"] != "tool" or call["cost_usd"] is not None]
        return self._page(
            "run.html",
            run=run,
            now=rfc3339(time.time_ns()),
            tree=[
                (depth, branch, _share(branch["subtree_usd"], dearest), blamed.get(branch["span_id"] or ""))
                for depth, branch in branches[:_LINES]
            ],
            hidden=max(0, len(branches) - _LINES),
            echoes=echoes,
            calls=models[:_LINES],
            holes=[call for call in models if call["status"] != "priced" and call["reason"] != "failed_call"],
            route=[(leg, _share(leg["cost_usd"], dearest)) for leg in run["model_route"]],
            wasted_share=_share(run["wasted_usd"], dearest),
        )

    def _bars(self, chosen: str, since_ns: int | None, now_ns: int, tenant: str | None) -> list[Bar]:
        ledger = self._views.ledger
        if since_ns is None:
            days = ledger.spend_over_time(_DAY, 0, now_ns, tenant)
            if not days:
                return []
            since_ns, now_ns = days[0][0], min(now_ns, days[-1][0] + _DAY)
        length = _SPANS.get(chosen, (0, 0))[1] or _step(now_ns - since_ns)
        spent = dict(ledger.spend_over_time(length, since_ns, now_ns, tenant))
        return _chart(spent, since_ns // length * length, now_ns, length)

    def _page(self, name: str, status: int = 200, **values: Any) -> Response:  # noqa: ANN401  # whatever it shows
        return HTMLResponse(self._templates.get_template(name).render(values), status)


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


def flat(tree: Sequence[Branch]) -> Iterator[tuple[int, Branch]]:
    """Branches with their depth, each before what is below it."""
    waiting = [(0, branch) for branch in reversed(tree)]
    while waiting:
        depth, branch = waiting.pop()
        yield depth, branch
        waiting.extend((depth + 1, child) for child in reversed(branch["children"]))


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


def run_name(run: Row) -> object:
    """What a person calls it: its workflow, else its first agent, else its id."""
    agents: Any = run["agents"]
    return run["workflow"] or next(iter(agents), None) or run["run_id"]


def run_path(run_id: str) -> str:
    """Where a run's page is."""
    return f"/runs/{quote(run_id, safe='')}"
