"""LangChain and LangGraph: a middleware for `create_agent`, whose parts also fit a graph of one's own.

    agent = create_agent(model, tools, middleware=[CostMiddleware()])

    cost = CostMiddleware()
    model = cost.guarded(model.bind_tools(tools))
    node = ToolNode(tools, wrap_tool_call=cost.wrap_tool_call, awrap_tool_call=cost.awrap_tool_call)

A refused tool call is answered with the words of the rule, a stopped run ends with them as its last message; a
cheaper model takes the place of the dear one; a slowed run waits. Needs `langchain` 1.x.
"""

from __future__ import annotations

import logging
import sys
import uuid
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from langchain.agents.middleware import (
    AgentMiddleware,
    AgentState,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
)
from langchain.agents.middleware.types import PrivateStateAttr
from langchain.chat_models import init_chat_model
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableBinding
from langgraph.config import get_config
from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

from otel_cost.guard.client import Guard, Run, current_run, default_guard
from otel_cost.guard.trace import current_trace, trace_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from otel_cost.guard.answer import Answer

_log = logging.getLogger("otel_cost.guard")


class CostState(AgentState):
    """What the middleware keeps in the agent's state: under which session the run is known."""

    otel_cost_session: NotRequired[Annotated[str, PrivateStateAttr]]  # type: ignore[valid-type]  # a TypedDict's


class CostMiddleware(AgentMiddleware):
    """Asks before each model and tool call of an agent, and tells what it came to.

    The run is the current one (`with guard.run(…)`), else one named as OpenInference
    names the session: `session_id`, `conversation_id` or `thread_id` of the config, with
    `user_id` of its metadata.

    Args:
        guard: where to ask.
        models: what to change to, by the name that rules use; None: the same client
            with another model name, or `init_chat_model` for `provider:name`.
        who: `user`, `team`, `workflow` where the config does not tell.
    """

    state_schema = CostState

    def __init__(
        self,
        guard: Guard | None = None,
        *,
        models: Mapping[str, Any] | Callable[[str], Any] | None = None,
        **who: str | None,
    ) -> None:
        super().__init__()
        self.tools: list[Any] = []
        self._guard, self._models, self._who = guard or default_guard(), models, who

    def before_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:  # noqa: ANN401, ARG002
        """Name a run that nobody has named."""
        return None if state.get("otel_cost_session") else {"otel_cost_session": uuid.uuid4().hex}

    # ---- the model -----------------------------------------------------------

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:  # noqa: ANN401
        """Ask, call, tell."""
        run, at = self._run(request.state), _trace()
        answer = run.settle(run.before_model(_model_name(request.model), trace_id=at))
        if answer.refused:
            return _ending(answer)
        request = self._changed(request, run, answer)
        try:
            response = handler(request)
        except GraphBubbleUp:
            raise
        except Exception as error:
            run.after_model(_model_name(request.model), error=error, trace_id=at)
            raise
        run.after_model(**_spent(request, response), trace_id=at)
        return response

    async def awrap_model_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:  # noqa: ANN401
        """Ask, call, tell."""
        run, at = self._run(request.state), _trace()
        answer = await run.asettle(await run.abefore_model(_model_name(request.model), trace_id=at))
        if answer.refused:
            return _ending(answer)
        request = self._changed(request, run, answer)
        try:
            response = await handler(request)
        except GraphBubbleUp:
            raise
        except Exception as error:
            await run.aafter_model(_model_name(request.model), error=error, trace_id=at)
            raise
        await run.aafter_model(**_spent(request, response), trace_id=at)
        return response

    def guarded(self, model: Any) -> Runnable[Any, Any]:  # noqa: ANN401  # a chat model, with what is bound to it
        """A chat model that asks before each call, for a node of a graph of one's own.

        A stopped run gets the words of the rule as the model's answer, which calls no tools. The run is the
        current one, or named by the config that the graph is invoked with (`thread_id`, `session_id`).
        """
        return _Guarded(model, self)

    # ---- tools ---------------------------------------------------------------

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:  # noqa: ANN401
        """Ask, run, tell."""
        run, call, at = self._run(request.state), _call(request), _trace()
        answer = run.settle(run.before_tool(**call, trace_id=at))
        if answer.refused:
            return _refusal(request, answer)
        try:
            with run.inside(call["tool"], call["call_id"] or ""):
                result = handler(request)
        except GraphBubbleUp:
            raise
        except Exception as error:
            run.after_tool(**call, error=error, trace_id=at)
            raise
        run.after_tool(**call, **_came_to(request, result), trace_id=at)
        return _with_notes(request, result, run)

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:  # noqa: ANN401
        """Ask, run, tell."""
        run, call, at = self._run(request.state), _call(request), _trace()
        answer = await run.asettle(await run.abefore_tool(**call, trace_id=at))
        if answer.refused:
            return _refusal(request, answer)
        try:
            with run.inside(call["tool"], call["call_id"] or ""):
                result = await handler(request)
        except GraphBubbleUp:
            raise
        except Exception as error:
            await run.aafter_tool(**call, error=error, trace_id=at)
            raise
        await run.aafter_tool(**call, **_came_to(request, result), trace_id=at)
        return _with_notes(request, result, run)

    # ---- inside --------------------------------------------------------------

    def _run(self, state: Any) -> Run:  # noqa: ANN401  # a dict, or a graph's own state
        if (run := current_run()) is not None:
            return run
        told = _told()
        session = next((told[key] for key in ("session_id", "conversation_id", "thread_id") if told.get(key)), None)
        if session is None and isinstance(state, dict):
            session = state.get("otel_cost_session")
        who = self._who | ({"user": str(told["user_id"])} if told.get("user_id") else {})
        return self._guard.resume(str(session), **who) if session else self._guard.run(**who)

    def _changed(self, request: Any, run: Run, answer: Answer) -> Any:  # noqa: ANN401
        """The request as it may be made: with the cheaper model, and with what the agent has to read."""
        if answer.verb == "downgrade" and answer.model and answer.model != _model_name(request.model):
            model = self._model(answer.model, request.model)
            request = request if model is None else request.override(model=model)
        notes = run.take_notes()
        return request.override(messages=[*request.messages, HumanMessage(notes)]) if notes else request

    def _model(self, name: str, current: Any) -> Any:  # noqa: ANN401  # a BaseChatModel, or None
        try:
            if self._models is not None:
                return self._models(name) if callable(self._models) else self._models.get(name)
            field = next((one for one in ("model_name", "model") if one in type(current).model_fields), None)
            if field is None or ":" in name:
                return init_chat_model(name)
            return current.model_copy(update={field: name})
        except Exception as error:  # noqa: BLE001  # whatever a client's package raises; the run goes on as it was
            _log.warning("cannot change the model to %s: %s", name, error)
            return None


class _Guarded(Runnable[Any, Any]):
    """See `CostMiddleware.guarded`."""

    def __init__(self, model: Any, cost: CostMiddleware) -> None:  # noqa: ANN401
        self._model, self._cost = model, cost

    def invoke(self, input: Any, config: Any = None, **more: Any) -> Any:  # noqa: A002, ANN401  # Runnable's names
        def call(request: Any) -> Any:  # noqa: ANN401
            return _with_chat(self._model, request.model).invoke(request.messages, config, **more)

        return _messages(self._cost.wrap_model_call(self._request(input), call))[-1]

    async def ainvoke(self, input: Any, config: Any = None, **more: Any) -> Any:  # noqa: A002, ANN401
        async def call(request: Any) -> Any:  # noqa: ANN401
            return await _with_chat(self._model, request.model).ainvoke(request.messages, config, **more)

        return _messages(await self._cost.awrap_model_call(self._request(input), call))[-1]

    def _request(self, given: Any) -> Any:  # noqa: ANN401
        if isinstance(given, PromptValue):
            messages = given.to_messages()
        else:
            messages = [HumanMessage(given)] if isinstance(given, str) else convert_to_messages(given)
        return ModelRequest(model=_chat_in(self._model), messages=messages)


def _chat_in(model: Any) -> Any:  # noqa: ANN401
    """The chat model itself, below what is bound to it."""
    return _chat_in(model.bound) if isinstance(model, RunnableBinding) else model


def _with_chat(model: Any, chat: Any) -> Any:  # noqa: ANN401
    """Another chat model, with the same bound to it."""
    if not isinstance(model, RunnableBinding):
        return chat
    return model.model_copy(update={"bound": _with_chat(model.bound, chat)})


# --- What LangChain's objects say --------------------------------------------------------------------------


def _trace() -> str | None:
    """The current trace; OpenInference keeps its span by LangChain's run id and makes none current."""
    at = current_trace()
    if at is None and "openinference.instrumentation.langchain" in sys.modules:
        from openinference.instrumentation.langchain import get_current_span  # noqa: PLC0415  # no dependency

        at = trace_of(get_current_span())
    return at


def _told() -> dict[str, Any]:
    """What the caller's config says, `configurable` and `metadata` together; empty outside a graph."""
    try:
        config = get_config()
    except RuntimeError:
        return {}
    return {**(config.get("configurable") or {}), **(config.get("metadata") or {})}


def _model_name(model: Any) -> str | None:  # noqa: ANN401
    names = (getattr(model, field, None) for field in ("model_name", "model", "model_id"))
    return next((name for name in names if isinstance(name, str) and name), None)


def _spent(request: Any, response: Any) -> dict[str, Any]:  # noqa: ANN401
    """What a finished model call came to, from its last message."""
    messages = _messages(response)
    said = next((one for one in reversed(messages) if isinstance(one, AIMessage)), None)
    if said is None:
        return {"model": _model_name(request.model)}
    metadata = said.response_metadata or {}
    counts = said.usage_metadata or {}
    cached, reasoned = counts.get("input_token_details") or {}, counts.get("output_token_details") or {}
    usage = {
        "input": counts.get("input_tokens"),
        "output": counts.get("output_tokens"),
        "cache_read": cached.get("cache_read"),
        "cache_write": cached.get("cache_creation"),
        "reasoning": reasoned.get("reasoning"),
    }
    return {
        "model": metadata.get("model_name") or metadata.get("model") or _model_name(request.model),
        "provider": metadata.get("model_provider"),
        "response_id": metadata.get("id"),
        "usage": usage if counts else None,
    }


def _messages(response: Any) -> list[Any]:  # noqa: ANN401
    if isinstance(response, ExtendedModelResponse):
        response = response.model_response
    return response.result if isinstance(response, ModelResponse) else [response]


def _call(request: Any) -> dict[str, Any]:  # noqa: ANN401
    called = request.tool_call
    return {"tool": called["name"], "args": called["args"], "call_id": called.get("id")}


def _came_to(request: Any, result: Any) -> dict[str, Any]:  # noqa: ANN401
    message = _own_message(request, result)
    if message is None:
        return {}
    return {"error" if message.status == "error" else "result": message.content}


def _own_message(request: Any, result: Any) -> Any:  # noqa: ANN401
    """The call's own tool message, also where it comes among other updates of the state."""
    if isinstance(result, Command):
        update = result.update if isinstance(result.update, dict) else {}
        mine = (one for one in update.get("messages") or () if isinstance(one, ToolMessage))
        return next((one for one in mine if one.tool_call_id == request.tool_call.get("id")), None)
    return result if isinstance(result, ToolMessage) else None


def _with_notes(request: Any, result: Any, run: Run) -> Any:  # noqa: ANN401
    """A tool's result, and below it what the agent has to read; else the next model call brings it."""
    if _own_message(request, result) is not result:
        return result
    notes = run.take_notes()
    if notes is None:
        return result
    content = result.content
    said = f"{content}\n\n{notes}" if isinstance(content, str) else [*content, {"type": "text", "text": notes}]
    return result.model_copy(update={"content": said})


def _refusal(request: Any, answer: Answer) -> Any:  # noqa: ANN401
    called = request.tool_call
    return ToolMessage(answer.text, name=called["name"], tool_call_id=called.get("id") or "", status="error")


def _ending(answer: Answer) -> Any:  # noqa: ANN401
    """The last message of a run that ends here; its metadata tell programs why."""
    told = {"otel_cost": {"decision": answer.verb, "rule": answer.rule, "reason": answer.reason}}
    last = ModelResponse(result=[AIMessage(answer.text, response_metadata=told)])
    return ExtendedModelResponse(model_response=last, command=Command(update={"jump_to": "end"}))
