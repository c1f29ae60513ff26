"""Routes of kept backtests: `GET /v1/backtests` and `/v1/backtests/{id}`. They are over all tenants together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route

from otel_cost.edge.kept_backtests import kept_report, kept_reports

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from otel_cost.edge.serve.views import Host


def backtest_routes(host: Host) -> list[Route]:
    """Both routes. Who sees one tenant only sees none of them."""

    def listed(request: Request) -> Response:
        return JSONResponse({"backtests": [] if _of_one_tenant(request) else kept_reports(host.backtests)})

    def one(request: Request) -> Response:
        report = None if _of_one_tenant(request) else kept_report(host.backtests, request.path_params["id"])
        if report is None:
            raise HTTPException(404, "no report of this id is kept")
        return JSONResponse(report)

    return [Route("/v1/backtests", listed), Route("/v1/backtests/{id}", one)]


def _of_one_tenant(request: Request) -> bool:
    return request.query_params.get("tenant") is not None
