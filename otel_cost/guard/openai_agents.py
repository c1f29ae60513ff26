"""OpenAI Agents SDK: an agent whose models and tools ask first.

    result = await Runner.run(guarded(agent), "…")

A refused tool call is answered with the words of the rule, a stopped run ends with them as its final output (an
agent whose output is no text raises `Stopped`); a cheaper model takes the place of the dear one; a slowed run
waits. Needs `openai-agents` 0.24 or later. Run hooks alone could only raise.
"""

from __future__ import annotations

import copy
import inspect
import logging
import time
import uuid
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agents import (
    FunctionTool,
    Handoff,
    HostedMCPTool,
    LocalShellTool,
    ModelResponse,
    MultiProvider,
    RunConfig,
    ShellTool,
    Usage,
)
from agents.models.interface import Model
from agents.tool import (
    default_tool_error_function,
    resolve_function_tool_failure_error_function,
    set_function_tool_failure_error_function,
)
from agents.tracing import get_current_trace
from openai.types.responses import Response, ResponseCompletedEvent, ResponseOutputMessage, ResponseOutputText

from otel_cost.guard.answer import Stopped
from otel_cost.guard.client import Guard, Run, current_run, default_guard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from otel_cost.guard.answer import Answer

_log = logging.getLogger("otel_cost.guard")
_INPUT, _OUTPUT_SCHEMA = 1, 4  # places among the arguments of a model call
_UNNAMED = "Agent workflow"  # what the SDK calls a workflow that nobody named
_said_error: ContextVar[list[bool] | None] = ContextVar("otel_cost_mcp_error", default=None)


def guarded(
    agent: Any,  # noqa: ANN401  # agents.Agent
    guard: Guard | None = None,
    *,
    provider: Any = None,  # noqa: ANN401  # agents.ModelProvider
    models: Mapping[str, Any] | Callable[[str], Any] | None = None,
    **who: str | None,
) -> Any:  # noqa: ANN401
    """A copy of an agent, and of those that it hands over to, that asks before each model and tool call.

    Tools of MCP servers and local shells are asked about like functions. What OpenAI runs inside a model call is
    not: of a hosted MCP tool only the calls for which it wants approval.

    The run is the current one (`with guard.run(…)`), else it has the name of the SDK's own
    trace: its group id, or the trace's. Without tracing all runs of the copy are one.

    Args:
        agent: stays as it is. A model in `RunConfig` takes the place of its guarded one, so leave that out.
        guard: where to ask.
        provider: makes models of names; None: the SDK's `MultiProvider`.
        models: what to change to, by the name that rules use; None: the provider makes it.
        who: `user`, `team`, `workflow`; the workflow is also taken from the SDK's trace.
    """
    desk = _Desk(guard or default_guard(), provider or MultiProvider(), models, who)
    return desk.agent(agent, {})


class _Desk:
    """What the guarded parts of one agent share."""

    def __init__(self, guard: Guard, provider: Any, models: Any, who: dict[str, str | None]) -> None:  # noqa: ANN401
        self._guard, self._provider, self._models, self._who = guard, provider, models, who
        self._untraced = uuid.uuid4().hex

    def agent(self, agent: Any, known: dict[int, Any]) -> Any:  # noqa: ANN401
        if id(agent) in known:
            return known[id(agent)]  # agents hand over to each other
        # Settings that the SDK chose for the model's name go with it.
        mine = agent.clone(
            model=_CostModel(agent.model, self),
            tools=[self.tool(tool) for tool in agent.tools],
            mcp_servers=[_HeardServer(server) for server in agent.mcp_servers],
            model_settings=agent.model_settings,
        )
        known[id(agent)] = mine
        kind = type(mine)

        async def get_mcp_tools(one: Any, context: Any) -> list[Any]:  # noqa: ANN401  # agents.Agent, RunContextWrapper
            return [self.tool(tool) for tool in await kind.get_mcp_tools(one, context)]

        # A class of its own, so that what is cloned from it asks as well.
        mine.__class__ = type(kind.__name__, (kind,), {"get_mcp_tools": get_mcp_tools})
        mine.handoffs = [self._handoff(one, known) for one in agent.handoffs]
        return mine

    def _handoff(self, handoff: Any, known: dict[int, Any]) -> Any:  # noqa: ANN401
        if not isinstance(handoff, Handoff):
            return self.agent(handoff, known)
        hand_over = handoff.on_invoke_handoff

        async def on_invoke_handoff(context: Any, arguments: str) -> Any:  # noqa: ANN401
            return self.agent(await hand_over(context, arguments), known)

        return replace(handoff, on_invoke_handoff=on_invoke_handoff)

    # ---- tools ---------------------------------------------------------------

    def tool(self, tool: Any) -> Any:  # noqa: ANN401
        """A tool that asks first; as it is where nothing of it runs here."""
        if isinstance(tool, FunctionTool):
            return self._function(tool)
        if isinstance(tool, (LocalShellTool, ShellTool)) and tool.executor is not None:
            return self._shell(tool)
        if isinstance(tool, HostedMCPTool) and tool.on_approval_request is not None:
            return self._hosted(tool)
        return tool

    def _shell(self, tool: Any) -> Any:  # noqa: ANN401
        mine = copy.copy(tool)
        execute = tool.executor

        async def executor(request: Any) -> Any:  # noqa: ANN401
            run, call = self.run(), request.data
            commands = getattr(call.action, "commands", None) or getattr(call.action, "command", None)
            about = {"tool": tool.name, "args": {"command": commands}, "call_id": call.call_id}
            answer = await run.asettle(await run.abefore_tool(**about))
            if answer.refused:
                return answer.text
            try:
                result = execute(request)
                result = await result if inspect.isawaitable(result) else result
            except Exception as error:
                await run.aafter_tool(**about, error=error)
                raise
            await run.aafter_tool(**about, **_shell_said(result))
            return result

        mine.executor = executor
        return mine

    def _hosted(self, tool: Any) -> Any:  # noqa: ANN401
        mine = copy.copy(tool)
        approve = tool.on_approval_request

        async def on_approval_request(request: Any) -> Any:  # noqa: ANN401
            run, call = self.run(), request.data
            answer = await run.asettle(await run.abefore_tool(call.name, call.arguments, call_id=call.id))
            if answer.refused:
                return {"approve": False, "reason": answer.text}
            approved = approve(request)
            return await approved if inspect.isawaitable(approved) else approved

        mine.on_approval_request = on_approval_request
        return mine

    def _function(self, tool: Any) -> Any:  # noqa: ANN401
        mine = copy.copy(tool)
        invoke = mine.on_invoke_tool

        async def on_invoke_tool(context: Any, arguments: str) -> Any:  # noqa: ANN401
            run = self.run()
            about = {"tool": context.tool_name, "args": arguments, "call_id": context.tool_call_id}
            answer = await run.asettle(await run.abefore_tool(**about))
            if answer.refused:
                return answer.text
            failed: list[Exception] = []
            _listen(mine, context, failed)
            said_error: list[bool] = []
            token = _said_error.set(said_error)
            try:
                with run.inside(context.tool_name, context.tool_call_id):
                    result = await invoke(context, arguments)
            except Exception as error:
                await run.aafter_tool(**about, error=error)
                raise
            finally:
                _said_error.reset(token)
            came_to = {"error": failed[0]} if failed else {"error" if said_error else "result": _plain(result)}
            await run.aafter_tool(**about, **came_to)
            notes = run.take_notes() if isinstance(result, str) else None
            return f"{result}\n\n{notes}" if notes else result

        mine.on_invoke_tool = on_invoke_tool
        return mine

    # ---- runs and models -----------------------------------------------------

    def run(self) -> Run:
        if (run := current_run()) is not None:
            return run
        trace = get_current_trace()
        told = trace.export() if trace is not None else None  # None of one that is switched off
        told = told if isinstance(told, dict) else {}
        workflow = told.get("workflow_name")
        who = ({"workflow": workflow} if workflow and workflow != _UNNAMED else {}) | self._who
        return self._guard.resume(told.get("group_id") or told.get("id") or self._untraced, **who)

    def made(self, name: str | None) -> Any:  # noqa: ANN401
        return self._provider.get_model(name)

    def other(self, name: str) -> Any:  # noqa: ANN401  # a Model, or None
        try:
            if self._models is not None:
                return self._models(name) if callable(self._models) else self._models.get(name)
            return self.made(name)
        except Exception as error:  # noqa: BLE001  # whatever a provider raises; the run goes on as it was
            _log.warning("cannot change the model to %s: %s", name, error)
            return None


class _HeardServer:
    """An MCP server, whoever connects it, of which one hears that a call has failed: the SDK keeps that to itself."""

    def __init__(self, server: Any) -> None:  # noqa: ANN401
        self._server = server

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._server, name)

    async def call_tool(self, *args: Any, **more: Any) -> Any:  # noqa: ANN401
        result = await self._server.call_tool(*args, **more)
        heard = _said_error.get()
        if heard is not None and (getattr(result, "is_error", None) or getattr(result, "isError", None)):
            heard.append(True)
        return result


def _plain(result: Any) -> Any:  # noqa: ANN401
    """What an MCP tool said, as text where it is text."""
    if isinstance(result, dict) and result.get("type") == "text":
        return result.get("text")
    return result


def _shell_said(result: Any) -> dict[str, Any]:  # noqa: ANN401  # a text, or a ShellResult
    if isinstance(result, str):
        return {"result": result}
    outputs = getattr(result, "output", None) or ()
    text = "\n".join(part for one in outputs for part in (one.stdout, one.stderr) if part)
    failed = any(getattr(one.outcome, "exit_code", 0) for one in outputs)
    return {"error" if failed else "result": text or str(result)}


def _listen(tool: Any, context: Any, failed: list[Exception]) -> None:  # noqa: ANN401
    """Learn of an exception that the SDK turns into words for the model, and leave the words as they are."""
    formatter = resolve_function_tool_failure_error_function(tool)
    if formatter is default_tool_error_function:
        config = context.run_config or RunConfig()
        words = config.tool_error_formatter

        async def formatted(about: Any) -> Any:  # noqa: ANN401
            if about.error is not None:
                failed.append(about.error)
            said = words(about) if words is not None else None
            return await said if inspect.isawaitable(said) else said

        context.run_config = replace(config, tool_error_formatter=formatted)
    elif formatter is not None and not getattr(formatter, "otel_cost", False):
        set_function_tool_failure_error_function(tool, _heard(formatter))
    if formatter is not None:
        context._otel_cost_failed = failed  # noqa: SLF001  # ours: the context is this call's own


def _heard(formatter: Callable[..., str | Awaitable[str]]) -> Callable[..., str | Awaitable[str]]:
    def formatted(context: Any, error: Exception) -> str | Awaitable[str]:  # noqa: ANN401
        failed = getattr(context, "_otel_cost_failed", None)
        if failed is not None:
            failed.append(error)
        return formatter(context, error)

    formatted.otel_cost = True  # type: ignore[attr-defined]
    return formatted


class _CostModel(Model):
    """A model that asks before it is called. `model`: itself, its name, or None for the SDK's default."""

    def __init__(self, model: Any, desk: _Desk) -> None:  # noqa: ANN401
        self._told, self._desk = model, desk
        self._made: Any = model if isinstance(model, Model) else None

    @property
    def inner(self) -> Any:  # noqa: ANN401
        if self._made is None:
            self._made = self._desk.made(self._told)
        return self._made

    @property
    def name(self) -> str | None:
        """As its client calls it."""
        if isinstance(self._told, str):
            return self._told
        return _name(self.inner)

    async def close(self) -> None:
        await self.inner.close()

    async def _cleanup_on_run_end(self, owner: object) -> None:
        await self.inner._cleanup_on_run_end(owner)  # noqa: SLF001  # the SDK asks every model for it

    def get_retry_advice(self, request: Any) -> Any:  # noqa: ANN401
        return self.inner.get_retry_advice(request)

    async def get_response(self, *args: Any, **more: Any) -> Any:  # noqa: ANN401
        """Ask, call, tell."""
        run = self._desk.run()
        answer = await run.asettle(await run.abefore_model(self.name))
        if answer.refused:
            return ModelResponse(output=[_last(answer, args, more)], usage=Usage(), response_id=None)
        model, name = self._chosen(answer)
        args, more = _with_notes(args, more, run)
        try:
            response = await model.get_response(*args, **more)
        except Exception as error:
            await run.aafter_model(name, error=error)
            raise
        await run.aafter_model(name, usage=_usage(response.usage), response_id=response.response_id)
        return response

    async def stream_response(self, *args: Any, **more: Any) -> AsyncIterator[Any]:  # noqa: ANN401
        """Ask, call, tell; what is stopped comes as one event."""
        run = self._desk.run()
        answer = await run.asettle(await run.abefore_model(self.name))
        if answer.refused:
            yield _completed(_last(answer, args, more))
            return
        model, name = self._chosen(answer)
        args, more = _with_notes(args, more, run)
        try:
            async for event in model.stream_response(*args, **more):
                if isinstance(event, ResponseCompletedEvent):
                    done = event.response
                    await run.aafter_model(done.model or name, usage=_usage(done.usage), response_id=done.id)
                yield event
        except Exception as error:
            await run.aafter_model(name, error=error)
            raise

    def _chosen(self, answer: Answer) -> tuple[Any, str | None]:
        if answer.verb == "downgrade" and answer.model and answer.model != self.name:
            other = self._desk.other(answer.model)
            if other is not None:
                return other, answer.model
        return self.inner, self.name


def _name(model: Any) -> str | None:  # noqa: ANN401
    names = (getattr(model, field, None) for field in ("model", "model_name"))
    return next((str(name) for name in names if name and not callable(name)), None)


def _usage(usage: Any) -> dict[str, int | None] | None:  # noqa: ANN401  # agents.Usage, or the Responses API's
    if usage is None or not (usage.input_tokens or usage.output_tokens):
        return None
    cached, reasoned = usage.input_tokens_details, usage.output_tokens_details
    return {
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "cache_read": getattr(cached, "cached_tokens", None),
        "cache_write": getattr(cached, "cache_write_tokens", None),
        "reasoning": getattr(reasoned, "reasoning_tokens", None),
    }


def _with_notes(args: tuple[Any, ...], more: dict[str, Any], run: Run) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a model call, its input followed by what the agent has to read."""
    notes = run.take_notes()
    if notes is None:
        return args, more
    given = more["input"] if "input" in more else args[_INPUT]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
    items.append({"role": "user", "content": notes})
    if "input" in more:
        return args, {**more, "input": items}
    return (*args[:_INPUT], items, *args[_INPUT + 1 :]), more


def _last(answer: Answer, args: tuple[Any, ...], more: dict[str, Any]) -> Any:  # noqa: ANN401
    """The last message of a run that ends here.

    Raises:
        Stopped: the agent's output is no text.
    """
    schema = more["output_schema"] if "output_schema" in more else args[_OUTPUT_SCHEMA]
    if schema is not None and not schema.is_plain_text():
        raise Stopped(answer)
    text = ResponseOutputText(text=answer.text, type="output_text", annotations=[], logprobs=[])
    return ResponseOutputMessage(
        id=f"msg_{uuid.uuid4().hex}", content=[text], role="assistant", status="completed", type="message"
    )


def _completed(message: Any) -> Any:  # noqa: ANN401
    response = Response(
        id=f"resp_{uuid.uuid4().hex}",
        created_at=time.time(),
        model="otel-cost",
        object="response",
        output=[message],
        parallel_tool_calls=False,
        tool_choice="none",
        tools=[],
        status="completed",
    )
    return ResponseCompletedEvent(response=response, sequence_number=0, type="response.completed")
