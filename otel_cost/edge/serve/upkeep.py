"""Routes that delete and copy: `POST /v1/forget` and `POST /v1/backup`. They need the scope `admin`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.responses import JSONResponse
from starlette.routing import Route

from otel_cost.edge.ledger import Selection
from otel_cost.edge.serve.when import instant_ns

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from otel_cost.edge.serve.views import Host

_Text = Annotated[str, Field(min_length=1, max_length=500)]


class Forget(BaseModel):
    """Which closed runs go; all that is given must fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    tenant: _Text | None = None
    run_id: _Text | None = None
    user: _Text | None = None
    before: _Text | None = None  # as `since` is written: `90d`, a date, an instant

    @model_validator(mode="after")
    def _something(self) -> Forget:
        if not (self.tenant or self.run_id or self.user or self.before):
            raise ValueError("say what goes: tenant, run_id, user or before")
        return self

    def selection(self, now_ns: int) -> Selection:
        before_ns = None if self.before is None else instant_ns(self.before, now_ns)
        return Selection(self.tenant, self.run_id, self.user, before_ns)


class Backup(BaseModel):
    """Where the copy goes: the whole path of a folder that is not there yet, on the service's machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: Path


def upkeep_routes(host: Host) -> list[Route]:
    """`POST /v1/forget` and `POST /v1/backup`."""

    async def forget(request: Request) -> Response:
        given = await _read(request, Forget)
        if isinstance(given, JSONResponse):
            return given
        return JSONResponse({"runs": await anyio.to_thread.run_sync(host.forget, given.selection(time.time_ns()))})

    async def backup(request: Request) -> Response:
        given = await _read(request, Backup)
        if isinstance(given, JSONResponse):
            return given
        size = await anyio.to_thread.run_sync(host.back_up, given.path)
        return JSONResponse({"path": str(given.path), "bytes": size})

    return [Route("/v1/forget", forget, methods=["POST"]), Route("/v1/backup", backup, methods=["POST"])]


async def _read(request: Request, model: type[Any]) -> Any:  # noqa: ANN401  # the model, or the answer
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return JSONResponse({"error": "send JSON with content-type: application/json"}, 415)
    try:
        return model.model_validate(json.loads(await request.body()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return JSONResponse({"error": f"{where}: {first['msg']}" if where else first["msg"]}, 400)
    except ValueError:
        return JSONResponse({"error": "no JSON object"}, 400)
