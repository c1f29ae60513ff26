"""Pace: what a run has taken so far, and what finished runs of its workflow have usually taken."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable

# Older runs tell of another program.
REMEMBERED: Final = 200


class Taken(NamedTuple):
    """What one finished run came to."""

    nano: int | None  # nano-USD; None: no call of it had a price
    calls: int  # of models and tools


@dataclass(slots=True, eq=False)
class Usual:
    """The last finished runs of one workflow."""

    runs: deque[Taken] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    _limits: dict[float, tuple[int | None, int]] = field(default_factory=dict)

    def add(self, taken: Taken) -> None:
        self.runs.append(taken)
        self._limits.clear()

    def at(self, share: float) -> tuple[int | None, int]:
        """The money [nano-USD] and the calls that so many of the runs stayed within."""
        found = self._limits.get(share)
        if found is None:
            money = sorted(taken.nano for taken in self.runs if taken.nano is not None)
            calls = sorted(taken.calls for taken in self.runs)
            found = (_quantile(money, share) if 2 * len(money) >= len(calls) else None, _quantile(calls, share))
            self._limits[share] = found
        return found


@dataclass(slots=True, eq=False)
class Pace:
    """One run as it stands. All its agents share it."""

    nano: int = 0
    calls: int = 0
    usual: Usual | None = None  # None: its workflow is not known, or none of its runs has finished
    told: set[Hashable] = field(default_factory=set)  # settings under which it was told of


def _quantile(ordered: list[int], share: float) -> int:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
