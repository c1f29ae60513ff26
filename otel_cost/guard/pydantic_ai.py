"""Pydantic AI: a capability for an agent.

    agent = Agent(model, tools=[…], capabilities=[CostCapability()])

A refused tool call is answered with the words of the rule, a stopped run ends with them as its output (an agent
whose output is no text raises `Stopped`); a cheaper model takes the place of the dear one; a slowed run waits.
Needs `pydantic-ai` 2.x.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering, Instrumentation
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, SkipModelRequest, SkipToolExecution, ToolFailed
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models import infer_model

from otel_cost.guard.answer import Stopped
from otel_cost.guard.client import Guard, Run, current_run, default_guard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from otel_cost.guard.answer import Answer

_log = logging.getLogger("otel_cost.guard")


class CostCapability(AbstractCapability[Any]):
    """Asks before each model and tool call of an agent, and tells what it came to.

    The run is the current one (`with guard.run(…)`), else it has the conversation id
    that Pydantic AI's own instrumentation tells.

    Args:
        guard: where to ask.
        models: what to change to, by the name that rules use; None: `infer_model`, with
            the provider of the model at work where the rule names none.
        who: `user`, `team`, `workflow`.
    """

    def __init__(
        self,
        guard: Guard | None = None,
        *,
        models: Mapping[str, Any] | Callable[[str], Any] | None = None,
        **who: str | None,
    ) -> None:
        super().__init__()
        self._guard, self._models, self._who = guard or default_guard(), models, who

    @classmethod
    def get_serialization_name(cls) -> str | None:
        """It cannot be written down: it holds what talks to the service."""
        return None

    def get_ordering(self) -> CapabilityOrdering:
        """Outside of what instruments, else a request that is not made would still have a span."""
        return CapabilityOrdering(position="outermost", wraps=[Instrumentation])

    async def wrap_run(self, ctx: Any, *, handler: Any) -> Any:  # noqa: ANN401
        """Who asks during this run, sub-agents included, asks for it."""
        if current_run() is not None:
            return await handler()
        with self._run(ctx):
            return await handler()

    async def wrap_model_request(self, ctx: Any, *, request_context: Any, handler: Any) -> Any:  # noqa: ANN401
        """Ask, call, tell."""
        run, model = self._run(ctx), request_context.model
        answer = await run.asettle(await run.abefore_model(model.model_name, provider=model.system))
        if answer.refused:
            return _ending(answer, request_context)
        request_context = self._changed(request_context, run, answer)
        model = request_context.model
        try:
            response = await handler(request_context)
        except SkipModelRequest:
            raise
        except Exception as error:
            await run.aafter_model(model.model_name, provider=model.system, error=error)
            raise
        await run.aafter_model(**_spent(response, model))
        return response

    async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:  # noqa: ANN401, ARG002
        """Ask, run, tell."""
        run = self._run(ctx)
        about = {"tool": call.tool_name, "args": args, "call_id": call.tool_call_id}
        answer = await run.asettle(await run.abefore_tool(**about))
        if answer.refused:
            raise ToolFailed(answer.text)
        try:
            with run.inside(call.tool_name, call.tool_call_id):
                result = await handler(args)
        except (ApprovalRequired, CallDeferred, SkipToolExecution):
            raise
        except Exception as error:
            await run.aafter_tool(**about, error=error)
            raise
        await run.aafter_tool(**about, result=result)
        return result

    # ---- inside --------------------------------------------------------------

    def _run(self, ctx: Any) -> Run:  # noqa: ANN401
        if (run := current_run()) is not None:
            return run
        session = ctx.conversation_id or ctx.run_id
        return self._guard.resume(session, **self._who) if session else self._guard.run(**self._who)

    def _changed(self, request_context: Any, run: Run, answer: Answer) -> Any:  # noqa: ANN401
        """The request as it may be made: with the cheaper model, and with what the agent has to read."""
        current = request_context.model
        if answer.verb == "downgrade" and answer.model and answer.model != current.model_name:
            model = self._model(answer.model, current)
            request_context = request_context if model is None else replace(request_context, model=model, model_id=None)
        if notes := run.take_notes():
            said = ModelRequest(parts=[UserPromptPart(notes)])
            request_context = replace(request_context, messages=[*request_context.messages, said])
        return request_context

    def _model(self, name: str, current: Any) -> Any:  # noqa: ANN401  # a Model, or None
        try:
            if self._models is not None:
                return self._models(name) if callable(self._models) else self._models.get(name)
            return infer_model(name if ":" in name else f"{current.system}:{name}")
        except Exception as error:  # noqa: BLE001  # whatever a provider's package raises; the run goes on as it was
            _log.warning("cannot change the model to %s: %s", name, error)
            return None


def _ending(answer: Answer, request_context: Any) -> Any:  # noqa: ANN401
    """The last message of a run that ends here.

    Raises:
        Stopped: the agent's output is no text.
    """
    output = request_context.model_request_parameters
    if not output.allow_text_output or output.output_object is not None:  # text would be parsed, and asked for again
        raise Stopped(answer)
    return ModelResponse(
        parts=[TextPart(answer.text)],
        model_name="otel-cost",
        metadata={"otel_cost": {"decision": answer.verb, "rule": answer.rule, "reason": answer.reason}},
    )


def _spent(response: Any, model: Any) -> dict[str, Any]:  # noqa: ANN401
    counts = response.usage
    usage = {
        "input": counts.input_tokens,
        "output": counts.output_tokens,
        "cache_read": counts.cache_read_tokens,
        "cache_write": counts.cache_write_tokens,
        "reasoning": (counts.details or {}).get("reasoning_tokens"),
    }
    return {
        "model": response.model_name or model.model_name,
        "provider": response.provider_name or model.system,
        "response_id": response.provider_response_id,
        "usage": usage if counts.input_tokens or counts.output_tokens else None,
    }
