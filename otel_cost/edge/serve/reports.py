"""Route of reports: `GET /v1/report`, of two times or values side by side too, as JSON, CSV, Parquet, or FOCUS."""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from otel_cost.edge.report_formats import DAY_NS, FOCUS, focus, print_csv, side_by_side, window, write_parquet
from otel_cost.edge.serve.asked import count, times
from otel_cost.edge.serve.when import instant_ns
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from otel_cost.edge.ledger import Ledger, Row

FORMATS: Final = ("json", "csv", "parquet", "focus")
_MOST_DAYS: Final = 400  # each is a report of its own


def report_route(ledger: Ledger) -> Route:
    """`by`, `per`, `compare`, `format`, `since`, `until`, `tenant`, `top`."""

    def report(request: Request) -> Response:
        asked = request.query_params
        by = [name.strip() for name in asked.get("by", "").split(",") if name.strip()]
        per, compare, how = asked.get("per"), asked.get("compare"), asked.get("format", "json")
        if per not in {None, "outcome"}:
            raise UsageError(f"`per={per}`: only `per=outcome` is known")
        if how not in FORMATS:
            raise UsageError(f"`format={how}`: one of {', '.join(FORMATS)}")
        if sum((per is not None, compare is not None, how == "focus")) > 1:
            raise UsageError("`per`, `compare` and `format=focus` are three reports: ask for one")
        since, until = asked.get("since") or None, asked.get("until") or None
        now_ns, tenant = time.time_ns(), asked.get("tenant")

        def ask(names: Sequence[str], start: str | None, end: str | None) -> list[Row]:
            start_ns, end_ns = (None if at is None else instant_ns(at, now_ns) for at in (start, end))
            return ledger.report(names, start_ns, end_ns, tenant)

        first = ["outcome", *by] if per is not None else by
        if how == "focus":
            start_ns, end_ns = window(since, until, now_ns)
            if end_ns - start_ns > _MOST_DAYS * DAY_NS:
                raise UsageError(f"`format=focus` has rows by day: ask for at most {_MOST_DAYS} days")
            rows, first = list(focus(ask, by, start_ns, end_ns)), list(FOCUS)
        elif compare is not None:
            rows = side_by_side(ask, by, compare, since, until, now_ns)
        else:
            rows = (ledger.report if per is None else ledger.per_outcome)(by, *times(request), tenant)
        top = count(request, "top", None)
        return _told(rows[:top], first, how)

    return Route("/v1/report", report)


def _told(rows: list[Row], first: Sequence[str], how: str) -> Response:
    if how == "json":
        return JSONResponse({"rows": rows})
    if how == "parquet":
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "report.parquet"
            write_parquet(file, rows, first)
            return _download(file.read_bytes(), "application/vnd.apache.parquet", "parquet")
    written = io.StringIO()
    print_csv(written, rows, first)
    return _download(written.getvalue().encode(), "text/csv; charset=utf-8", "csv")


def _download(body: bytes, media_type: str, ending: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="report.{ending}"'}
    return Response(body, media_type=media_type, headers=headers)
