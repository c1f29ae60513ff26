"""What became of the work: `POST /v1/outcomes` for anybody who knows, and for GitHub's webhooks."""

from __future__ import annotations

import hashlib
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import parse_qs

import anyio.to_thread
import structlog
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from starlette.responses import JSONResponse
from starlette.routing import Route

from otel_cost.core.model.outcome import Outcome, Result
from otel_cost.core.outcomes import keys_of, result_of
from otel_cost.edge.journal import JournalBrokenError, JournalFullError
from otel_cost.edge.serve.bodies import read_body
from otel_cost.edge.serve.gate import tenant_of
from otel_cost.edge.serve.when import instant_ns
from otel_cost.edge.webhooks import github_outcomes, is_signed, read_object
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from otel_cost.edge.serve.views import Host

MAX_BYTES: Final = 25 * 2**20  # GitHub sends no more
_MOST: Final = 10_000
_MOST_SHOWN: Final = 1000

_log = structlog.get_logger(__name__)


def _result(written: object) -> object:
    """`success`, or a word that means it."""
    if isinstance(written, bool):
        return Result.SUCCESS if written else Result.FAILURE
    if isinstance(written, str) and written not in set(Result):
        meant = result_of(written, None)
        if meant is not Result.UNKNOWN:
            return meant
    return written


_Id = Annotated[str, Field(min_length=1, max_length=200)]


class Told(BaseModel):
    """One outcome as a request tells it. It needs something that leads to a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=100)] = "outcome"
    value: Annotated[
        Result, BeforeValidator(_result), Field(validation_alias=AliasChoices("value", "result", "outcome"))
    ]
    id: _Id | None = None  # told again under the same id it replaces what was told before
    trace_id: Annotated[str, Field(pattern="^[0-9a-fA-F]{32}$")] | None = None
    run_id: _Id | None = None
    session_id: Annotated[
        _Id | None, Field(validation_alias=AliasChoices("session_id", "session", "conversation_id"))
    ] = None
    branch: Annotated[_Id | None, Field(validation_alias=AliasChoices("branch", "vcs.ref.head.name"))] = None
    commit: Annotated[_Id | None, Field(validation_alias=AliasChoices("commit", "vcs.ref.head.revision"))] = None
    ticket: _Id | None = None
    repository: Annotated[_Id | None, Field(validation_alias=AliasChoices("repository", "vcs.repository.name"))] = None
    subject: Annotated[str, Field(max_length=200)] | None = None
    label: Annotated[str, Field(max_length=200)] | None = None
    score: Annotated[float, Field(allow_inf_nan=False)] | None = None
    url: Annotated[str, Field(max_length=500, pattern="^https?://")] | None = None
    at: datetime | None = None  # None: now; without a zone: UTC

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Told:
        if not self.keys:
            raise ValueError("nothing leads to a run: give trace_id, run_id, session_id, branch, commit or ticket")
        return self

    @property
    def keys(self) -> tuple[str, ...]:
        return keys_of(
            trace=self.trace_id,
            session=self.session_id,
            run=self.run_id,
            branch=self.branch,
            commit=self.commit,
            ticket=self.ticket,
            repository=self.repository,
        )

    def outcome(self, tenant: str, now_ns: int) -> Outcome:
        """As the engine takes it."""
        at = self.at if self.at is None or self.at.tzinfo is not None else self.at.replace(tzinfo=UTC)
        named = self.id or f"{self.name}\0{self.subject}\0{'|'.join(self.keys)}"
        return Outcome(
            id=hashlib.blake2b(f"{tenant}\0api\0{named}".encode(), digest_size=12).hexdigest(),
            tenant=tenant,
            name=self.name,
            value=self.value,
            at_ns=now_ns if at is None else round(at.timestamp() * 10**6) * 1000,
            source="api",
            keys=self.keys,
            subject=self.subject,
            label=self.label,
            score=self.score,
            url=self.url,
        )


def read_told(written: object, tenant: str, now_ns: int) -> list[Outcome]:
    """Outcomes of a request: one, a list of them, or `{"outcomes": […]}`.

    Raises:
        ValidationError: one of them is wrong.
        ValueError: it is something else altogether.
    """
    if isinstance(written, dict) and isinstance(written.get("outcomes"), list):
        written = written["outcomes"]
    items: list[Any] = written if isinstance(written, list) else [written]
    if not items or len(items) > _MOST:
        raise ValueError(f"one request holds 1 to {_MOST} outcomes")
    return [Told.model_validate(item).outcome(tenant, now_ns) for item in items]


def outcome_routes(host: Host) -> list[Route]:
    """`POST /v1/outcomes` takes both: a request with `X-GitHub-Event` is a webhook. Answered once it is on disk."""

    async def post(request: Request) -> Response:
        body = await read_body(request, MAX_BYTES)
        if body is None:
            return JSONResponse({"error": f"longer than {MAX_BYTES} bytes, or cut off"}, 413)
        return await anyio.to_thread.run_sync(_taken, host, request, body)

    def get(request: Request) -> Response:
        written, limit = request.query_params.get("since"), request.query_params.get("limit", "100")
        if not limit.isascii() or not limit.isdigit() or not 0 < int(limit[:6]) <= _MOST_SHOWN:
            raise UsageError(f"`limit={limit}` is not a number from 1 to {_MOST_SHOWN}")
        since_ns = instant_ns(written, time.time_ns()) if written else None
        return JSONResponse({"outcomes": host.ledger.news(int(limit), since_ns, request.query_params.get("tenant"))})

    return [Route("/v1/outcomes", post, methods=["POST"]), Route("/v1/outcomes", get)]


def _taken(host: Host, request: Request, body: bytes) -> Response:
    event = request.headers.get("x-github-event")
    now_ns = time.time_ns()
    try:
        if event is not None:
            webhooks = host.github_webhooks
            if webhooks is None:
                return JSONResponse({"error": "no secret is set: config key `outcomes.github.secret`"}, 403)
            if not is_signed(body, request.headers.get("x-hub-signature-256"), webhooks[0]):
                _log.warning("a webhook's signature is wrong", delivered=event[:40])
                return JSONResponse({"error": "X-Hub-Signature-256 does not fit"}, 401)
            payload = read_object(_payload(request, body))
            outcomes = github_outcomes(event, payload, host.outcome_rules, webhooks[1], now_ns)
        else:
            if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                # No page of another site can send this type without being asked first.
                return JSONResponse({"error": "send JSON with content-type: application/json"}, 415)
            outcomes = read_told(json.loads(body), tenant_of(request.scope), now_ns)
    except ValidationError as error:
        return JSONResponse({"error": first_mistake(error)}, 400)
    except (ValueError, RecursionError) as error:
        return JSONResponse({"error": f"not understood: {error}"}, 400)
    try:
        if outcomes:
            host.learn(outcomes)
    except (JournalFullError, JournalBrokenError, TimeoutError) as error:
        return JSONResponse({"error": f"not on disk, send it again: {error}"}, 503, headers={"retry-after": "5"})
    told = [{"id": one.id, "name": one.name, "value": one.value, "keys": list(one.keys)} for one in outcomes]
    return JSONResponse({"accepted": len(told), "outcomes": told})


def _payload(request: Request, body: bytes) -> bytes:
    """A webhook may also be set to send its JSON in a form, which is GitHub's default; the whole body is signed."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return body
    found = parse_qs(body.decode("utf-8", "replace"), max_num_fields=10).get("payload")
    return found[0].encode() if found else b""


def first_mistake(error: ValidationError) -> str:
    """The first thing that is wrong with a request, in words."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    known = ", ".join(Told.model_fields)
    said = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        said = f"unknown key; known are {known}"
    return f"{where}: {said}" if where else said
