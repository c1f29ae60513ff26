"""Arithmetic: where a run's money went: self and subtree, agent, tool, turn; carried context; first tries and others.

A pure function over entries (steps of the tree and calls), made alike from an open
run and from ledger rows. Everything is integer nano-dollars and adds up exactly:

- the self costs of all entries are the run's cost, and so are the costs of its threads;
- a call's cost is carried + new + output + fee + other; first + retry + rework is the cost again.

A *thread* is one agent at work: what was said in it comes back in its next call. What
comes back is *carried*, and is charged to whatever brought it in: the tool whose result
it is, the answer it repeats, the prompt. Senders give token counts and no
positions, so this is worked out: caches hold prefixes, and what was said first is the prefix.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from otel_cost.core.model.vocabulary import MODEL_KINDS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Try(StrEnum):
    """Why a call was made: for the first time, because the same had failed, or although the same had been done."""

    FIRST = "first"
    RETRY = "retry"
    REWORK = "rework"


class Origin(StrEnum):
    """What brought tokens into a prompt."""

    PROMPT = "prompt"  # what a thread began with: system prompt, tool list, task
    TOOL = "tool"  # a tool's result
    ANSWER = "answer"  # the model's own words, sent back
    MESSAGE = "message"  # anything else that came later: the user, a summary


@dataclass(slots=True, frozen=True)
class Told:
    """A model call's tokens, and its money by what it was for. `input_nano` is split by `bands`.

    `bands`: (tokens, nano) of the prompt from its beginning on: read from cache, written to it, the rest.
    """

    input: int
    answer: int  # output without reasoning: what can come back
    bands: tuple[tuple[int, int], ...] = ()
    output_nano: int = 0
    fee_nano: int = 0
    other_nano: int = 0  # cost that is not told item by item
    sums_up: bool = False  # an aggregate of several calls: no prompt of its own

    @property
    def input_nano(self) -> int:
        return sum(nano for _, nano in self.bands)


@dataclass(slots=True, frozen=True)
class Entry:
    """One step of a run's tree, or a call that has none. `parent`: index of the entry above it, None on top."""

    kind: str
    name: str
    parent: int | None = None
    agent: str | None = None
    start_ns: int = 0
    end_ns: int = 0
    failed: bool = False
    is_call: bool = True
    nano: int | None = None
    told: Told | None = None
    likeness: str | None = None  # equal for tool calls with equal arguments; None: not told


@dataclass(slots=True)
class Spent:
    """One call's input money and tokens: what came back, what was new; what it was a try of."""

    carried_tokens: int = 0
    carried_nano: int = 0
    new_tokens: int = 0
    new_nano: int = 0
    attempt: Try = Try.FIRST


@dataclass(slots=True)
class Passenger:
    """Something in the prompts of one thread: `calls` is how often it came back after it was first sent."""

    origin: Origin
    entry: int  # the call that brought it in: the tool's, the answering one's, the first that sent it
    tokens: int
    first_nano: int = 0
    carried_nano: int = 0
    calls: int = 0


@dataclass(slots=True)
class Turn:
    """A model call and what it set off, until the next one of its thread. `nano` holds everything below its tools."""

    thread: int
    number: int
    call: int
    tools: list[int] = field(default_factory=list)
    nano: int | None = None


@dataclass(slots=True)
class Thread:
    """One agent at work. `nano`: its own calls; `subtree_nano`: with the threads that its tools set off."""

    agent: str | None
    parent: int | None = None
    entries: list[int] = field(default_factory=list)
    nano: int | None = None
    subtree_nano: int | None = None


@dataclass(slots=True)
class Arithmetic:
    """Everything about a run's money; lists marked "by entry" run parallel to the entries."""

    subtree_nano: list[int | None]  # by entry
    spent: list[Spent]  # by entry
    thread_of: list[int]  # by entry; -1: no call
    threads: list[Thread]
    turns: list[Turn]
    passengers: list[Passenger]


def reckon(entries: Sequence[Entry]) -> Arithmetic:
    """Work out a run. Entries may come in any order; cycles of parents are cut, so that all are counted once."""
    parents: list[int | None] = [entry.parent for entry in entries]
    cut_cycles(parents)
    subtree = subtotals(parents, [entry.nano for entry in entries])
    thread_of, threads = _threads(entries, parents)
    spent = [Spent() for _ in entries]
    turns: list[Turn] = []
    passengers: list[Passenger] = []
    for number, thread in enumerate(threads):
        _carry(entries, thread.entries, spent, passengers)
        turns.extend(_turns(entries, thread.entries, number))
    _tries(entries, parents, threads, turns, spent)
    for thread in threads:
        thread.nano = _sum(entries[index].nano for index in thread.entries)
    above = [thread.parent for thread in threads]
    for thread, nano in zip(threads, subtotals(above, [thread.nano for thread in threads]), strict=True):
        thread.subtree_nano = nano
    for turn in turns:
        turn.nano = _sum([entries[turn.call].nano, *(subtree[tool] for tool in _outermost(turn.tools, parents))])
    turns.sort(key=lambda turn: _when(entries, turn.call))
    # An answer that never came back was no passenger.
    carried = [one for one in passengers if one.calls or one.origin is not Origin.ANSWER]
    return Arithmetic(subtree, spent, thread_of, threads, turns, carried)


# Sums --------------------------------------------------------------------------------------------


def subtotals(parents: Sequence[int | None], nanos: Sequence[int | None]) -> list[int | None]:
    """Each entry's cost with everything below it; None where nothing of that is priced. `parents` without cycles."""
    totals = list(nanos)
    for index in _children_first(parents):
        parent, mine = parents[index], totals[index]
        if parent is not None and mine is not None:
            totals[parent] = (totals[parent] or 0) + mine
    return totals


def cut_cycles(parents: list[int | None]) -> None:
    """Make the first entry found of every cycle a top."""
    done: set[int] = set()
    for start in range(len(parents)):
        path: set[int] = set()
        index: int | None = start
        while index is not None and index not in done:
            if index in path:
                parents[index] = None
                break
            path.add(index)
            index = parents[index]
        done |= path


def _children_first(parents: Sequence[int | None]) -> list[int]:
    """Indexes such that each comes before its parent; no recursion, trees may be deep."""
    waiting = Counter(parent for parent in parents if parent is not None)
    order = [index for index in range(len(parents)) if not waiting[index]]
    for index in order:
        parent = parents[index]
        if parent is not None:
            waiting[parent] -= 1
            if not waiting[parent]:
                order.append(parent)
    return order


def _sum(nanos: Iterable[int | None]) -> int | None:
    known = [nano for nano in nanos if nano is not None]
    return sum(known) if known else None


def _outermost(indexes: Sequence[int], parents: Sequence[int | None]) -> Iterator[int]:
    """Those that are below none of the others."""
    known = set(indexes)
    for index in indexes:
        above = parents[index]
        while above is not None and above not in known:
            above = parents[above]
        if above is None:
            yield index


# Threads -----------------------------------------------------------------------------------------


def _threads(entries: Sequence[Entry], parents: Sequence[int | None]) -> tuple[list[int], list[Thread]]:
    """Whose work each call is: the nearest agent's, told apart by name where one span holds several agents.

    A tool with model calls below it is an agent too, named or not. An agent invoked again under the same
    parent, never twice at once, is one thread: its next turn goes on.
    """
    thread_of = [-1] * len(entries)
    threads: list[Thread] = []
    found: dict[tuple[int | None, str | None], int] = {}
    going_on: dict[
        tuple[int | None, str], list[tuple[int, int]]
    ] = {}  # → (end of its last span, its first agent entry)
    stands_for: dict[int, int] = {}
    order = sorted(range(len(entries)), key=lambda index: _when(entries, index))
    nearest = _nearest_agents(entries, parents, _holders(entries, parents))
    for index in order:
        entry = entries[index]
        if entry.kind != Kind.AGENT:
            continue
        above = nearest[index]
        key = (stands_for.get(above, above) if above is not None else None, entry.agent or entry.name)
        known = going_on.setdefault(key, [])
        for place, (end_ns, first) in enumerate(known):
            if end_ns <= entry.start_ns:
                stands_for[index] = first
                known[place] = (entry.end_ns, first)
                break
        else:
            stands_for[index] = index
            known.append((entry.end_ns, index))
    for index in order:
        entry = entries[index]
        if not entry.is_call:
            continue
        agent = nearest[index]
        agent = stands_for.get(agent, agent) if agent is not None else None
        in_tool = agent is not None and entries[agent].kind != Kind.AGENT
        name = entry.agent
        if name is None and agent is not None and not in_tool:
            name = entries[agent].agent or entries[agent].name
        key_ = (agent, None if in_tool else name)
        number = found.get(key_)
        if number is None:
            number = found[key_] = len(threads)
            threads.append(Thread(name))
        threads[number].agent = threads[number].agent or name
        threads[number].entries.append(index)
        thread_of[index] = number
    _hang(entries, parents, thread_of, threads)
    return thread_of, threads


def _holders(entries: Sequence[Entry], parents: Sequence[int | None]) -> set[int]:
    """Tool calls that have model calls below them."""
    holders: set[int] = set()
    for index, entry in enumerate(entries):
        above = parents[index] if entry.kind in MODEL_KINDS else None
        while above is not None and above not in holders:
            if entries[above].kind == Kind.TOOL and entries[above].is_call:
                holders.add(above)
            above = parents[above]
    return holders


def _nearest_agents(entries: Sequence[Entry], parents: Sequence[int | None], holders: set[int]) -> list[int | None]:
    """By entry: the nearest agent above it, or tool that holds model calls."""
    nearest: list[int | None] = [None] * len(entries)
    for index in reversed(_children_first(parents)):
        parent = parents[index]
        if parent is not None:
            own = entries[parent].kind == Kind.AGENT or parent in holders
            nearest[index] = parent if own else nearest[parent]
    return nearest


def _hang(
    entries: Sequence[Entry], parents: Sequence[int | None], thread_of: Sequence[int], threads: Sequence[Thread]
) -> None:
    """A thread hangs below the one whose tool set it off, else below the one of the agent around it."""
    inside: dict[int, int] = {}  # agent entry → thread of the first call right below it
    for index, number in enumerate(thread_of):
        agent = parents[index]
        while number >= 0 and agent is not None and entries[agent].kind != Kind.AGENT:
            agent = parents[agent]
        if number >= 0 and agent is not None:
            inside.setdefault(agent, number)
    for number, thread in enumerate(threads):
        above = parents[thread.entries[0]]
        while above is not None:
            other = thread_of[above] if entries[above].is_call else inside.get(above, number)
            if other != number and other >= 0:
                thread.parent = other
                break
            above = parents[above]
    cut = [thread.parent for thread in threads]
    cut_cycles(cut)
    for thread, parent in zip(threads, cut, strict=True):
        thread.parent = parent


def _when(entries: Sequence[Entry], index: int) -> tuple[int, int, int]:
    entry = entries[index]
    return entry.start_ns, entry.end_ns, index


# Carried context ---------------------------------------------------------------------------------

# A prompt that shrank below this share of the last one has been compacted, or is another conversation.
_COMPACTED: Final = 0.7


@dataclass(slots=True)
class _Context:
    """What a prompt and its answer hold, first to last, with the tokens that each passenger takes."""

    seats: list[tuple[Passenger, int]]
    tokens: int  # of the prompt
    answer: int
    end_ns: int


def _carry(
    entries: Sequence[Entry], thread: Sequence[int], spent: Sequence[Spent], passengers: list[Passenger]
) -> None:
    """Follow one thread's prompts and split each call's input money between what came back and what was new.

    A model called on the side has a prompt of its own; one that takes over from another is sent the same.
    """
    contexts: dict[str, _Context] = {}
    brought: list[int] = []
    for index in thread:
        entry, told = entries[index], entries[index].told
        if entry.kind == Kind.TOOL:
            brought.append(index)
        if entry.kind not in MODEL_KINDS or told is None:
            continue
        if entry.kind != Kind.INFERENCE or told.sums_up:
            _charge(told, [], spent[index])
            continue
        context = _goes_on(entry, told, contexts, by_tool=bool(brought))
        back = _sent_again(told.input, context)
        fresh = _newcomers(index, told.input - sum(tokens for _, tokens in back), brought, first=context is None)
        brought = []
        _charge(told, [*((*seat, True) for seat in back), *((*seat, False) for seat in fresh)], spent[index])
        fresh.append((Passenger(Origin.ANSWER, index, told.answer), told.answer))
        passengers.extend(passenger for passenger, _ in fresh)
        contexts[entry.name] = _Context([*back, *fresh], told.input, told.answer, entry.end_ns)


def _goes_on(entry: Entry, told: Told, contexts: dict[str, _Context], *, by_tool: bool) -> _Context | None:
    """The conversation that this prompt carries on, or None: it begins one."""
    own = contexts.get(entry.name)
    for context in [own] if own is not None else sorted(contexts.values(), key=lambda one: -one.end_ns):
        if context.end_ns > entry.start_ns or told.input < _COMPACTED * context.tokens:
            continue
        if by_tool or told.input >= context.tokens + context.answer // 2:
            return context
    return None


def _sent_again(tokens: int, context: _Context | None) -> list[tuple[Passenger, int]]:
    """What came back, cut short at its end where not all of it fits."""
    back: list[tuple[Passenger, int]] = []
    for passenger, told in context.seats if context is not None else ():
        if size := min(told, tokens):
            back.append((passenger, size))
            tokens -= size
    return back


def _newcomers(call: int, tokens: int, tools: Sequence[int], *, first: bool) -> list[tuple[Passenger, int]]:
    """What was sent for the first time. Nobody says how long each result is: those of one turn share alike."""
    if tokens <= 0:
        return []
    if first or not tools:
        return [(Passenger(Origin.PROMPT if first else Origin.MESSAGE, call, tokens), tokens)]
    share, more = divmod(tokens, len(tools))
    sizes = [share + (place < more) for place in range(len(tools))]
    return [(Passenger(Origin.TOOL, tool, size), size) for tool, size in zip(tools, sizes, strict=True) if size]


def _charge(told: Told, seats: Sequence[tuple[Passenger, int, bool]], spent: Spent) -> None:
    """Each passenger pays for its stretch of the prompt: differences of a running total, so they add up exactly."""
    if not seats:
        spent.new_tokens, spent.new_nano = told.input, told.input_nano
        return
    at = paid = 0
    for place, (passenger, tokens, again) in enumerate(seats, start=1):
        at += tokens
        up_to = told.input_nano if place == len(seats) else _cost_of_first(at, told.bands)
        nano, paid = up_to - paid, up_to
        if again:
            passenger.calls += 1
            passenger.carried_nano += nano
            spent.carried_tokens += tokens
            spent.carried_nano += nano
        else:
            passenger.first_nano += nano
            spent.new_tokens += tokens
            spent.new_nano += nano


def _cost_of_first(tokens: int, bands: Iterable[tuple[int, int]]) -> int:
    """Cost of a prompt's first `tokens` tokens, nano-USD rounded down."""
    nano = 0
    for size, cost in bands:
        if tokens >= size:
            nano += cost
            tokens -= size
        else:
            return nano + cost * tokens // size
    return nano


# Turns, first tries and others -------------------------------------------------------------------


def _turns(entries: Sequence[Entry], thread: Sequence[int], number: int) -> Iterator[Turn]:
    """A thread cut at its model calls; tools before the first one are no turn's."""
    turn: Turn | None = None
    count = 0
    for index in thread:
        if entries[index].kind in MODEL_KINDS:
            if turn is not None:
                yield turn
            count += 1
            turn = Turn(number, count, index)
        elif turn is not None:
            turn.tools.append(index)
    if turn is not None:
        yield turn


def _tries(
    entries: Sequence[Entry],
    parents: Sequence[int | None],
    threads: Sequence[Thread],
    turns: Sequence[Turn],
    spent: Sequence[Spent],
) -> None:
    """Mark what was done again. What a tool set off is what its call was, and so is the call that asked for it."""
    for thread in threads:
        _repeats(entries, thread.entries, spent)
    for turn in turns:
        tries = {spent[tool].attempt for tool in turn.tools}
        if tries and Try.FIRST not in tries:
            spent[turn.call].attempt = Try.RETRY if Try.RETRY in tries else Try.REWORK
    for index in reversed(_children_first(parents)):
        above = parents[index]
        if above is not None and spent[index].attempt is Try.FIRST:
            spent[index].attempt = spent[above].attempt if entries[above].kind not in MODEL_KINDS else Try.FIRST


def _repeats(entries: Sequence[Entry], thread: Sequence[int], spent: Sequence[Spent]) -> None:
    """A tool call equal to one before it, with nothing new in between, and a model call after one that was paid for.

    A call that failed before anything was served is no try: it cost nothing, and the next one is the first.
    Where arguments are not told, only a tool that has just failed is called again.
    """
    failed: dict[tuple[str, str | None], bool] = {}  # tool calls since the last new one → did it fail
    lost = False  # the last model call failed, and money was or may have been spent on it
    for index in thread:
        entry = entries[index]
        if entry.kind in MODEL_KINDS:
            if lost:
                spent[index].attempt = Try.RETRY
            lost = entry.failed and (entry.told is not None or bool(entry.nano))
        elif entry.kind == Kind.TOOL:
            key = entry.name, entry.likeness
            known = failed.get(key)
            if known:
                spent[index].attempt = Try.RETRY
            elif known is False and entry.likeness is not None:
                spent[index].attempt = Try.REWORK
            else:
                failed = {}
            failed[key] = entry.failed
