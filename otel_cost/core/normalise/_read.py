"""What every dialect reads the same way: content as text, failures, who pays, agreed amounts of money."""

from __future__ import annotations

import ast
import binascii
import json
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otel_cost.core.decode.otlp import span_events
from otel_cost.core.model.attributes import ask, text
from otel_cost.core.model.event import STATUS_ERROR
from otel_cost.core.model.money import usd_to_nano

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from otel_cost.core.model.attributes import Attributes, Value
    from otel_cost.core.model.event import Resource, SpanEvent

MOST_TEXT: Final = 256 * 1024  # longer JSON is not opened: only ids and numbers are wanted from it


# Who ----------------------------------------------------------------------------------------------

# First hit wins, span before resource. What operators map by rules of their own comes later and overrides.
WHO: Final[dict[str, tuple[str, ...]]] = {
    "user": (
        "user.id",
        "enduser.id",
        "user.email",
        "gen_ai.user",
        "gen_ai.user.id",
        "langfuse.user.id",
        "ai.telemetry.metadata.userId",
        "traceloop.association.properties.user_id",
        "langsmith.metadata.user_id",
        "metadata.user_api_key_user_id",
        "metadata.user_api_key_end_user_id",
        "gen_ai.request.user",
        "llm.user",
        "user.account_uuid",
        "user.account_id",
    ),
    "team": ("team.id", "team.name", "team", "metadata.user_api_key_team_id", "metadata.user_api_key_team_alias"),
    "org": ("organization.id", "org.id", "organization.name", "metadata.user_api_key_org_id"),
    "workspace": ("workspace.id", "workspace.name", "langsmith.metadata.workspace_id"),
    "api_key": ("api_key.id", "gen_ai.api_key.id", "metadata.user_api_key_alias", "metadata.user_api_key_hash"),
    "project": ("project.id", "project.name", "gcp.project.id", "metadata.user_api_key_project_id"),
    "workflow": (
        "otel_cost.workflow",
        "gen_ai.workflow.name",
        "traceloop.workflow.name",
        "workflow.name",
    ),
    "environment": ("deployment.environment.name", "deployment.environment"),
}
_WHO_OF: Final[dict[str, tuple[str, int]]] = {
    key: (name, rank) for name, keys in WHO.items() for rank, key in enumerate(keys)
}


WHO_KEYS: Final = tuple(_WHO_OF)
ask(*WHO_KEYS)


def who_of(attributes: Attributes, resource: Resource, own: Collection[str] | None = None) -> dict[str, str]:
    """user, team, org, workspace, api_key, project, workflow, environment: those that are told.

    The table is `WHO`; a span's own word goes before its resource's. The
    dictionary may be shared between steps: copy it before changing it.
    `own`: those of `WHO_KEYS` that the span has, where the caller knows them.
    """
    general = _who_of_resource(resource)
    if own is None:
        own = _WHO_OF.keys() & attributes.told().keys()
    return general | _first_named(attributes, own) if own else general


@lru_cache(maxsize=512)
def _who_of_resource(resource: Resource) -> dict[str, str]:
    attributes = resource.attributes
    return _first_named(attributes, _WHO_OF.keys() & attributes.told().keys())


def _first_named(attributes: Attributes, keys: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    ranks: dict[str, int] = {}
    for key in keys:
        value = attributes.get(key)
        if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
            continue
        name, rank = _WHO_OF[key]
        if rank < ranks.get(name, len(_WHO_OF)):
            found[name] = str(value)
            ranks[name] = rank
    return found


# Text ---------------------------------------------------------------------------------------------


def as_text(value: Value) -> str | None:
    """Content as text: text as it is, anything structured as JSON; None for nothing."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def opened(value: Value) -> Any:  # noqa: ANN401 - whatever the sender wrote
    """A structure that was sent as JSON text or as a structure; None where it is neither, or too long to open."""
    if not isinstance(value, str):
        return value
    if len(value) > MOST_TEXT or not value or value[0] not in "{[":
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def opened_map(value: Value) -> Mapping[str, Any]:
    """`opened` where a JSON object is expected: an empty one for anything else."""
    structure = opened(value)
    return structure if isinstance(structure, dict) else {}


def opened_repr(value: Value) -> Mapping[str, Any]:
    """A dictionary sent as its Python repr (LiteLLM, LangSmith); JSON is taken too; empty for anything else."""
    if not isinstance(value, str) or len(value) > _MOST_REPR or not value.startswith("{"):
        return value if isinstance(value, dict) else {}
    if structure := opened_map(value):
        return structure
    try:
        structure = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {}
    return structure if isinstance(structure, dict) else {}


_MOST_REPR: Final = 16 * 1024  # `literal_eval` is slow and a usage object is below 1 KiB


def names(value: Value) -> tuple[str, ...]:
    """A list of texts, sent as a list, as JSON, or as one text."""
    if isinstance(value, str) and value.startswith("["):
        value = opened(value)
    elif isinstance(value, str):
        return (value,) if value else ()
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def dig(structure: Any, *path: str | int) -> Any:  # noqa: ANN401 - walks what the sender wrote
    """The value at a path of keys and positions, or None."""
    for part in path:
        if isinstance(part, int):
            if not isinstance(structure, list) or len(structure) <= part:
                return None
        elif not isinstance(structure, dict) or part not in structure:
            return None
        structure = structure[part]
    return structure


# Money --------------------------------------------------------------------------------------------


def reported_nano(value: Value) -> int | None:
    """Nano-USD of a cost the sender states in USD. Zero is never a report, a negative or odd one is none either."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or value == "":
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    try:
        nano = usd_to_nano(value)
    except ValueError:
        return None
    return nano if 0 < nano <= _MOST_NANO else None


_MOST_NANO: Final = 10**15  # a million dollars for one call is not a cost


# Failure ------------------------------------------------------------------------------------------


class Failure(NamedTuple):
    """How a span says that it failed; all None or False where it did not."""

    failed: bool = False
    type: str | None = None
    message: str | None = None  # content
    status_code: int | None = None


WELL: Final = Failure()


def failure_of(span: SpanEvent) -> Failure:
    """Status ERROR or an `error.type` make a failure; its words come from the status, else the exception event."""
    attributes = span.attributes
    if span.status_code != STATUS_ERROR and "error.type" not in attributes:
        return WELL  # as nearly always
    told = attributes.get("error.type")
    kind = str(told) if told not in (None, "") else None
    if not span.is_error and kind is None:
        return WELL
    message = span.status_message or text(attributes, "error.message", "exception.message")
    if span.raw_events and (not message or kind is None):
        raised = last_exception(span)
        message = message or raised.message
        kind = kind or raised.type
    code = status_code(attributes)
    if code is None and kind is not None and kind.isascii() and kind.isdecimal() and len(kind) == _HTTP_DIGITS:
        code = int(kind)
    return Failure(True, kind, message, code)


def last_exception(span: SpanEvent) -> Failure:
    """The last exception event is what escaped; earlier ones may have been handled."""
    for event in reversed(span_events(span.raw_events)):
        if event.name == "exception":
            told = event.attributes
            return Failure(True, text(told, "exception.type"), text(told, "exception.message"))
    return WELL


_HTTP_DIGITS: Final = 3


def status_code(attributes: Attributes) -> int | None:
    """The HTTP status, where the client tells it."""
    for key in ("http.response.status_code", "http.status_code", "status_code"):
        value = attributes.get(key)
        if isinstance(value, str) and value.isdecimal():
            value = int(value[:9])
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def answer_ids(identity: str) -> tuple[str, ...]:
    """The ids of an answer: as told and, where a LiteLLM proxy has packed it into one of its own, the one inside.

    The client is told the packed one, the proxy's own record the other.
    """
    if not identity.startswith(_PACKED):
        return (f"response:{identity}",)
    try:
        said = binascii.a2b_base64(identity.removeprefix("resp_")).decode()
    except ValueError:
        return (f"response:{identity}",)
    inner = said.rpartition("response_id:")[2]
    return (f"response:{identity}", f"response:{inner}") if inner and inner != said else (f"response:{identity}",)


_PACKED: Final = "resp_bGl0ZWxsbT"  # "litellm:", as far as its base64 is the same whatever follows
