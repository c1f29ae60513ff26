"""Backtest reports: what they show, and one HTML file with its charts in it that needs nothing from anywhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from otel_cost.core.enrich.lines import rfc3339
from otel_cost.edge.serve.pages import HERE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from otel_cost.core.backtest import Backtest, Fired, RuleResult

_WIDTH: Final = 640  # of a chart's bars, in its own units
_BUCKETS: Final = 48
_MOST_ALERTS: Final = 500


def report_of(result: Backtest, about: dict[str, str], made_ns: int) -> dict[str, Any]:
    """All that a report shows, as JSON types; `about`: what was tested against what, as label → text."""
    return {
        "made_at": rfc3339(made_ns),
        "about": about,
        "total": result.total(),
        "rules": [rule.line() for rule in result.rules],
        "money_bars": _bars([(rule.rule, _after(rule), _usd(_after(rule))) for rule in result.rules]),
        "harm_bars": _bars([(rule.rule, len(rule.harmed), str(len(rule.harmed))) for rule in result.rules]),
        "fires": _fires(result.shown),
        "alerts": [
            {
                "at": rfc3339(fired.alert.at_ns)[:19],
                "rule": fired.alert.rule,
                "run_id": fired.alert.run_id,
                "summary": fired.alert.summary,
                "actions": fired.actions.replace(",", ", "),
                "shadow": fired.shadow,
            }
            for fired in result.shown[:_MOST_ALERTS]
        ],
        "more": max(0, len(result.shown) - _MOST_ALERTS),
    }


def write_page(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report (`report_of`) as a page.

    Raises:
        OSError: it cannot be written.
    """
    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    style = (HERE / "static" / "style.css").read_text(encoding="utf-8")
    page = templates.get_template("backtest.html").render({**report, "style": style})
    path.write_text(page, encoding="utf-8", errors="replace")


def _after(rule: RuleResult) -> int:
    return sum(call.nano or 0 for call in rule.after.values())


def _usd(nano: int) -> str:
    return f"${nano / 1e9:,.4f}" if nano < 10**9 else f"${nano / 1e9:,.2f}"


def _bars(values: Sequence[tuple[str, int, str]]) -> list[dict[str, object]]:
    """Horizontal bars of what is not zero: label, length in the chart's units, and the figure beside it."""
    shown = [value for value in values if value[1]]
    most = max((amount for _, amount, _ in shown), default=1)
    return [
        {"label": label, "width": max(1, round(_WIDTH * amount / most, 1)), "figure": figure}
        for label, amount, figure in shown
    ]


def _fires(fired: Sequence[Fired]) -> dict[str, object]:
    """How many alerts fired when, in equal stretches of the time from the first to the last."""
    if not fired:
        return {"bars": [], "first": "", "last": ""}
    times = [one.alert.at_ns for one in fired]
    first, span = min(times), max(max(times) - min(times), 1)
    counts = [0] * _BUCKETS
    for at_ns in times:
        counts[min(_BUCKETS - 1, (at_ns - first) * _BUCKETS // span)] += 1
    most = max(counts)
    bars = [
        {"x": index * 20, "y": round(100 - 100 * count / most, 1), "height": round(100 * count / most, 1), "n": count}
        for index, count in enumerate(counts)
        if count
    ]
    return {"bars": bars, "first": rfc3339(first)[:19], "last": rfc3339(max(times))[:19]}
