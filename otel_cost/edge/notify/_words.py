"""An alert in words for people: short, in dollars, with who and where; names and numbers only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    AlertJson = Mapping[str, Any]


def title(message: Mapping[str, Any]) -> str:
    """`[FIRING:2] same-error-3x (team: payments)`, in Alertmanager's manner."""
    alerts = message["alerts"]
    firing = sum(alert["state"] == "firing" for alert in alerts)
    head = f"[FIRING:{firing}]" if firing else "[RESOLVED]"
    rules = ", ".join(dict.fromkeys(str(alert["rule"]) for alert in alerts))
    group = ", ".join(
        f"{name}: {value}" for name, value in message["group"].items() if value and name not in {"tenant", "rule"}
    )
    return f"{head} {rules}{f' ({group})' if group else ''}"


def facts(alert: AlertJson) -> Iterator[tuple[str, str]]:
    """What an owner needs to judge, by name; what is not known is left out."""
    evidence = alert.get("evidence") or {}
    if alert.get("wasted_usd") is not None:
        yield "wasted", f"{alert['wasted_usd']} USD"
    if evidence.get("cost_usd") is not None:
        yield "cost so far", f"{evidence['cost_usd']} USD"
    if evidence.get("observed") is not None and evidence.get("threshold") is not None:
        yield "spent of limit", f"{evidence['observed']} of {evidence['threshold']} USD"
    for name in ("user", "team", "workflow", "agent"):
        if evidence.get(name):
            yield name, str(evidence[name])
    route = evidence.get("model_route")
    if route:
        yield "models", " → ".join(map(str, route))
    tools = evidence.get("tools")
    if tools:
        yield "tools", ", ".join(f"{name} ×{count}" for name, count in tools.items())
    if evidence.get("retries"):
        yield "retries", str(evidence["retries"])
    if evidence.get("outcome"):
        yield "outcome", str(evidence["outcome"])
    if alert.get("action"):
        yield "action", str(alert["action"])
    yield "run", str(alert["run_id"])
    if alert.get("trace_id"):
        yield "trace", str(alert["trace_id"])


def link(alert: AlertJson) -> str | None:
    """The run's page."""
    links = alert.get("links")
    return links.get("run") if isinstance(links, dict) else None


def plain_text(message: Mapping[str, Any]) -> str:
    """All of it as lines of text."""
    lines: list[str] = []
    for alert in message["alerts"]:
        lines.append(f"{alert['severity'].upper()} {alert['state']}: {alert['rule']}: {alert['summary']}")
        lines.extend(f"  {name}: {value}" for name, value in facts(alert))
        url = link(alert)
        lines.extend([f"  {url}"] if url else [])
        lines.append("")
    return "\n".join(lines)
