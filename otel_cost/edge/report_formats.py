"""Formats: rows of a report for other programs: CSV, Parquet, FOCUS columns; two reports side by side.

`Report` gives a report by dimensions for a stretch of time, which is said as users say it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, Final

import duckdb
from arro3.core import Array, DataType, Table

from otel_cost.core.enrich.lines import rfc3339
from otel_cost.core.model.money import nano_to_text, usd_to_nano
from otel_cost.edge.serve.when import instant_ns
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

Row = dict[str, Any]

Report = Callable[[Sequence[str], str | None, str | None], list[Row]]

DAY_NS: Final = 86_400 * 10**9
_USUAL_NS: Final = 30 * DAY_NS


def print_csv(out: IO[str], rows: Sequence[Row], first: Sequence[str]) -> None:
    """CSV with a header line; `first`: the columns that come before the others."""
    columns = [*first, *(key for key in (rows[0] if rows else {}) if key not in first)]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[column]) for column in columns])


def _cell(value: object) -> object:
    """A text that a spreadsheet would run as a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def write_parquet(path: Path, rows: Sequence[Row], first: Sequence[str]) -> None:
    """A Parquet file: amounts of USD as DECIMAL(38,9), counts as BIGINT, the rest as text.

    Raises:
        UsageError: there are no rows to take columns from, or the file cannot be written.
    """
    if not rows:
        raise UsageError("nothing was spent in this time: an empty Parquet file has no columns")
    columns = [*first, *(key for key in rows[0] if key not in first)]
    arrays: dict[str, Any] = {}
    casts: list[str] = []
    for column in columns:
        values = [row[column] for row in rows]
        whole = any(value is not None for value in values) and all(
            type(value) is int or value is None for value in values
        )
        arrays[column] = (
            Array(values, DataType.int64())
            if whole
            else Array([None if value is None else str(value) for value in values], DataType.utf8())
        )
        name = '"' + column.replace('"', '""') + '"'
        casts.append(f"{name}::DECIMAL(38,9) AS {name}" if column.endswith("_usd") else name)
    db = duckdb.connect()
    try:
        db.register("report", Table.from_pydict(arrays))
        db.sql(f"SELECT {', '.join(casts)} FROM report").write_parquet(str(path))  # noqa: S608  # quoted column names
    except duckdb.IOException as error:
        raise UsageError(f"{path}: cannot be written: {str(error).partition(chr(10))[0]}") from error
    finally:
        db.close()


# FOCUS --------------------------------------------------------------------------------------------

# Of the FinOps Open Cost and Usage Specification 1.2: what we know of a call; what a bill alone knows is left out.
FOCUS: Final = (
    "BilledCost",
    "EffectiveCost",
    "ListCost",
    "ContractedCost",
    "BillingCurrency",
    "BillingPeriodStart",
    "BillingPeriodEnd",
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "ChargeCategory",
    "ChargeDescription",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ProviderName",
    "PublisherName",
    "InvoiceIssuerName",
    "ServiceCategory",
    "ServiceName",
    "SkuId",
    "SubAccountId",
    "Tags",
)


def focus(report: Report, names: Sequence[str], since_ns: int, until_ns: int) -> Iterator[Row]:
    """A row per UTC day, provider, model, team and whatever else is asked for, which goes into the tags.

    Cost is list price, so all four costs are one;
    calls without a price have a row with a cost of nothing and say so in their tags.
    """
    by = list(dict.fromkeys(("provider", "model", "team", *names)))
    start_ns = since_ns
    while start_ns < until_ns:
        end_ns = min(start_ns - start_ns % DAY_NS + DAY_NS, until_ns)
        period = {"ChargePeriodStart": instant(start_ns), "ChargePeriodEnd": instant(end_ns)} | _month(start_ns)
        for row in report(by, instant(start_ns), instant(end_ns)):
            yield _focus_row(row, names, period)
        start_ns = end_ns


def _focus_row(row: Row, names: Sequence[str], period: Row) -> Row:
    cost = row["cost_usd"] or "0"
    tags = {name: row[name] for name in names if row[name] is not None}
    tags |= {f"otel_cost.{name}": row[name] for name in ("unpriced_calls", "incomplete_calls") if row[name]}
    provider = row["provider"] or "unattributed"
    told = dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), cost) | period
    told |= {
        "BillingCurrency": "USD",
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{row['calls']} calls of {row['model'] or 'no model'}",
        "ConsumedQuantity": row["input_tokens"] + row["output_tokens"],
        "ConsumedUnit": "Tokens",
        "ProviderName": provider,
        "PublisherName": provider,
        "InvoiceIssuerName": provider,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Generative AI",
        "SkuId": row["model"],
        "SubAccountId": row["team"],
        "Tags": json.dumps(tags, ensure_ascii=False),
    }
    return {column: told[column] for column in FOCUS}


def _month(ns: int) -> Row:
    first = instant(ns)[:7]
    year, month = int(first[:4]), int(first[5:])
    year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    return {"BillingPeriodStart": f"{first}-01T00:00:00Z", "BillingPeriodEnd": f"{year:04d}-{month:02d}-01T00:00:00Z"}


def instant(ns: int) -> str:
    """RFC 3339 to the second where that is exact, else to the microsecond."""
    told = rfc3339(ns)
    return f"{told[:19]}Z" if ns % 10**9 == 0 else f"{told[:26]}Z"


def window(since: str | None, until: str | None, now_ns: int) -> tuple[int, int]:
    """Start and end in ns; without a start the thirty days before the end, from midnight UTC on.

    Raises:
        UsageError: one of them is no time.
    """
    until_ns = now_ns if until is None else instant_ns(until, now_ns)
    if since is not None:
        return instant_ns(since, now_ns), until_ns
    start_ns = until_ns - _USUAL_NS
    return start_ns - start_ns % DAY_NS, until_ns


# Two reports --------------------------------------------------------------------------------------


def side_by_side(
    report: Report, names: Sequence[str], how: str, since: str | None, until: str | None, now_ns: int
) -> list[Row]:
    """Two reports, the largest change first; `how`: `previous` (the same length of time before), or KEY=A,B.

    Raises:
        UsageError: `how` is neither; a time or a dimension is none.
    """
    if how == "previous":
        start_ns, end_ns = window(since, until, now_ns)
        start, end, before = (instant(ns) for ns in (start_ns, end_ns, 2 * start_ns - end_ns))
        return compared(report(names, start, end), report(names, before, start), names)
    key, equals, values = how.partition("=")
    pair = values.split(",")
    if not equals or len(pair) != 2:
        raise UsageError(f"compare {how}: write `previous`, or a dimension and two of its values: `model=A,B`")
    others = [name for name in names if name != key]
    rows = report([*others, key], since, until)
    now, was = ([row for row in rows if str(row[key]) == value] for value in reversed(pair))
    return compared(now, was, others)


def compared(now: Iterable[Row], before: Iterable[Row], names: Sequence[str]) -> list[Row]:
    """Two reports side by side, the largest change first; a row that one of them lacks costs nothing there."""
    sides: tuple[dict[tuple[object, ...], Row], ...] = tuple(
        {tuple(row[name] for name in names): row for row in rows} for rows in (now, before)
    )
    told: list[tuple[int, Row]] = []
    for key in dict.fromkeys((*sides[0], *sides[1])):
        one, other = (side.get(key) for side in sides)
        nano, was = (_nano(row) for row in (one, other))
        told.append(
            (
                -abs(nano - was),
                {
                    **dict(zip(names, key, strict=True)),
                    "cost_usd": nano_to_text(nano),
                    "before_usd": nano_to_text(was),
                    "change_usd": nano_to_text(nano - was),
                    "ratio": str(round(Decimal(nano) / was, 3)) if was else None,
                    "calls": one["calls"] if one else 0,
                    "calls_before": other["calls"] if other else 0,
                    "unpriced_calls": (one["unpriced_calls"] if one else 0) + (other["unpriced_calls"] if other else 0),
                },
            )
        )
    return [row for _, row in sorted(told, key=lambda pair: (pair[0], str(pair[1])))]


def _nano(row: Row | None) -> int:
    return 0 if row is None or row["cost_usd"] is None else usd_to_nano(row["cost_usd"])
