"""What presets share: a call's tokens and dollars, in the buckets that vendors count by.

Vendor keys go on leaves only: every backend sums what it finds, so a number on
a parent would count twice. Numbers in JSON come from the integer ledger, never from summed floats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_cost.core.model.effects import Signal
from otel_cost.core.model.money import nano_to_text
from otel_cost.core.model.vocabulary import MODEL_KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_cost.core.model.call import Call
    from otel_cost.core.model.effects import Outgoing


def model_call(outgoing: Outgoing, own_keys: bytes) -> Call | None:
    """The model call that a span speaks for; None too where the sender itself wrote the vendor's keys.

    `own_keys` is looked for in the encoded span as plain bytes: text that merely quotes
    a key costs that span its vendor keys, and nothing else.
    """
    call = outgoing.call
    if call is None or outgoing.signal is not Signal.TRACES or call.kind not in MODEL_KINDS or own_keys in outgoing.raw:
        return None
    return call


def cost_parts(call: Call) -> dict[str, int]:
    """Nano-dollars by part (input, cache_read, …); empty where the call has no price."""
    parts: dict[str, int] = {}
    if call.charge.nano is not None:
        for item in call.charge.items:
            parts[item.part] = parts.get(item.part, 0) + item.nano
    return parts


def json_object(numbers: Mapping[str, int | str | None]) -> str:
    """A flat or nested JSON object; texts are JSON already, None is left out. Keys are ours and need no escaping."""
    return "{" + ",".join(f'"{key}":{value}' for key, value in numbers.items() if value is not None) + "}"


def usd(nano: int | None) -> str | None:
    """A JSON number of USD."""
    return None if nano is None else nano_to_text(nano)
