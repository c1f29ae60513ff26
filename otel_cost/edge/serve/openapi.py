"""OpenAPI document of the API, written by hand; a test holds it against the routes and their answers."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from otel_cost.core.model.vocabulary import Category
from otel_cost.edge.ledger import ATTRIBUTE, DIMENSIONS
from otel_cost.edge.serve.gate import scope_of
from otel_cost.edge.serve.reports import FORMATS

_TEXT = {"type": "string"}
_MONEY = {"type": ["string", "null"], "description": "USD as an exact decimal string; null: no price is known"}
_COUNT = {"type": "integer", "minimum": 0}


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    times = [
        _query("since", "from this start on: `30d` (ago), a date, or an RFC 3339 instant"),
        _query("until", "up to this start, exclusive; written like `since`"),
    ]
    tenant = _query("tenant", "one tenant only")
    top = _query("top", "at most so many", {"type": "integer", "minimum": 1, "maximum": 1000})
    dimensions = ", ".join((*DIMENSIONS, f"{ATTRIBUTE}KEY"))
    run_id = {"name": "id", "in": "path", "required": True, "schema": _TEXT, "description": "a run, session or trace"}
    backtest_id = {"name": "id", "in": "path", "required": True, "schema": _TEXT, "description": "a kept report"}
    paths: dict[str, dict[str, Any]] = {
        "/": _get("The page: spend, dearest runs, alerts, holes", [times[0], tenant], html=True),
        "/budgets": _get("The page of budgets: what each group has spent of its limit", [tenant], html=True),
        "/alerts": _get("The page of alerts: acknowledge, silence, relax", [tenant], html=True),
        "/workflows": _get(
            "The page of workflows: cost per outcome, drift",
            [times[0], tenant, _query("by", "`model_route`")],
            html=True,
        ),
        "/runs/{id}": _get("The page of one run", [run_id, tenant], html=True, missing=True),
        "/backtests": _get("The page of backtests: what other rules would have done", [tenant], html=True),
        "/backtests/{id}": _get("The page of one backtest", [backtest_id, tenant], html=True, missing=True),
        "/live": {
            "get": {
                "summary": "What a page shows, as server-sent events, again whenever it is another",
                "parameters": [
                    _query("page", "its path: `/`, `/alerts`, `/budgets`, `/workflows`, `/runs/ID`"),
                    times[0],
                    tenant,
                ],
                "responses": {
                    "200": {"description": "events `page`: HTML", "content": {"text/event-stream": {}}},
                    "404": _answer({"$ref": "#/components/schemas/Error"}),
                },
            }
        },
        "/healthz": _get("The process lives", answer=_object(status=_TEXT)),
        "/readyz": {
            "get": {
                "summary": "The service can take work",
                "responses": {
                    code: _answer(_object(ready={"type": "boolean"}, problems={"type": "array", "items": _TEXT}))
                    for code in ("200", "503")
                },
            }
        },
        "/metrics": {
            "get": {
                "summary": "Metrics of the service itself, for Prometheus",
                "responses": {"200": {"description": "text exposition format", "content": {"text/plain": {}}}},
            }
        },
        "/v1/report": _get(
            "Spend by any dimension, dearest first",
            [
                _query("by", f"comma-separated: {dimensions}"),
                _query("per", "`outcome`: what outcomes cost, whole runs by their start; also by `model_route`"),
                _query("compare", "`previous` (the same length of time before), or `KEY=A,B`: two of its values"),
                _query(
                    "format",
                    "`focus`: CSV with FOCUS columns, a row per day",
                    {"type": "string", "enum": list(FORMATS), "default": "json"},
                ),
                *times,
                tenant,
                top,
            ],
            answer=_object(rows={"type": "array", "items": {"$ref": "#/components/schemas/ReportRow"}}),
        ),
        "/v1/runs": _get(
            "The dearest runs, open ones included",
            [*times, tenant, top, _query("open", "`true`: only those that are still open")],
            answer=_object(runs={"type": "array", "items": {"$ref": "#/components/schemas/Run"}}),
        ),
        "/v1/recorded": {
            "get": {
                "summary": "Closed runs as they sleep, a JSON line each, for `backtest`; no content is in them",
                "parameters": [*times, tenant],
                "responses": {"200": {"description": "NDJSON", "content": {"application/x-ndjson": {}}}},
            }
        },
        "/v1/runs/{id}": _get(
            "One run with its tree, calls, alerts",
            [run_id, tenant],
            answer={"$ref": "#/components/schemas/Story"},
            missing=True,
        ),
        "/v1/traces/{id}": _get(
            "The run that a trace belongs to",
            [run_id, tenant],
            answer={"$ref": "#/components/schemas/Story"},
            missing=True,
        ),
        "/v1/alerts": _get(
            "Alerts, the latest first",
            [
                times[0],
                tenant,
                _query("category", "of one category only", {"type": "string", "enum": [*Category]}),
                _query("limit", "at most so many", {"type": "integer", "minimum": 1}),
            ],
            answer=_object(alerts={"type": "array", "items": {"type": "object"}}),
        ),
        "/v1/backtests": _get(
            "Kept reports of `otel-cost backtest`, the newest first; they are over all tenants together",
            [tenant],
            answer=_object(backtests={"type": "array", "items": {"type": "object"}}),
        ),
        "/v1/backtests/{id}": _get(
            "One of them, with its rules, charts and alerts",
            [backtest_id, tenant],
            answer=_object(made_at=_TEXT, about={"type": "object"}, total={"type": "object"}),
            missing=True,
        ),
        "/v1/loops": _get(
            "Shapes of loops and waste, the dearest first: how often, in how many runs, what they burnt",
            [times[0], tenant, top],
            answer=_object(loops={"type": "array", "items": {"type": "object"}}),
        ),
        "/v1/alerts/{id}/ack": {
            "post": {
                "summary": "Somebody has a firing alert in hand: it is not told again",
                "parameters": [{"name": "id", "in": "path", "required": True, "schema": _TEXT}],
                "requestBody": {"content": {"application/json": {"schema": _object(who=_TEXT)}}},
                "responses": {
                    "200": _answer(_object(id=_TEXT, acknowledged_by=_TEXT)),
                    "404": _answer({"$ref": "#/components/schemas/Error"}),
                },
            }
        },
        "/v1/silences": {
            "get": _get("Silences that hold", answer=_object(silences={"type": "array", "items": {"type": "object"}}))[
                "get"
            ],
            "post": {
                "summary": "Tell nobody of alerts that match, until a time",
                "requestBody": {
                    "content": {
                        "application/json": {
                            "schema": _object(matchers={"type": "object"}, who=_TEXT, reason=_TEXT),
                            "example": {
                                "matchers": {"rule": "same-error-3x", "team": "payments"},
                                "for": "2h",
                                "who": "ann@example.com",
                                "reason": "known, fix is on its way",
                            },
                        }
                    }
                },
                "responses": {
                    "201": _answer(_object(id=_TEXT, ends_at=_TEXT)),
                },
            },
        },
        "/v1/silences/{id}": {
            "delete": {
                "summary": "End a silence",
                "parameters": [{"name": "id", "in": "path", "required": True, "schema": _TEXT}],
                "responses": {
                    "200": _answer(_object(id=_TEXT, status=_TEXT)),
                    "404": _answer({"$ref": "#/components/schemas/Error"}),
                },
            }
        },
        "/v1/drift": _get(
            "What each group of each rule of drift costs, what is normal for it, its last runs; dear ones first",
            [tenant],
            answer=_object(drift={"type": "array", "items": {"type": "object"}}),
        ),
        "/v1/budgets": _get(
            "Where each group of each budget stands in its running window, the fullest first",
            [
                tenant,
                _query("rule", "of one budget only"),
                _query("limit", "at most so many", {"type": "integer", "minimum": 1, "maximum": 1000}),
            ],
            answer=_object(budgets={"type": "array", "items": {"type": "object"}}),
        ),
        "/v1/exceptions": {
            "post": {
                "summary": "A dated exception from an alert: `{alert, for, reason, owner, usd?}`; in force at once",
                "requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}},
                "responses": {
                    "200": _answer(_object(exception={"type": "object"}, file=_TEXT, rules_hash=_TEXT)),
                },
            }
        },
        "/v1/outcomes": {
            "get": {
                "summary": "Outcomes, the latest first, each with the runs that it reaches",
                "parameters": [times[0], tenant, _query("limit", "at most so many", top["schema"])],
                "responses": {"200": _answer(_object(outcomes={"type": "array", "items": {"type": "object"}}))},
            },
            "post": {
                "summary": "What became of some work, also as GitHub's webhooks; on disk when it answers",
                "requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}},
                "responses": {
                    "200": _answer(_object(accepted=_COUNT, outcomes={"type": "array", "items": {"type": "object"}})),
                    "401": _answer({"$ref": "#/components/schemas/Error"}),
                },
            },
        },
        "/v1/decide": {
            "post": {
                "summary": "May an agent go on? Asked before its next model or tool call",
                "requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}},
                "responses": {"200": _answer(_object(decision=_TEXT))},
            }
        },
        "/v1/hooks/{dialect}": {
            "post": {
                "summary": "The same in a harness's own words: claude, codex, gemini, qwen, copilot, opencode",
                "parameters": [{"name": "dialect", "in": "path", "required": True, "schema": _TEXT}],
                "requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}},
                "responses": {"200": _answer({"type": "object", "description": "`{}`: no objection"})},
            }
        },
        "/openapi.json": _get("This document", answer={"type": "object"}),
        "/v1/forget": _post(
            "Delete closed runs with all that hangs on them; all that is given must fit",
            _object(tenant=_TEXT, run_id=_TEXT, user=_TEXT, before=_TEXT),
            _object(runs={"type": "integer"}),
        ),
        "/v1/backup": _post(
            "Copy all that is kept to a new folder on the service's machine, while it runs",
            _object(path=_TEXT),
            _object(path=_TEXT, bytes={"type": "integer"}),
        ),
        "/-/reload": {
            "post": {
                "summary": "Read rules and config again; the last good set stays if they do not load",
                "responses": {
                    "200": _answer(_object(status=_TEXT, rules_hash=_TEXT)),
                    "400": _answer({"$ref": "#/components/schemas/Error"}, "where they are wrong"),
                },
            }
        },
    }
    for path, operations in paths.items():
        for method, operation in operations.items():
            operation["responses"] = _refusals(path, method, operation) | operation["responses"]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "otel-cost",
            "version": _version(),
            "description": "What AI agents spend, on what, and what of it was wasted.",
        },
        "paths": paths,
        "components": {"schemas": _schemas()},
    }


def _refusals(path: str, method: str, operation: dict[str, Any]) -> dict[str, Any]:
    """How any operation of its kind may be refused."""
    refused: dict[str, str] = {}
    if scope_of(method.upper(), path) is not None:
        refused |= {"401": "no credential, or one that is not known", "403": "this credential may not do that"}
    if "requestBody" in operation:
        refused |= {"400": "what is wrong, and what is allowed", "413": "the body is too large"}
        refused |= {"415": "the body is not declared as JSON"}
    elif any(parameter["in"] == "query" for parameter in operation.get("parameters", ())):
        refused["400"] = "what is wrong, and what is allowed"
    error = {"$ref": "#/components/schemas/Error"}
    return {status: _answer(error, why) for status, why in refused.items()}


def _version() -> str:
    try:
        return version("otel-cost")
    except PackageNotFoundError:  # run from a checkout
        return "0"


def _schemas() -> dict[str, Any]:
    nullable: dict[str, Any] = {"type": ["string", "null"]}
    run: dict[str, dict[str, Any]] = {
        "type": {"const": "run"},
        "run_id": _TEXT,
        "tenant": _TEXT,
        "trace_ids": {"type": "array", "items": _TEXT},
        "cost_usd": _MONEY,
        "complete": {"type": "boolean", "description": "false: the cost is a floor"},
        "unpriced_calls": _COUNT,
        "llm_calls": _COUNT,
        "tool_calls": _COUNT,
        "errors": _COUNT,
        "agents": {"type": "array", "items": _TEXT},
        "workflow": nullable,
        "user": nullable,
        "team": nullable,
        "session": nullable,
        "wasted_usd": _MONEY,
        "model_route": {"type": "array", "items": _object(model=_TEXT, calls=_COUNT, cost_usd=_MONEY)},
        "start_time": _TEXT,
        "end_time": _TEXT,
        "open": {"type": "boolean", "description": "it may still grow"},
    }
    objects = {"type": "array", "items": {"type": "object"}}
    return {
        "Error": _object(error=_TEXT),
        "ReportRow": _object(
            cost_usd=_MONEY,
            calls=_COUNT,
            unpriced_calls=_COUNT,
            incomplete_calls=_COUNT,
            wasted_usd=_MONEY,
            input_tokens=_COUNT,
            output_tokens=_COUNT,
        )
        | {"additionalProperties": nullable, "description": "plus one key per dimension; null: unattributed"},
        "Run": _object(**run),
        "Branch": _object(
            span_id=nullable,
            trace_id=nullable,
            call_id=nullable,
            kind=_TEXT,
            name=_TEXT,
            agent=nullable,
            start_time=_TEXT,
            duration_ms={"type": "number"},
            failed={"type": "boolean"},
            status=nullable,
            self_usd=_MONEY,
            subtree_usd=_MONEY,
            carried_usd=_MONEY,
            attempt=nullable,
            children={"type": "array", "items": {"$ref": "#/components/schemas/Branch"}},
        ),
        "Story": _object(
            **run,
            traces=objects,
            tree={"type": "array", "items": {"$ref": "#/components/schemas/Branch"}},
            calls=objects,
            alerts=objects,
            corrections=objects,
            sums={"type": "object"},
        ),
    }


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _query(name: str, description: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema or _TEXT}


def _answer(schema: dict[str, Any], description: str = "JSON") -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _post(summary: str, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "post": {
            "summary": summary,
            "requestBody": {"content": {"application/json": {"schema": body}}},
            "responses": {"200": _answer(answer)},
        }
    }


def _get(
    summary: str,
    parameters: list[dict[str, Any]] | None = None,
    *,
    answer: dict[str, Any] | None = None,
    html: bool = False,
    missing: bool = False,
) -> dict[str, Any]:
    page = {"description": "a page", "content": {"text/html": {}}}
    responses: dict[str, Any] = {"200": page if html else _answer(answer or {})}
    if missing:
        responses["404"] = page if html else _answer({"$ref": "#/components/schemas/Error"}, "there is no such thing")
    return {"get": {"summary": summary, "parameters": parameters or [], "responses": responses}}
