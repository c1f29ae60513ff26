"""The price book: what it asks, where it differs from LiteLLM's table, and taking a difference over.

`show` lists rates with source and date, `diff` compares with an installed `litellm` or a file
(no network), `adopt` writes lines of a diff into a price file of one's own.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from otel_cost.core.model.vocabulary import Reason
from otel_cost.core.price.instants import instant_text, parse_instant
from otel_cost.core.price.listing import TIERS, differences, listed, written
from otel_cost.core.price.table import UNITS
from otel_cost.edge.files import load_price_book
from otel_cost.errors import DocumentError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_cost.core.price.listing import Difference, Listed

app = typer.Typer(no_args_is_help=True, add_completion=False, help=(__doc__ or "").partition("\n")[0])

_TABLES: Final = ("litellm/model_prices_and_context_window_backup.json", "litellm/model_prices_and_context_window.json")
_KINDS: Final = ("rate", "long_context", "missing_rate", "zero", "not_sold", "unknown_model")
_LINE: Final = {"provider", "model", "tier", "unit", "theirs", "source"}
_WHEN: Final[dict[str, dict[str, str]]] = {"batch": {"processing": "batch"}, "speed:fast": {"speed": "fast"}}

Prices = Annotated[
    list[Path] | None, typer.Option("--prices", metavar="PATH", help="Price files or folders that win over ours.")
]
At = Annotated[str | None, typer.Option(metavar="RFC3339", help="The instant that is asked about. Default: now.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]


@app.command()
def show(
    provider: Annotated[str | None, typer.Option(help="Seller, as a span names it. Default: all.")] = None,
    model: Annotated[str | None, typer.Option(help="Model, as a span names it. Default: all that are listed.")] = None,
    at: At = None,
    prices: Prices = None,
    as_json: AsJson = False,
) -> None:
    """Rates in force, each with its source and the instant since which it holds."""
    at_ns = _instant(at)
    book = load_price_book(prices or ())
    models = book.models()
    seller = None if provider is None else book.provider(provider)
    if provider is not None and (seller is None or (seller and seller not in models)):
        raise UsageError(f"the book knows no provider `{provider}`\n    it knows: {', '.join(sorted(models))}")
    wanted = [(seller or one, name) for one in models if seller in {None, "", one} for name in models[one]]
    if model is not None:
        wanted = [(provider or "", model)]
    found = False
    for one, name in wanted:
        for tier in TIERS:
            rates = listed(book, one, name, at_ns, tier)
            if isinstance(rates, Reason):
                if model is not None and not tier:
                    raise UsageError(f"no price for `{name}`: {rates}")
                continue
            if tier and not any(rate.unit in {"input_mtok", "output_mtok"} for rate in rates):
                continue
            for rate in rates:
                found = True
                line = _shown(one, name, rate)
                print(json.dumps(line) if as_json else _told(line))
    if not found and not as_json:
        print("nothing is listed")


def _shown(provider: str, model: str, rate: Listed) -> dict[str, Any]:
    unit = UNITS[rate.unit]
    return {
        "provider": provider or None,
        "model": model,
        "tier": rate.tier or "standard",
        "unit": rate.unit,
        "per": unit.per,
        "usd": written(rate.price, rate.unit),
        "source": rate.source,
        "valid_from": None if rate.since is None else instant_text(rate.since),
    }


def _told(line: Mapping[str, Any]) -> str:
    since = f" since {line['valid_from']}" if line["valid_from"] else ""
    tier = "" if line["tier"] == "standard" else f" [{line['tier']}]"
    what = " ".join(filter(None, (line["provider"], line["model"])))
    return f"{what}{tier}  {line['unit']} = {_amount(line['usd'])}{since}  ({line['source']})"


def _amount(usd: str | Mapping[str, Any]) -> str:
    if isinstance(usd, str):
        return usd
    return ", ".join([str(usd["base"]), *(f"{step['price']} above {step['start']:,} input" for step in usd["tiers"])])


@app.command()
def diff(
    against: Annotated[
        str, typer.Option(metavar="litellm|FILE", help="The installed package, or its model table as a JSON file.")
    ] = "litellm",
    provider: Annotated[str | None, typer.Option(help="Only this seller.")] = None,
    model: Annotated[str | None, typer.Option(help="Only models whose name begins so.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help=f"Only these classes: {', '.join(_KINDS)}.")] = None,
    at: At = None,
    prices: Prices = None,
    as_json: AsJson = False,
) -> None:
    """Where LiteLLM's table asks something else than our book, by class of disagreement. Nothing is fetched."""
    if unknown := sorted(set(kind or ()) - set(_KINDS)):
        raise UsageError(f"--kind: `{unknown[0]}` is none of {', '.join(_KINDS)}")
    table, source, read = _table(against)
    book = load_price_book(prices or ())
    seller = None if provider is None else book.provider(provider)
    if provider is not None and not seller:
        raise UsageError(f"the book knows no provider `{provider}`")
    try:
        rows = [
            row
            for row in differences(book, table, _instant(at))
            if seller in {None, row.provider}
            and (model is None or row.model.startswith(model))
            and (not kind or row.kind in kind)
        ]
    except ValueError as error:
        raise UsageError(f"{against}: {error}") from error
    rows.sort(key=lambda row: (_KINDS.index(row.kind), row.provider, row.model, row.tier, row.unit))
    if as_json:
        for row in rows:
            print(json.dumps(_compared(row, source, read)))
    else:
        _print_differences(rows, source)


def _compared(row: Difference, source: str, read: str | None) -> dict[str, Any]:
    return {
        "class": row.kind,
        "provider": row.provider,
        "model": row.model,
        "name": row.name,
        "tier": row.tier or "standard",
        "unit": row.unit,
        "ours": None if row.ours is None else written(row.ours, row.unit),
        "theirs": written(row.theirs, row.unit),
        "ours_source": row.source or None,
        "source": source,
        "read": read,
    }


def _print_differences(rows: list[Difference], source: str) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from otel_cost.cli._terminal import console

    if not rows:
        print(f"no disagreement with {source}")
        return
    terminal = console()
    for kind in _KINDS:
        of = [row for row in rows if row.kind == kind]
        if not of:
            continue
        table = Table(title=f"{kind} ({len(of)})", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("provider", "model", "their name", "tier", "unit", "ours", "theirs"):
            table.add_column(name, overflow="fold")
        for row in of:
            ours = "–" if row.ours is None else _amount(written(row.ours, row.unit))
            theirs = _amount(written(row.theirs, row.unit))
            table.add_row(row.provider, escape(row.model), escape(row.name), row.tier, row.unit, ours, theirs)
        terminal.print(table)
    terminal.print(f"{len(rows)} disagreements with {escape(source)}")


def _table(against: str) -> tuple[Mapping[str, Any], str, str | None]:
    """The other list, what it is called, and of which day it is.

    Raises:
        UsageError: it is not there, or is no JSON object.
    """
    if against == "litellm":
        try:
            package = distribution("litellm")
        except PackageNotFoundError as error:
            raise UsageError(
                "litellm is not installed here, and nothing is fetched\n"
                "    pip install --no-deps litellm   or give its table: prices diff --against FILE.json"
            ) from error
        paths = [Path(str(package.locate_file(name))) for name in _TABLES]
        path = next((one for one in paths if one.is_file()), paths[0])
        source = f"litellm {package.version} model table"
    else:
        path = Path(against)
        source = f"LiteLLM's model table, {path.name}"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        day = datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not JSON"
        raise UsageError(f"{path}: {reason}") from error
    if not isinstance(table, dict):
        raise UsageError(f"{path}: not a JSON object of models")
    return table, source, day


@app.command()
def adopt(
    file: Annotated[Path, typer.Argument(help="Lines of `prices diff --json` to take over; - for standard input.")],
    into: Annotated[Path, typer.Option(help="The price file to write. It must not exist yet.")],
    who: Annotated[str, typer.Option(help="Who takes them over.")],
    start: Annotated[
        str | None, typer.Option("--from", metavar="RFC3339", help="Since when they hold. Default: today.")
    ] = None,
) -> None:
    """Write the other list's prices into a price file, dated, with source and who.

    Name the file under `prices:` in the config; later files win. History before `--from` stays as it is.
    """
    from_ns = _instant(start or datetime.now(UTC).date().isoformat())
    if not who.strip():
        raise UsageError("--who: say who takes these prices over")
    rows = _adopted(list(_lines(file)), from_ns)
    try:
        with into.open("x", encoding="utf-8") as stream:
            stream.write(_price_file(rows, from_ns, who.strip()))
    except FileExistsError as error:
        raise UsageError(f"{into}: exists already; adopt into a file of its own, later files win") from error
    except OSError as error:
        raise UsageError(f"{into}: {error.strerror}") from error
    try:
        load_price_book([into])
    except DocumentError:
        into.unlink()  # better none than one that keeps the service from starting
        raise
    print(f"{into}: {sum(map(len, rows.values()))} prices from {instant_text(from_ns)}")


class _Row(NamedTuple):
    """One row of the file: which model, on which tier, taken from where."""

    provider: str
    model: str
    tier: str
    source: str
    read: str | None


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The differences that were picked.

    Raises:
        UsageError: a line is no difference.
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
        except ValueError:
            told = None
        if not isinstance(told, dict) or not told.keys() >= _LINE or told["unit"] not in UNITS:
            raise UsageError(f"{file}:{number}: not a line of `prices diff --json`")
        yield told


def _adopted(lines: list[dict[str, Any]], from_ns: int) -> dict[_Row, dict[str, Any]]:
    """The picked prices by row.

    A name that is priced by another seller's list gets an entry of its own here,
    which must hold everything: what was not picked stays at what it is.
    """
    if not lines:
        raise UsageError("no line to adopt")
    book = load_price_book()
    models = book.models()
    rows: dict[_Row, dict[str, Any]] = {}
    for line in lines:
        row = _Row(line["provider"], line["model"], line["tier"], line["source"], line.get("read"))
        rows.setdefault(row, {})[line["unit"]] = line["theirs"]
    for row in [row for row in rows if row.model not in models.get(row.provider, ())]:
        now = listed(book, row.provider, row.model, from_ns)
        if isinstance(now, Reason):
            continue
        picked = {unit for other, units in rows.items() if other[:3] == (*row[:2], "standard") for unit in units}
        for rate in now:
            if rate.unit not in picked:
                kept = _Row(row.provider, row.model, "standard", rate.source, None)
                rows.setdefault(kept, {})[rate.unit] = written(rate.price, rate.unit)
    return rows


def _price_file(rows: Mapping[_Row, Mapping[str, Any]], from_ns: int, who: str) -> str:
    """The text of a price file with these rows."""
    since = instant_text(from_ns)
    out = [f"# Adopted from another list by {who.replace(chr(10), ' ')}.", "version: 1", "providers:"]
    for provider in dict.fromkeys(row.provider for row in rows):
        out += [f"  - id: {json.dumps(provider)}", "    models:"]
        for model in dict.fromkeys(row.model for row in rows if row.provider == provider):
            out += [f"      - id: {json.dumps(model)}", "        prices:"]
            for row, units in rows.items():
                if (row.provider, row.model) == (provider, model):
                    when = {} if row.tier == "standard" else _WHEN.get(row.tier, {"service_tier": row.tier})
                    said: dict[str, Any] = ({"when": when} if when else {}) | {"from": since} | dict(units)
                    said |= {"source": row.source} | ({"read": row.read} if row.read else {}) | {"by": who}
                    out.append(f"          - {_flow(said)}")
    return "\n".join(out) + "\n"


def _flow(value: object) -> str:
    """YAML in flow style: JSON's, but numbers that came as text are numbers again."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and value.replace(".", "", 1).isdecimal():
        return value
    return json.dumps(value)


def _instant(text: str | None) -> int:
    try:
        return parse_instant(text) if text else time.time_ns()
    except ValueError as error:
        raise UsageError(str(error)) from error
