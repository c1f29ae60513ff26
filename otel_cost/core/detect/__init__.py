"""Detect: loops and waste, seen step by step while they burn.

A detector is one file in this folder whose last line is `register(Detector(...))`;
files starting with an underscore are shared tools. Detectors are fed the calls
of ONE agent of one run in event order, keep small serialisable state, and yield
findings. They see content while a step passes through and keep only hashes, shapes and sizes.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from otel_cost.core.detect._signs import EVERY
from otel_cost.core.model.vocabulary import CALL_KINDS, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pydantic import BaseModel

    from otel_cost.core.detect._memory import Repeats
    from otel_cost.core.detect._pace import Pace
    from otel_cost.core.detect._traits import Traits
    from otel_cost.core.model.charge import Charge
    from otel_cost.core.model.finding import Finding
    from otel_cost.core.model.outcome import Outcome
    from otel_cost.core.model.step import Step
    from otel_cost.core.model.vocabulary import Category

S = TypeVar("S")


@dataclass(slots=True, eq=False)
class Observed:
    """One call as a detector sees it. `nano`: what it cost (None: no price known, as for most tools).

    `charge` splits that cost by token kind where the caller has it (what carried
    context costs cannot be told without). The rest (but `pace` and `judged`) is worked out once for all
    detectors by the agent's `_memory.Memory`, before they see the call. `traits` holds hashes and sizes
    only and outlives the step's content, so a history can be read anew after `forget_content`.
    """

    step: Step
    nano: int | None
    failed: bool
    charge: Charge | None = None
    pace: Pace | None = field(default=None, repr=False)  # of its run, this call included
    judged: Outcome | None = None  # no call but an evaluation (kind `other`) of what the agent did last
    traits: Traits | None = field(default=None, repr=False)
    cost: int | None = None  # of the turn that this tool call ends, nano-USD
    epoch: int = 0  # successful writes that brought something new, before it
    repeats: Sequence[Repeats] = ()  # tool calls that are known by now, each once, and what they repeat
    echo: bool = False  # one of them had a result that some earlier call had
    number: int = 0  # tool calls so far, this one included
    signs: int = EVERY  # what it has that wakes detectors (`_signs`)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector(Generic[S]):
    """A way to see one shape of loop or waste.

    `settings` is the model of the rule's `with:`; `state()` makes the state of one
    agent of one run; `observe` is fed each call of `kinds` once and gives one
    firing finding per episode, another one if it has become louder, and its closing (`state="resolved"`)
    with the episode's total when the episode has ended. Nearly every call means nothing to
    nearly every detector: `observe` looks at what concerns it and returns `()` for the rest.

    Better still, it is not asked: while `busy` says nothing else of its state, a detector sees only those calls that
    bear one of the signs in `wakes`. To leave the others out must change nothing that it will ever say.
    """

    name: str
    category: Category
    settings: type[BaseModel]
    state: Callable[[], S]
    observe: Callable[[S, Observed, Any], Iterable[Finding]]
    kinds: frozenset[Kind] = CALL_KINDS
    wakes: int = EVERY  # signs
    busy: Callable[[S], bool] | None = None  # None: never
    recorded: bool = False  # sees the same in calls as the ledger keeps them: it needs no arguments, results, messages


TOOLS: Final = frozenset({Kind.TOOL})


DETECTORS: dict[str, Detector[Any]] = {}


def register(detector: Detector[Any]) -> None:
    """Make a detector known; a second one of the same name is a programming error."""
    if detector.name in DETECTORS:
        raise ValueError(f"detector {detector.name!r} is registered twice")
    DETECTORS[detector.name] = detector


for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")
