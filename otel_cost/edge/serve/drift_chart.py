"""Drift chart: what the runs of one group cost, run by run, beside what is normal, and when it became dearer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.enrich.lines import rfc3339
from otel_cost.core.model.money import usd_to_nano

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from otel_cost.edge.ledger import Row

# Units of the view box.
WIDTH: Final = 1000
HEIGHT: Final = 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 14, 150
_MOST: Final = 12


@dataclass(frozen=True, slots=True)
class Dot:
    """A run."""

    x: float
    y: float
    run: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time in which the work was dearer."""

    x: float
    width: float
    label: str
    is_over: bool


@dataclass(frozen=True, slots=True)
class DriftChart:
    """One group of one rule; `normal_y`, `limit_y`, `fired_x`: where their lines are."""

    row: Mapping[str, Any]  # of `Drift.standings`
    name: str
    dots: tuple[Dot, ...]
    stretches: tuple[Stretch, ...]
    normal_y: float | None
    limit_y: float | None
    fired_at: str | None
    fired_x: float | None
    highest_usd: str
    first: str
    last: str

    @property
    def told(self) -> str:
        """The chart in words."""
        row, runs = self.row, self.row["runs"]
        dear = sum(one["dear"] for one in runs)
        normal = (
            "nothing is known to be normal yet" if row["baseline_usd"] is None else f"normal: {row['baseline_usd']}"
        )
        return f"{self.name}: cost of the last {len(runs)} runs, {dear} of them dear; {normal} USD"


def drift_charts(standings: Iterable[Mapping[str, Any]], alerts: Iterable[Row]) -> list[DriftChart]:
    """The groups that have run more than once, dear ones first; `alerts`: those of drift, for times that are over."""
    told = list(alerts)
    return [_chart(row, told) for row in standings if len(row["runs"]) > 1][:_MOST]


def _chart(row: Mapping[str, Any], alerts: Iterable[Mapping[str, Any]]) -> DriftChart:
    runs = row["runs"]
    ends = [_seconds(run["end_time"]) for run in runs]
    costs = [usd_to_nano(run["cost_usd"]) for run in runs]
    lines = {name: None if row[name] is None else usd_to_nano(row[name]) for name in ("baseline_usd", "threshold_usd")}
    most = max([*costs, *(nano for nano in lines.values() if nano is not None), 1])
    first, last = ends[0], ends[-1]

    def x(at: float) -> float:
        share = (at - first) / (last - first) if last > first else 0.5
        return _LEFT + min(max(share, 0.0), 1.0) * (WIDTH - _LEFT - _RIGHT)

    def y(nano: int | None) -> float | None:
        return None if nano is None else _BOTTOM - (_BOTTOM - _TOP) * nano / most

    stretches = []
    for alert in alerts:
        evidence: Any = alert["evidence"]
        mine = (alert["rule"], alert["tenant"], evidence.get("group"), evidence.get("loop"))
        if mine != (row["rule"], row["tenant"], row["group"], row["loop"]) or "since" not in evidence:
            continue
        is_over = alert["state"] == "resolved"
        since, until = _seconds(evidence["since"]), int(alert["at_unix_nano"]) / 1e9 if is_over else last
        if until >= first:
            label = f"dearer from {evidence['since'][:16]}Z" + (
                " on" if not is_over else f", {evidence['breaches']} runs"
            )
            stretches.append(Stretch(x(since), max(x(until) - x(since), 4.0), label.replace("T", " "), is_over))
    fired = next((alert for alert in alerts if alert["id"] == row["alert_id"]), None)
    fired_ns = None if fired is None else int(fired["at_unix_nano"])
    values = [str(value) for value in row["group"].values() if value]
    name = ", ".join(values) or "unattributed" if row["group"] else "all runs together"
    return DriftChart(
        row=row,
        name=name if row["loop"] is None else f"{name}, loop {row['loop']}",
        dots=tuple(Dot(x(at), y(nano) or 0.0, run) for at, nano, run in zip(ends, costs, runs, strict=True)),
        stretches=tuple(stretches),
        normal_y=y(lines["baseline_usd"]),
        limit_y=y(lines["threshold_usd"]),
        fired_at=None if fired_ns is None else rfc3339(fired_ns),
        fired_x=None if fired_ns is None else x(fired_ns / 1e9),
        highest_usd=max((run["cost_usd"] for run in runs), key=usd_to_nano),
        first=runs[0]["end_time"],
        last=runs[-1]["end_time"],
    )


def _seconds(instant: str) -> float:
    return datetime.fromisoformat(f"{instant[:26].rstrip('Z')}+00:00").timestamp()
