"""Price recorded calls anew: totals first, superseding rows with who, why and which book only with --apply."""

from __future__ import annotations

import getpass
import json
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from otel_cost.core.enrich.lines import usd
from otel_cost.core.model.effects import Correction
from otel_cost.core.model.vocabulary import MODEL_KINDS
from otel_cost.core.reprice import reprice as repriced
from otel_cost.edge.config import load_config
from otel_cost.edge.files import load_price_book
from otel_cost.edge.ledger import Batch
from otel_cost.edge.ledger.opening import need_records, open_ledger, read_ledger
from otel_cost.edge.serve import discovery
from otel_cost.edge.serve.when import instant_ns
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from otel_cost.core.model.call import Call
    from otel_cost.core.price import PriceBook
    from otel_cost.core.reprice import Repriced
    from otel_cost.edge.ledger import Ledger

_BATCH: Final = 20_000  # about as many rows go into one transaction


def reprice(
    why: Annotated[str, typer.Option(help="The reason, kept with every row that changes.")],
    since: Annotated[str | None, typer.Option(help="Calls from here on: 30d (ago), 2026-11-01, RFC 3339.")] = None,
    until: Annotated[str | None, typer.Option(help="Calls up to here, exclusive.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model; may hold * and ?.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write it. Without this nothing is changed.")] = False,
    who: Annotated[str | None, typer.Option(help="Who orders it. Default: the user who runs this.")] = None,
    prices: Annotated[
        list[Path] | None, typer.Option("--prices", metavar="PATH", help="Price files beside the config's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    config: Annotated[list[Path] | None, typer.Option("--config", "-c", help="Config of the service.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the service keeps its data.")] = None,
) -> None:
    """Price recorded calls with the book of today: old and new totals by model; --apply writes what differs.

    Each changed call keeps a correction: old and new cost, who, why, which book. Everything else stays as it is.
    Only while no service runs on these data. Calls of runs that are still open are priced anew by the service.
    """
    if not why.strip():
        raise UsageError("--why: say why history is to change")
    loaded = load_config(config or [])
    folder = data_dir.expanduser().absolute() if data_dir is not None else loaded.data_dir
    url = discovery.find(folder)
    if url is not None:
        raise UsageError(f"a service runs on {folder} ({url}): stop it, re-price, start it again")
    need_records(loaded.ledger, folder)
    now = time.time_ns()
    book = load_price_book([*loaded.prices, *(prices or ())])
    order = _Order(book, _ns(since, now), _ns(until, now), model, why.strip(), who or getpass.getuser(), now)
    ledger = (open_ledger if apply else read_ledger)(loaded.ledger, folder)
    try:
        totals = _go_through(ledger, order, write=apply)
    finally:
        ledger.close()
    if as_json:
        for line in totals.lines(order, applied=apply):
            print(json.dumps(line))
    else:
        _print(totals, order, applied=apply)


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be priced anew, by whom, why, and with what."""

    book: PriceBook
    since_ns: int | None
    until_ns: int | None
    model: str | None
    why: str
    who: str
    at_ns: int

    def wants(self, call: Call) -> bool:
        start = call.step.start_ns
        return (
            (self.since_ns is None or start >= self.since_ns)
            and (self.until_ns is None or start < self.until_ns)
            and (self.model is None or fnmatchcase((call.step.model or "").lower(), self.model.lower()))
        )

    def correction(self, tenant: str, run_id: str, one: Repriced) -> Correction:
        return Correction(
            tenant=tenant,
            run_id=run_id,
            call_id=one.call.id,
            trace_id=one.call.step.trace_id,
            span_id=one.call.step.span_id,
            at_ns=self.at_ns,
            old_nano=one.old.nano,
            new_nano=one.new.nano,
            why=f"repriced: {self.why}",
            who=self.who,
            price_book=self.book.id,
        )


@dataclass(slots=True)
class _Sum:
    """Calls of one model, and what they cost before and after; None while none has a price."""

    calls: int = 0
    changed: int = 0
    old_nano: int | None = None
    new_nano: int | None = None

    def add(self, one: Repriced) -> None:
        self.calls += 1
        self.changed += one.changed
        self.old_nano = _plus(self.old_nano, one.old.nano)
        self.new_nano = _plus(self.new_nano, one.new.nano)

    def line(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "changed": self.changed,
            "old_usd": usd(self.old_nano),
            "new_usd": usd(self.new_nano),
            "delta_usd": usd((self.new_nano or 0) - (self.old_nano or 0)),
        }


class _Totals:
    """By model, and what could not be priced anew."""

    def __init__(self) -> None:
        self.models: dict[str, _Sum] = {}
        self.all = _Sum()
        self.runs = 0
        self.left_out = 0  # closed runs of which nothing is kept that could be priced

    def add(self, one: Repriced) -> None:
        step = one.call.step
        name = step.model or "unknown" if one.call.kind in MODEL_KINDS else step.tool or step.name or str(one.call.kind)
        self.models.setdefault(name, _Sum()).add(one)
        self.all.add(one)

    def sums(self) -> list[tuple[str, _Sum]]:
        """The largest differences first."""
        return sorted(
            self.models.items(), key=lambda pair: (-abs((pair[1].new_nano or 0) - (pair[1].old_nano or 0)), pair[0])
        )

    def lines(self, order: _Order, *, applied: bool) -> list[dict[str, Any]]:
        facts = {"applied": applied, "why": order.why, "who": order.who, "price_book": order.book.id}
        return [
            *({"type": "model", "model": name, **one.line()} for name, one in self.sums()),
            {"type": "total", **self.all.line(), "runs": self.runs, "runs_left_out": self.left_out, **facts},
        ]


def _go_through(ledger: Ledger, order: _Order, *, write: bool) -> _Totals:
    """Every closed run once; changed ones are committed in batches, each with its corrections or not at all."""
    totals, batch, cursor = _Totals(), Batch(), ledger.cursor()
    for tenant, run_id, frozen in ledger.closed_runs(order.since_ns, order.until_ns):
        try:
            run, asked = repriced(frozen, order.book.charge, order.wants)
        except ValueError:
            totals.left_out += 1
            continue
        for one in asked:
            totals.add(one)
        changed = [one for one in asked if one.changed]
        totals.runs += bool(changed)
        if changed and write:
            batch.closed[tenant, run_id] = run
            batch.corrections += [order.correction(tenant, run_id, one) for one in changed]
            batch.rows += len(run.calls) + run.steps
            if batch.rows >= _BATCH:
                ledger.commit(batch, cursor)
                batch = Batch()
    if batch.closed:
        ledger.commit(batch, cursor)
    return totals


def _print(totals: _Totals, order: _Order, *, applied: bool) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from otel_cost.cli._source import printable
    from otel_cost.cli._tables import money, number
    from otel_cost.cli._terminal import console

    if not totals.all.calls:
        print("no recorded call is meant by this")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    for name in ("calls", "changed", "old", "new", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, one in (*totals.sums(), ("all", totals.all)):
        line = one.line()
        table.add_row(
            escape(printable(name)), number(one.calls), number(one.changed) if one.changed else "",
            money(line["old_usd"]), money(line["new_usd"]), line["delta_usd"] if one.changed else "",
        )  # fmt: skip
    terminal = console()
    terminal.print(table)
    if totals.left_out:
        terminal.print(f"{totals.left_out} closed runs are left as they are: nothing is kept that could be priced")
    if applied:
        terminal.print(f"written: {totals.all.changed} corrections in {totals.runs} runs, book {order.book.id[:12]}")
    else:
        terminal.print("nothing was changed; --apply writes it")


def _plus(left: int | None, right: int | None) -> int | None:
    return left if right is None else (left or 0) + right


def _ns(written: str | None, now: int) -> int | None:
    return None if written is None else instant_ns(written, now)
