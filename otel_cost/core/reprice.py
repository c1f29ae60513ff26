"""Reprice: a closed run's calls at the prices of another book, and what that changes.

History changes only where a charge does: a call that costs the same keeps the
book, items and flags it was told with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from otel_cost.core.assemble.snapshot import thaw
from otel_cost.core.assemble.summary import close, in_order
from otel_cost.core.model.charge import Charge
from otel_cost.core.model.vocabulary import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_cost.core.model.call import Call
    from otel_cost.core.model.run import ClosedRun
    from otel_cost.core.model.step import Step


class Repriced(NamedTuple):
    """One call that was asked about, with its old and its new charge: the same object where nothing changes."""

    call: Call
    old: Charge
    new: Charge

    @property
    def changed(self) -> bool:
        return self.new is not self.old


def reprice(
    frozen: bytes, charge: Callable[[Step], Charge], wanted: Callable[[Call], bool]
) -> tuple[ClosedRun, list[Repriced]]:
    """The run of a snapshot with the calls that are `wanted` charged anew, ready to be written in place of the old one.

    Raises:
        ValueError: there is no snapshot, or it is of a version this program does not know.
    """
    if not frozen:
        raise ValueError("no snapshot was kept")
    # Waking asks for charges that it then replaces by those that were told; these leave no flags behind.
    run = thaw(frozen, lambda _: Charge(Status.UNPRICED), 0)
    asked: list[Repriced] = []
    for call in in_order(run.calls.values()):
        old = call.charge
        if wanted(call):
            new = charge(call.step)
            same = (new.status, new.reason, new.nano) == (old.status, old.reason, old.nano)
            call.charge = old if same else new
            asked.append(Repriced(call, old, call.charge))
        call.flags |= call.charge.flags
    return close(run), asked
