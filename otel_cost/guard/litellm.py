"""LiteLLM's proxy: a guardrail that asks before each model call.

    guardrails:
      - guardrail_name: otel-cost
        litellm_params: {guardrail: otel_cost.guard.litellm.CostGuardrail, mode: pre_call, default_on: true}

A proxy sees the tools that an agent ran in the next request it sends, and cannot keep it from running one: a refused
or stopped run is answered with the words of the rule in place of the model's. A cheaper model takes the place of
the dear one; a slowed run waits. Standard library and LiteLLM only, so it may be installed without its own
dependencies (`pip install --no-deps otel-cost`), which LiteLLM's pins do not all bear.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from litellm.integrations.custom_guardrail import CustomGuardrail, ModifyResponseException

from otel_cost.guard.client import Guard, Run

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARK = "otel_cost_session"  # in the request's metadata: under which run its answer is told
_CHATS = frozenset({"completion", "acompletion", "text_completion", "atext_completion", "aresponses", "responses"})


class CostGuardrail(CustomGuardrail):
    """Asks before each call of a chat model, tells what it came to, and which tools the agent ran before.

    The run is named by `litellm_session_id` (also as header `x-litellm-session-id`), or
    `session_id`, `conversation_id` or `thread_id` of the request's metadata; else by its
    trace id. User and team are those of the key.

    Args:
        guard: where to ask; None: `api_base` of the guardrail's parameters, else as everywhere.
        more: LiteLLM's own parameters.
    """

    def __init__(self, guard: Guard | None = None, **more: Any) -> None:  # noqa: ANN401
        super().__init__(**more)
        self._guard = guard or Guard(more.get("api_base"))

    async def async_pre_call_hook(
        self,
        user_api_key_dict: Any,  # noqa: ANN401
        cache: Any,  # noqa: ANN401, ARG002
        data: dict[str, Any],
        call_type: str,
    ) -> Any:  # noqa: ANN401
        """Tell which tools were run, ask for the model, change the request or answer it."""
        if call_type not in _CHATS:
            return None
        run = self._run(data, user_api_key_dict)
        trace_id = _trace_of(data)
        for call in _tools_run(data.get("messages")):
            await run.aafter_tool(**call, trace_id=trace_id)
        answer = await run.asettle(await run.abefore_model(data.get("model"), trace_id=trace_id))
        if answer.refused:
            raise ModifyResponseException(
                message=answer.text,
                model=str(data.get("model") or ""),
                request_data=data,
                guardrail_name=self.guardrail_name,
            )
        data.setdefault("metadata", {})[_MARK] = run.session_id
        if answer.verb == "downgrade" and answer.model:
            data["model"] = answer.model
        if (notes := run.take_notes()) and isinstance(data.get("messages"), list):
            data["messages"] = [*data["messages"], {"role": "user", "content": notes}]
        return data

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:  # noqa: ANN401, ARG002
        """Tell what a model call came to."""
        run = self._known(kwargs)
        if run is not None:
            usage = getattr(response_obj, "usage", None)
            await run.aafter_model(
                kwargs.get("model"),  # the deployment's, where the response may bear the proxy's own name
                provider=kwargs.get("custom_llm_provider"),
                usage=_usage(usage),
                response_id=getattr(response_obj, "id", None),
            )

    async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:  # noqa: ANN401, ARG002
        """Tell that a model call went wrong."""
        run = self._known(kwargs)
        if run is not None:
            error = kwargs.get("exception") or "failed"
            await run.aafter_model(kwargs.get("model"), provider=kwargs.get("custom_llm_provider"), error=error)

    # ---- inside --------------------------------------------------------------

    def _run(self, data: dict[str, Any], key: Any) -> Run:  # noqa: ANN401
        metadata = _metadata(data)
        named = [
            data.get("litellm_session_id"),
            *(metadata.get(one) for one in _SESSIONS),
            data.get("litellm_trace_id"),
        ]
        session = next((str(one) for one in named if one), None)
        user = getattr(key, "end_user_id", None) or getattr(key, "user_id", None) or data.get("user")
        team = getattr(key, "team_alias", None) or getattr(key, "team_id", None)
        who = {"user": user, "team": team}
        return self._guard.resume(session, **who) if session else self._guard.run(**who)

    def _known(self, kwargs: dict[str, Any]) -> Run | None:
        """The run that a finished call was asked for; None: it was not asked for here."""
        session = _metadata(kwargs.get("litellm_params") or {}).get(_MARK)
        return self._guard.resume(session) if isinstance(session, str) else None


_SESSIONS = ("session_id", "conversation_id", "thread_id")


def _metadata(data: dict[str, Any]) -> dict[str, Any]:
    """LiteLLM keeps the caller's metadata under one of two names, by route."""
    both = (data.get("litellm_metadata"), data.get("metadata"))
    return {key: value for one in both if isinstance(one, dict) for key, value in one.items()}


def _trace_of(data: dict[str, Any]) -> str | None:
    """The trace of the caller's `traceparent` header."""
    headers = (data.get("proxy_server_request") or {}).get("headers") or {}
    parts = str(headers.get("traceparent") or "").split("-")
    return parts[1] if len(parts) == 4 and len(parts[1]) == 32 else None


def _tools_run(messages: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401  # what a client sent
    """Tool calls whose results are new in this request: those after the model's last message."""
    if not isinstance(messages, list):
        return
    calls: dict[str, dict[str, Any]] = {}
    results: list[dict[str, Any]] = []
    for message in messages:
        if not isinstance(message, dict):
            continue
        if message.get("role") == "assistant":
            asked = [call for call in message.get("tool_calls") or () if isinstance(call, dict)]
            calls, results = {str(call.get("id")): call.get("function") or {} for call in asked}, []
        elif message.get("role") == "tool":
            results.append(message)
    for message in results:
        call_id = str(message.get("tool_call_id"))
        called = calls.get(call_id, {})
        tool = called.get("name") or message.get("name")
        if tool:
            told = message.get("content")
            result = told if isinstance(told, str) else json.dumps(told, default=str)
            yield {"tool": tool, "args": called.get("arguments") or "{}", "result": result, "call_id": call_id}


def _usage(usage: Any) -> dict[str, int | None] | None:  # noqa: ANN401
    if usage is None:
        return None
    cached = getattr(usage, "prompt_tokens_details", None)
    reasoned = getattr(usage, "completion_tokens_details", None)
    return {
        "input": getattr(usage, "prompt_tokens", None),
        "output": getattr(usage, "completion_tokens", None),
        "cache_read": getattr(cached, "cached_tokens", None),
        "cache_write": getattr(cached, "cache_creation_tokens", None),
        "reasoning": getattr(reasoned, "reasoning_tokens", None),
    }
