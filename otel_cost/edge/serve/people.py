"""What people say of alerts: silences, and that somebody has one in hand. In Alertmanager's words."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from otel_cost.core.enrich.lines import rfc3339
from otel_cost.core.rules.alerting import Matchers, Silence, silencing
from otel_cost.document import Mistakes
from otel_cost.edge.auth import NOBODY
from otel_cost.edge.serve.bodies import read_body
from otel_cost.edge.serve.when import instant_ns
from otel_cost.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request

    from otel_cost.edge.auth import Identity
    from otel_cost.edge.notify._outbox import Outbox
    from otel_cost.edge.serve.views import Host

_Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
_MOST_BYTES = 64 * 2**10


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)


class Wanted(_Part):
    """A silence as it is asked for: `{"matchers": {"rule": "same-error-3x"}, "for": "2h", "who": …, "reason": …}`."""

    matchers: Annotated[dict[str, Any], Field(min_length=1)]
    for_: Annotated[Duration | None, Field(alias="for")] = None
    until: str | None = None
    who: _Words
    reason: _Words

    @model_validator(mode="after")
    def _ends(self) -> Wanted:
        if (self.for_ is None) == (self.until is None):
            raise ValueError("a silence ends: give `for` (2h) or `until` (an instant)")
        return self

    def silence(self, now_ns: int, tenant: str | None) -> Silence:
        """As it is kept; a credential of one tenant silences that tenant alone.

        Raises:
            Mistakes: a matcher is wrong.
            UsageError: `until` is no instant.
            ValueError: it is over before it begins.
        """
        until_ns = now_ns + self.for_ if self.for_ is not None else instant_ns(self.until or "", now_ns)
        if until_ns <= now_ns:
            raise ValueError("until: it would be over already")
        written = self.matchers if tenant is None else {**self.matchers, "tenant": tenant}
        return Silence(
            id=uuid.uuid4().hex[:12],
            matchers=Matchers.of(written),
            until_ns=until_ns,
            who=self.who,
            reason=self.reason,
            at_ns=now_ns,
        )


class Acknowledged(_Part):
    """Who has an alert in hand."""

    who: _Words


def people_routes(host: Host) -> list[Route]:
    """`/v1/silences`, `/v1/silences/{id}`, `/v1/alerts/{id}/ack`."""

    def listed(request: Request) -> Response:
        return JSONResponse({"silences": silences_of(host.outbox, _tenant(request))})

    async def add(request: Request) -> Response:
        given = await _body(request)

        def kept() -> Response:
            try:
                one = Wanted.model_validate(given).silence(time.time_ns(), _tenant(request))
            except ValidationError as error:
                raise HTTPException(400, _first(error)) from None
            except Mistakes as error:
                said = "; ".join(f"matchers.{'.'.join(map(str, m.path))}: {m.message} ({m.hint})" for m in error.items)
                raise HTTPException(400, said) from None
            except ValueError as error:
                raise HTTPException(400, str(error)) from None
            host.outbox.silence(one)
            return JSONResponse(silence_json(one), 201)

        return await anyio.to_thread.run_sync(kept)

    def end(request: Request) -> Response:
        now_ns, silence_id = time.time_ns(), request.path_params["id"]
        mine = {one.id for one in host.outbox.silences(now_ns) if _is_of(one, _tenant(request))}
        if silence_id not in mine or not host.outbox.end_silence(silence_id, now_ns):
            raise HTTPException(404, "no silence of this id holds")
        return JSONResponse({"id": silence_id, "status": "ended"})

    async def ack(request: Request) -> Response:
        given = await _body(request)

        def kept() -> Response:
            try:
                who = Acknowledged.model_validate(given).who
            except ValidationError as error:
                raise HTTPException(400, _first(error)) from None
            alert_id, tenant = request.path_params["id"], _tenant(request)
            for alert in host.outbox.firing():
                mine = tenant is None or alert["tenant"] == tenant
                if mine and alert_id in (alert["id"], alert["fingerprint"]):
                    host.outbox.acknowledge(alert["tenant"], alert["fingerprint"], who, time.time_ns())
                    return JSONResponse({"id": alert["id"], "acknowledged_by": who})
            raise HTTPException(404, "no alert of this id is firing")

        return await anyio.to_thread.run_sync(kept)

    return [
        Route("/v1/silences", listed, methods=["GET"]),
        Route("/v1/silences", add, methods=["POST"]),
        Route("/v1/silences/{id}", end, methods=["DELETE"]),
        Route("/v1/alerts/{id}/ack", ack, methods=["POST"]),
    ]


def silence_json(one: Silence) -> dict[str, object]:
    """A silence as the API shows it."""
    return {
        "id": one.id,
        "matchers": dict(one.matchers.written),
        "starts_at": rfc3339(one.at_ns),
        "ends_at": rfc3339(one.until_ns),
        "who": one.who,
        "reason": one.reason,
    }


def silences_of(outbox: Outbox, tenant: str | None) -> list[dict[str, object]]:
    """The silences that hold, for one tenant or for all."""
    return [silence_json(one) for one in outbox.silences(time.time_ns()) if _is_of(one, tenant)]


def with_people(outbox: Outbox, alerts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Alert lines with who has them in hand and which silence keeps them quiet."""
    acknowledged, now_ns = outbox.acknowledged(), time.time_ns()
    silences = outbox.silences(now_ns)
    told = []
    for alert in alerts:
        quiet = silencing(alert, silences, now_ns)
        who = acknowledged.get((alert["tenant"], alert["fingerprint"])) if alert["state"] == "firing" else None
        told.append({**alert, "acknowledged_by": who, "silenced_by": None if quiet is None else quiet.id})
    return told


def _tenant(request: Request) -> str | None:
    identity: Identity = request.scope.get("otel_cost.identity", NOBODY)
    return identity.tenant


def _is_of(one: Silence, tenant: str | None) -> bool:
    return tenant is None or one.matchers.written.get("tenant") == tenant


async def _body(request: Request) -> object:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "send JSON with content-type: application/json")
    body = await read_body(request, _MOST_BYTES)
    if body is None:
        raise HTTPException(413, f"longer than {_MOST_BYTES} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "not JSON") from None


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where, said = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    return f"{where}: {said}" if where else said
