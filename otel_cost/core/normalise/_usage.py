"""Token counts as senders write them become canonical, inclusive usage, or a reason why they cannot.

Rule R2, in this order: a known sender's convention; proof by arithmetic; raw
provider key names; else inclusive, as the conventions demand. What contradicts
itself is refused with a reason and never clamped.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict

from otel_cost.core.model.attributes import ask
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from otel_cost.core.model.attributes import Attributes, Value
    from otel_cost.core.model.step import Step

MOST_TOKENS: Final = 10**12  # far above any run's sum; beyond it a count is a mistake, not a measurement
_WHOLE: Final = re.compile(r"\s*([+-]?[0-9]{1,18})(?:\.0*)?\s*", re.ASCII)


class Counts(TypedDict, total=False):
    """Token counts as told, undecoded. A field that is absent, None or "" is not told."""

    input: Value
    output: Value
    total: Value
    cache_read: Value
    cache_write: Value
    cache_write_5m: Value
    cache_write_1h: Value
    reasoning: Value
    audio_input: Value
    audio_cache_read: Value
    image_input: Value
    video_input: Value
    audio_output: Value
    image_output: Value


class Settled(NamedTuple):
    """What a sender's counts come to. `usage` None without a `problem`: nothing was told."""

    usage: Usage | None = None
    basis: Basis = Basis.UNKNOWN
    problem: Reason | None = None


NOTHING_TOLD: Final = Settled()
_NEGATIVE: Final = Settled(problem=Reason.NEGATIVE_TOKENS)
_INCONSISTENT: Final = Settled(problem=Reason.INCONSISTENT_USAGE)


def whole(value: Value) -> int | None:
    """A count as an int: whole numbers, also as text or as a float; None for what is no count."""
    if type(value) is int:
        return value if value <= MOST_TOKENS else None
    if isinstance(value, float):
        return int(value) if value <= MOST_TOKENS and value.is_integer() else None
    if isinstance(value, str) and (match := _WHOLE.fullmatch(value)):
        return whole(int(match[1]))
    return None


def settle(
    told: Counts,
    *,
    convention: Basis | None = None,
    provider: str | None = None,
    model: str | None = None,
    raw_names: bool = False,
    reasoning_outside: bool = False,
) -> Settled:
    """Canonical usage of one record.

    Args:
        told: the counts as sent.
        convention: how this sender is known to count its input; None: not known.
        provider: as sent; with `model` it says whether cache parts above the input prove exclusive counting.
        model: as sent.
        raw_names: the counts came under the provider's own key names (R2 c).
        reasoning_outside: this sender's output count leaves reasoning out (Gemini CLI, Langfuse's LangChain handler).
    """
    if not told:
        return NOTHING_TOLD
    counts: dict[str, int] = {}
    strange = False
    for name, value in told.items():
        if type(value) is int and 0 <= value <= MOST_TOKENS:
            counts[name] = value
            continue
        if value is None or value == "":
            continue
        count = whole(value)
        if count is None:
            strange = True
        elif count < 0:
            return _NEGATIVE
        else:
            counts[name] = count
    if strange:
        return _INCONSISTENT
    get = counts.get
    read = get("cache_read")
    write = get("cache_write")
    hour = get("cache_write_1h")
    if write is None and (hour is not None or "cache_write_5m" in counts):
        write = (hour or 0) + get("cache_write_5m", 0)
    output = get("output")
    reasoning = get("reasoning")
    if reasoning_outside and reasoning:
        output = (output or 0) + reasoning
    total_input = get("input")
    total = get("total")
    if total is not None and output is not None and total_input is not None and not reasoning_outside:
        rest = total - total_input - output
        thought = rest == reasoning or (reasoning is None and _thinks_outside(provider, model))
        if rest > 0 and thought and rest != (read or 0) + (write or 0):
            reasoning, output = rest, output + rest  # the total proves that the output leaves reasoning out
    # Cache parts alone tell of a call only where the input beside them may be left out when it is zero.
    if total_input is None and output is None and (convention is not Basis.EXCLUSIVE or not (read or write)):
        return NOTHING_TOLD
    total_input = total_input or 0
    output = output or 0
    cached = (read or 0) + (write or 0)
    basis = Basis.INCLUSIVE
    if cached or convention is not None:
        basis = _basis(total_input, cached, output, total, convention, provider, model, raw_names)
        if basis is Basis.EXCLUSIVE:
            total_input += cached
    if (
        cached > total_input
        or (hour is not None and hour > (write or 0))
        or (reasoning is not None and reasoning > output)
    ):
        return _INCONSISTENT
    if len(counts) <= _PLAIN_FIELDS or counts.keys().isdisjoint(_MODALITIES):
        return Settled(
            Usage(
                input=total_input,
                output=output,
                cache_read=read,
                cache_write=write,
                cache_write_1h=hour,
                reasoning=reasoning,
            ),
            basis,
        )
    if not _modalities_fit(counts, total_input, output):
        return _INCONSISTENT
    return Settled(
        Usage(
            input=total_input,
            output=output,
            cache_read=read,
            cache_write=write,
            cache_write_1h=hour,
            reasoning=reasoning,
            audio_input=get("audio_input"),
            audio_cache_read=get("audio_cache_read"),
            image_input=get("image_input"),
            video_input=get("video_input"),
            audio_output=get("audio_output"),
            image_output=get("image_output"),
        ),
        basis,
    )


_PLAIN_FIELDS: Final = 2
_MODALITIES: Final = frozenset(
    {"audio_input", "audio_cache_read", "image_input", "video_input", "audio_output", "image_output"}
)


def _modalities_fit(counts: Mapping[str, int], total_input: int, output: int) -> bool:
    get = counts.get
    heard = get("audio_input", 0)
    return (
        heard + get("image_input", 0) + get("video_input", 0) <= total_input
        and get("audio_output", 0) + get("image_output", 0) <= output
        and get("audio_cache_read", 0) <= min(heard, get("cache_read", 0))
    )


def _basis(
    told_input: int,
    cached: int,
    output: int,
    total: int | None,
    convention: Basis | None,
    provider: str | None,
    model: str | None,
    raw_names: bool,
) -> Basis:
    """R2 for a record with cache parts. An impossible inclusive count is left to the caller's check."""
    if convention is Basis.EXCLUSIVE:
        return Basis.EXCLUSIVE
    if cached > told_input:
        # The proof outranks a table of senders: versions change, arithmetic does not.
        return Basis.EXCLUSIVE if counts_exclusively(provider, model) else Basis.INCLUSIVE
    if convention is not None:
        return convention
    if total is not None and cached:
        if total == told_input + output:
            return Basis.INCLUSIVE
        if total == told_input + cached + output:
            return Basis.EXCLUSIVE
    if raw_names and counts_exclusively(provider, model):
        return Basis.EXCLUSIVE
    return Basis.INCLUSIVE


def unless_counted(step: Step) -> None:
    """Agent frameworks begin their counts at zero and leave them there where a stream tells none."""
    usage = step.usage
    if usage is not None and not usage.input and not usage.output:
        step.usage, step.basis = None, Basis.UNKNOWN


def _thinks_outside(provider: str | None, model: str | None) -> bool:
    """Does this provider's own API count thinking beside its output and only in the total: Gemini?"""
    name = (provider or "").lower()
    return name.startswith(("gcp", "google", "gemini", "vertex")) and "claude" not in (model or "").lower()


def counts_exclusively(provider: str | None, model: str | None) -> bool:
    """Does this provider's own API count input without its cached parts: Anthropic, also on Bedrock and Vertex?"""
    name = (provider or "").lower()
    if name.startswith("anthropic") or "bedrock" in name:
        return True
    hosted = not name or "vertex" in name or name.startswith(("strands", "langchain"))
    return hosted and "claude" in (model or "").lower()


def gather(attributes: Attributes, fields: Mapping[str, Named]) -> tuple[Counts, bool]:
    """Counts found under any of the keys in `fields`, and whether two names of one count disagree.

    The name with the lowest rank wins, the others are never added.
    """
    told: dict[str, Value] = {}
    ranks: dict[str, int] = {}
    conflict = False
    for key in attributes.told():
        found = fields.get(key)
        if found is None:
            continue
        field, rank = found
        value = attributes.get(key)
        if value is None or value == "":
            continue
        if field in told:
            conflict = conflict or whole(value) != whole(told[field])
            if rank > ranks[field]:
                continue
        told[field] = value
        ranks[field] = rank
    return told, conflict  # type: ignore[return-value]  # the fields are those of Counts, by construction


class Named(NamedTuple):
    """What a key means: its field of `Counts`, and its rank among the names of that field."""

    field: str
    rank: int


def ranked(table: Mapping[str, Iterable[str]]) -> dict[str, Named]:
    """`gather`'s table, by key, from one that lists each field's names, best first."""
    named = {key: Named(field, rank) for field, keys in table.items() for rank, key in enumerate(keys)}
    ask(*named)
    return named


class Answered(NamedTuple):
    """A provider's own usage object, read: its counts and how that provider counts."""

    told: Counts
    convention: Basis | None = None
    reasoning_outside: bool = False


def settle_answer(answer: Answered, provider: str | None, model: str | None, *, raw_names: bool = False) -> Settled:
    """`settle`, in the way of the provider that answered."""
    return settle(
        answer.told,
        convention=answer.convention,
        provider=provider,
        model=model,
        raw_names=raw_names,
        reasoning_outside=answer.reasoning_outside,
    )


def answered(usage: Mapping[str, Any]) -> Answered:
    """Read a usage object as a provider's API returns it: OpenAI (both APIs), Anthropic, Gemini, LiteLLM's mixture."""
    get = usage.get
    if "prompt_token_count" in usage or "promptTokenCount" in usage:
        return Answered(_of_gemini(usage), Basis.INCLUSIVE, reasoning_outside=True)
    read = _part(usage, "prompt_tokens_details", "input_tokens_details")
    said = _part(usage, "completion_tokens_details", "output_tokens_details")
    lives = _part(usage, "cache_creation") or _part(read, "cache_creation_token_details")
    openai_like = "prompt_tokens" in usage or "prompt_tokens_details" in usage or "input_tokens_details" in usage
    told: Counts = {
        "input": _first(usage, "prompt_tokens", "input_tokens"),
        "output": _first(usage, "completion_tokens", "output_tokens"),
        "total": get("total_tokens"),
        "cache_read": _first(read, "cached_tokens") if "cached_tokens" in read else get("cache_read_input_tokens"),
        "cache_write": _first(read, "cache_write_tokens", "cache_creation_tokens")
        if not read.keys().isdisjoint({"cache_write_tokens", "cache_creation_tokens"})
        else get("cache_creation_input_tokens"),
        "cache_write_5m": lives.get("ephemeral_5m_input_tokens"),
        "cache_write_1h": lives.get("ephemeral_1h_input_tokens"),
        "audio_input": read.get("audio_tokens"),
        "reasoning": _first(said, "reasoning_tokens", "thinking_tokens"),
        "audio_output": said.get("audio_tokens"),
    }
    if openai_like:
        return Answered(told, Basis.INCLUSIVE)
    anthropic = not usage.keys().isdisjoint({"cache_read_input_tokens", "cache_creation_input_tokens"})
    return Answered(told, Basis.EXCLUSIVE if anthropic else None)


def _of_gemini(usage: Mapping[str, Any]) -> Counts:
    return {
        "input": _first(usage, "prompt_token_count", "promptTokenCount"),
        "output": _first(usage, "candidates_token_count", "candidatesTokenCount"),
        "total": _first(usage, "total_token_count", "totalTokenCount"),
        "cache_read": _first(usage, "cached_content_token_count", "cachedContentTokenCount"),
        "reasoning": _first(usage, "thoughts_token_count", "thoughtsTokenCount"),
    }


def _part(usage: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        if isinstance(part := usage.get(key), dict):
            return part
    return {}


def _first(usage: Mapping[str, Any], *keys: str) -> Value:
    for key in keys:
        if (value := usage.get(key)) is not None:
            return value
    return None
