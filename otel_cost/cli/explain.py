"""One run's story in money."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otel_cost.cli._source import Row, open_source, printable
from otel_cost.core.enrich.lines import rfc3339
from otel_cost.core.model.money import nano_to_text, usd_to_nano
from otel_cost.edge.ledger.story import Branch, without_echoes
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

_STEPS = 60
_CALLS = 30


def explain(
    run_or_trace: Annotated[str, typer.Argument(help="A run id, session id or trace id")],
    full: Annotated[bool, typer.Option("--full", help="Every step and call, however many")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The whole story as one JSON object")] = False,
    config: Annotated[list[Path] | None, typer.Option("--config", "-c", help="Config of the service")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the service keeps its data")] = None,
) -> None:
    """One run's story in money: what it cost, what of it was wasted and from where on, step by step."""
    run = open_source(config, data_dir).run(run_or_trace)
    if run is None:
        raise UsageError(
            f"no run or trace `{printable(run_or_trace)}` is known\n"
            "    `otel-cost top --since 30d` lists the dearest; a run shows about two seconds after its first call"
        )
    if as_json:
        print(json.dumps(run, ensure_ascii=False))
        return
    from otel_cost.cli._terminal import console

    _tell(console(), run, full=full)


def _tell(out: Console, run: Row, *, full: bool) -> None:
    from rich.markup import escape

    from otel_cost.cli._tables import money

    who = ", ".join(f"{name} {printable(run[name]) or 'unattributed'}" for name in ("user", "team", "workflow"))
    out.print(f"[bold]Run {escape(printable(run['run_id']))}[/]{' [green](open)[/]' if run['open'] else ''}")
    out.print(f"[dim]{run['start_time'][:19]}Z, {_duration(run)}; {escape(who)}[/]", soft_wrap=True)
    out.print()
    holes = Counter(
        str(call["reason"] or "incomplete").replace("_", " ")
        for call in run["calls"]
        if (
            call["status"] != "priced"
            and call["kind"] in {"inference", "embedding"}
            and call["reason"] != "failed_call"
        )
        or "incomplete" in call["flags"]
    )
    if run["complete"]:
        out.print(f"It cost [bold]{money(run['cost_usd'])}[/]: every call has a price.")
    else:
        why = ", ".join(f"{count} × {reason}" for reason, count in holes.most_common())
        known = "An unknown amount" if run["cost_usd"] is None else f"[bold]{money(run['cost_usd'])}[/] at least"
        out.print(f"It cost {known}: [yellow]not all calls have a full price ({why})[/].", soft_wrap=True)
    if run["wasted_usd"] is None:
        out.print("[red]Some of it was wasted[/], on calls without a price.")
    elif run["wasted_usd"] != "0":
        out.print(f"[red]{money(run['wasted_usd'])} of it was wasted[/]{_percent(run)}.")
    errors = f", {run['errors']} of them failed" if run["errors"] else ""
    out.print(f"{run['llm_calls']} model calls, {run['tool_calls']} tool calls{errors}.")
    if run["model_route"]:
        legs = [
            f"{escape(printable(leg['model']))} × {leg['calls']} {money(leg['cost_usd'])}" for leg in run["model_route"]
        ]
        out.print(f"Route: {' → '.join(legs)}", soft_wrap=True)
    _tell_sums(out, run["sums"])
    _tell_verdict(out, run)
    _tell_alerts(out, run)
    out.print()
    tree, echoes = without_echoes(run["tree"])
    steps = _flat(tree if full else folded(tree))
    out.print(_tree(run, steps if full else steps[:_STEPS]))
    if not full and len(steps) > _STEPS:
        out.print(f"… and {len(steps) - _STEPS} more steps: --full")
    if echoes:
        out.print(f"[dim]{echoes} more records tell of the same calls; each call is counted and shown once.[/]")
    _tell_turns(out, run["sums"], full=full)
    _tell_calls(out, run, full=full)
    for one in run["corrections"]:
        out.print(
            f"Corrected: {escape(printable(one['why']))}: {money(one['old_usd'])} became {money(one['new_usd'])}",
            soft_wrap=True,
        )


def _tell_sums(out: Console, sums: Row) -> None:
    """What the money was for: new work and what came back, first tries and others, who rode along, whose work."""
    from rich.markup import escape

    from otel_cost.cli._tables import money, number

    names = {
        "new": "new input",
        "carried": "carried context",
        "output": "output",
        "fee": "fees",
        "other": "not itemised",
    }
    parts = [(name, sums["cost"][f"{key}_usd"]) for key, name in names.items()]
    out.print(f"For {', '.join(f'{name} {money(usd)}' for name, usd in parts if usd != '0') or 'nothing'}.")
    tries = sums["tries"]
    again = [f"{money(tries[f'{key}_usd'])} for {name} ({tries[f'{key}_calls']} calls)" for key, name in _AGAIN.items()
             if tries[f"{key}_calls"]]  # fmt: skip
    if again:
        out.print(f"First tries {money(tries['first_usd'])}; [yellow]{', '.join(again)}[/].")
    for one in sums["carried"][:3]:
        if one["carried_usd"] != "0":
            who = f" of {escape(printable(one['name']))}" if one["origin"] in {"tool", "answer"} else ""
            out.print(
                f"[dim]Rode along: {_ORIGINS[one['origin']]}{who}, {number(one['tokens'])} tokens, "
                f"sent again {one['calls']} times for {money(one['carried_usd'])}[/]"
            )
    if len(sums["agents"]) > 1:
        threads = [
            f"{escape(printable(one['agent']) or 'unattributed')} {money(one['cost_usd'])}"
            + (f" ({money(one['subtree_usd'])} with its agents)" if one["subtree_usd"] != one["cost_usd"] else "")
            for one in sums["agents"]
        ]
        out.print(f"Agents: {', '.join(threads[:8])}{' …' if len(threads) > 8 else ''}", soft_wrap=True)


_AGAIN = {"retry": "retries", "rework": "rework"}
_ORIGINS = {"tool": "a result", "answer": "an answer", "prompt": "the prompt it began with", "message": "a message"}
_TURNS = 20


def _tell_turns(out: Console, sums: Row, *, full: bool) -> None:
    from rich.markup import escape

    from otel_cost.cli._tables import money, number

    turns = sums["turns"]
    if len(turns) < 2:
        return
    table = _plain_table()
    table.title, table.title_justify, table.title_style = "Turns", "left", "bold"
    for name in ("agent", "", "then"):
        table.add_column(name, overflow="fold")
    for name in ("input", "came back", "its cost", "new", "with tools"):
        table.add_column(name, justify="right", no_wrap=True)
    for turn in turns if full else turns[:_TURNS]:
        tried = "" if turn["attempt"] == "first" else f" [yellow]{turn['attempt']}[/]"
        table.add_row(
            f"{escape(printable(turn['agent']) or 'unattributed')} {turn['turn']}",
            f"{escape(printable(turn['model']))}{tried}{' [red]failed[/]' if turn['failed'] else ''}",
            escape(printable(", ".join(turn["tools"]))),
            number(turn["input_tokens"]),
            number(turn["carried_tokens"]) if turn["carried_tokens"] else "",
            money(turn["carried_usd"]) if turn["carried_tokens"] else "",
            money(turn["new_usd"]),
            money(turn["cost_usd"]),
        )
    out.print(table)
    if not full and len(turns) > _TURNS:
        out.print(f"… and {len(turns) - _TURNS} more turns: --full")


_VERDICTS = {"worth_it": "[green]Worth it[/]", "waste": "[red]Waste[/]", "unknown": "Worth it? [yellow]Unknown[/]"}


def _tell_verdict(out: Console, run: Row) -> None:
    from rich.markup import escape

    out.print(f"{_VERDICTS[run['verdict']]}: {escape(printable(run['verdict_why']))}.", soft_wrap=True)
    for one in run["outcomes"][-10:]:
        about = f" {printable(one['subject'])}" if one["subject"] else ""
        word = printable(one["label"] if one["label"] is not None else one["score"])
        link = f" {printable(one['url'])}" if one["url"] else ""
        told = f"{one['at'][:19]}Z {printable(one['name'])}{about}: {one['value']}{f' ({word})' if word else ''}{link}"
        out.print(f"[dim]  {escape(told)}[/]", soft_wrap=True)


def _tell_alerts(out: Console, run: Row) -> None:
    from rich.markup import escape

    from otel_cost.cli._tables import money

    steps = {branch["span_id"]: branch for _, branch in _flat(run["tree"])}
    colours = {"critical": "red", "warning": "yellow"}
    for alert in run["alerts"]:
        colour = colours.get(alert["severity"], "cyan")
        onset = steps.get(alert["onset_span_id"]) if alert["onset_span_id"] else None
        since = f" from {onset['start_time'][11:19]} on ({escape(printable(onset['name']))})" if onset else ""
        wasted = "" if alert["wasted_usd"] in {None, "0"} else f", wasted {money(alert['wasted_usd'])}"
        asked = f"; decides {alert['action']}" if alert["action"] else ""
        over = "; over" if alert["state"] == "resolved" else ""
        at = rfc3339(int(alert["at_unix_nano"]))[11:19]
        out.print(
            f"[dim]{at}[/] [{colour}]{alert['severity']}[/] {escape(printable(alert['rule']))}: "
            f"[bold]{escape(printable(alert['summary']))}[/]{since}{wasted}{asked}{over}",
            soft_wrap=True,
        )
        for line in _compared(alert):
            out.print(f"  [dim]{escape(printable(line))}[/]", soft_wrap=True)


# What a rule compared, in the order in which it is read; each kind of rule tells some of it.
_NUMBERS = {
    "observed": "{} USD counted",
    "threshold": "from {} USD on",
    "limit_usd": "limit {} USD",
    "spent_usd": "{} USD spent in all",
    "window": "{}",
    "burn_rate": "{} times the pace of the limit",
    "exhausted_at": "used up at {}",
    "top_run_usd": "the run's share {} USD",
    "needed": "needs {} failures",
    "seen": "has seen {}",
    "repeats": "{} times the same",
    "rounds": "{} rounds",
    "carried_tokens": "{} tokens carried along",
}


def _compared(alert: Row) -> list[str]:
    """The numbers behind an alert, the exceptions that it counts, and what would change it."""
    evidence = alert.get("evidence") or {}
    said = [form.format(evidence[name]) for name, form in _NUMBERS.items() if evidence.get(name) is not None]
    group = evidence.get("group")
    if isinstance(group, dict) and group:
        said.insert(0, ", ".join(f"{name} {value or '(unknown)'}" for name, value in group.items()))
    lines = [f"compared: {'; '.join(said)}"] if said else []
    used = evidence.get("exceptions")
    for one in used if isinstance(used, list) else []:
        left = "" if one.get("left_usd") is None else f", {one['left_usd']} left"
        lines.append(
            f"exception {one['name']} took {one['used_usd']} USD{left}, until {one['expires']}, {one['owner']}"
        )
    if evidence.get("would_change") and alert["state"] == "firing":
        lines.append(f"would change it: {evidence['would_change']}")
    if evidence.get("rules_hash"):
        lines.append(
            f"by rules {evidence['rules_hash']}{', in shadow mode' if evidence.get('mode') == 'shadow' else ''}"
        )
    return lines


def _tree(run: Row, steps: list[tuple[str, Branch]]) -> Table:
    from rich.markup import escape

    from otel_cost.cli._tables import money

    table = _plain_table()
    table.add_column("step", overflow="fold")
    for name in ("took", "itself", "with all below"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    blamed = {span_id for alert in run["alerts"] for span_id in alert["span_ids"] if span_id}
    whole = float(run["cost_usd"] or 0)
    for lines, branch in steps:
        name = f"{branch['kind']} {escape(printable(branch['name']))}"
        if branch["span_id"] in blamed:
            name = f"[red]{name}[/]"
        share = float(branch["subtree_usd"] or 0) / whole if whole else 0.0
        hole = branch["status"] in {"unpriced", "invalid"} and branch["kind"] != "tool"
        table.add_row(
            f"[dim]{lines}[/]{name}{' [red]failed[/]' if branch['failed'] else ''}",
            f"[dim]{branch['duration_ms'] / 1000:,.1f} s[/]",
            money(branch["self_usd"]) if branch["self_usd"] else "[yellow]no price[/]" if hole else "",
            f"[bold]{money(branch['subtree_usd'])}[/]" if branch["subtree_usd"] else "",
            "▇" * round(12 * min(share, 1.0)),
        )
    return table


def _tell_calls(out: Console, run: Row, *, full: bool) -> None:
    from rich.markup import escape

    from otel_cost.cli._tables import money, number

    calls = [call for call in run["calls"] if call["kind"] != "tool" or call["cost_usd"] is not None]
    if not full:
        calls = sorted(calls, key=lambda call: -float(call["cost_usd"] or 0))[:_CALLS]
    if not calls:
        return
    table = _plain_table()
    table.title, table.title_justify, table.title_style = (
        "Calls, each once" if full else "Dearest calls",
        "left",
        "bold",
    )
    for name in ("start", "model"):
        table.add_column(name, overflow="fold")
    for name in ("input", "cached", "output", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("charged for", overflow="fold")
    for call in calls:
        usage = call["usage"] or {}
        items = ", ".join(f"{number(item['quantity'])} {item['unit']} × ${item['rate']}" for item in call["items"])
        price = money(call["cost_usd"]) if call["cost_usd"] else f"[yellow]{str(call['reason']).replace('_', ' ')}[/]"
        table.add_row(
            call["start_time"][11:19],
            escape(printable(call["model"] or call["tool"] or call["operation"])),
            number(usage.get("input")),
            number(usage.get("cache_read")),
            number(usage.get("output")),
            price,
            f"[dim]{escape(printable(items))}[/]",
        )
    out.print(table)


def folded(tree: Sequence[Branch]) -> list[Branch]:
    """The tree with what repeats among siblings told once: `5 × inference m → tool run_tests failed`, and its cost."""
    told: dict[int, list[Branch]] = {}
    order: list[Branch] = list(tree)
    for branch in order:
        order.extend(branch["children"])
    for branch in reversed(order):
        told[id(branch)] = _fold([{**child, "children": told[id(child)]} for child in branch["children"]])
    return _fold([{**branch, "children": told[id(branch)]} for branch in tree])


_MOST_STEPS = 6  # in what repeats
_LEAST_TIMES = 3


def _fold(siblings: list[Branch]) -> list[Branch]:
    shapes = [(one["kind"], one["name"], one["failed"], len(one["children"])) for one in siblings]
    out: list[Branch] = []
    at = 0
    while at < len(siblings):
        best = (1, 1)  # steps, times
        for steps in range(1, _MOST_STEPS + 1):
            times = 1
            while shapes[at : at + steps] == shapes[at + times * steps : at + (times + 1) * steps]:
                times += 1
            if times >= _LEAST_TIMES and steps * times > best[0] * best[1]:
                best = (steps, times)
        steps, times = best
        out.append(siblings[at] if times == 1 else _loop(siblings[at : at + steps * times], times))
        at += steps * times
    return out


def _loop(rounds: list[Branch], times: int) -> Branch:
    """One branch for several rounds of the same steps; below it the first round."""
    first = rounds[: len(rounds) // times]
    known = [usd_to_nano(one["subtree_usd"]) for one in rounds if one["subtree_usd"] is not None]
    steps = " → ".join(f"{one['kind']} {one['name']}{' failed' if one['failed'] else ''}" for one in first)
    return {
        **first[0],
        "call_id": None,
        "kind": "loop" if len(first) > 1 or first[0]["failed"] else "repeat",
        "name": f"{times} × {steps}",
        "duration_ms": sum(one["duration_ms"] for one in rounds),
        "failed": False,
        "status": None,
        "self_usd": None,
        "subtree_usd": nano_to_text(sum(known)) if known else None,
        "children": [] if all(not one["children"] for one in first) else first,
    }


def _flat(tree: Sequence[Branch]) -> list[tuple[str, Branch]]:
    """Branches with the lines that lead to them, each before what is below it."""
    found: list[tuple[str, Branch]] = []
    waiting: list[tuple[str, str, Branch]] = [("", "", branch) for branch in reversed(tree)]
    while waiting:
        lines, below, branch = waiting.pop()
        found.append((lines, branch))
        last = len(branch["children"]) - 1
        waiting.extend(
            (f"{below}{'└─' if index == last else '├─'} ", f"{below}{'   ' if index == last else '│  '}", child)
            for index, child in reversed(list(enumerate(branch["children"])))
        )
    return found


def _plain_table() -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False)


def _duration(run: Row) -> str:
    start, end = (datetime.fromisoformat(run[name][:26]) for name in ("start_time", "end_time"))
    seconds = max((end - start).total_seconds(), 0)
    return f"{seconds:,.1f} s" if seconds < 120 else f"{seconds / 60:,.1f} min"


def _percent(run: Row) -> str:
    cost = float(run["cost_usd"] or 0)
    return f" ({100 * float(run['wasted_usd']) / cost:.0f} %)" if cost else ""
