"""Drift: the same work has become dearer than it was, for good, and what is different about it.

Runs of one group are compared with runs of the same group before them. One dear run
says nothing; when enough of the last ones are dearer than the rule's factor allows
and the group's own scatter explains, an episode begins. It is told once. While it
lasts it is measured against what was normal before it, each further dear run is a
breach of the same episode, and the runs in it never become part of what is normal,
unless it goes on for as long as the baseline reaches back: then that is what the work costs.

Robust figures (median and MAD), so that one absurd run moves neither side.
"""

from __future__ import annotations

import hashlib
from bisect import insort
from collections import Counter
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.enrich.lines import rfc3339, run_line
from otel_cost.core.model.finding import Alert
from otel_cost.core.model.money import exact_text, nano_to_text, usd_to_nano
from otel_cost.core.model.vocabulary import MODEL_KINDS, Category, Kind, Severity
from otel_cost.quantities import duration_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from otel_cost.core.assemble.run import Run
    from otel_cost.core.model.run import RunSummary
    from otel_cost.core.rules.kind import Actions, Mode
    from otel_cost.core.rules.match import Matcher

LOOP: Final = "loop"
"""A group of its own for each shape of loop: what it burns in a run, 0 where a run does without it."""

_SCATTER: Final = Fraction(44478, 10000)  # 3 standard deviations in MADs, as robust statistics have them: 3 x 1.4826
_MOST_RUNS: Final = 500  # of one group
_MOST_GROUPS: Final = 10_000
_NAMED: Final = 10  # runs in the evidence
_MOST_LOOPS: Final = 20  # shapes looked at after one run


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRule:
    """One rule of kind `regressions`, ready to run."""

    name: str
    per: tuple[str, ...]
    match: Matcher
    last_ns: int
    min_runs: int
    stat: str  # p50 | p90 | p95 | mean
    ratio: Fraction
    need: int  # so many
    of: int  # of the last so many
    severity: Severity
    mode: Mode
    actions: Actions


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A finished run, as far as it is compared. `facts`: what rules may group by and match on."""

    tenant: str
    run_id: str
    trace_id: bytes
    start_ns: int
    end_ns: int
    nano: int
    facts: Mapping[str, object]
    route: tuple[str, ...] = ()  # models in order
    context: int = 0  # median input tokens of its model calls
    llm_calls: int = 0
    retries: int = 0  # failed model calls, and tries that one record names
    tools: Mapping[str, int] = field(default_factory=dict)
    loops: Mapping[str, int] = field(default_factory=dict)  # shape → nano-USD it burnt


@dataclass(slots=True, eq=False)
class _Episode:
    """A change that lasts. What it is measured against was normal before it began."""

    seq: int
    since_ns: int
    normal: list[Ran]
    base_nano: int
    limit: Fraction  # what is above is dear, nano-USD
    breaches: dict[str, int] = field(default_factory=dict)  # run id → nano above the base
    told: Alert | None = None


@dataclass(slots=True, eq=False)
class _Group:
    """The runs of one group of one rule, by end, and what is known of each measure of them."""

    runs: list[tuple[int, int, str, Ran]] = field(default_factory=list)  # end, start, id
    episodes: dict[str | None, _Episode] = field(default_factory=dict)  # by shape of loop; None: the whole cost
    seqs: Counter[str | None] = field(default_factory=Counter)
    apart: dict[str | None, set[str]] = field(default_factory=dict)  # runs that are not normal


@dataclass(slots=True)
class Said:
    """What a finished run brings: alerts, and further breaches of what was already told."""

    alerts: list[Alert] = field(default_factory=list)
    again: list[Alert] = field(default_factory=list)


class Drift:
    """All regression rules over all finished runs. Not thread-safe: it belongs to the engine."""

    def __init__(self, rules: Sequence[DriftRule]) -> None:
        self._rules = [rule for rule in rules if rule.mode != "off"]
        self._groups: dict[tuple[str, str, tuple[str, ...]], _Group] = {}

    def __bool__(self) -> bool:
        return bool(self._rules)

    @property
    def last_ns(self) -> int:
        """How far back runs count."""
        return max((2 * rule.last_ns for rule in self._rules), default=0)

    def observe(self, ran: Ran, now_ns: int) -> Said:
        """Take a finished run; one that is finished again, with another cost, replaces itself and tells nothing."""
        said = Said()
        for rule in self._rules:
            get = _getter(ran.facts)
            if not rule.match(get):
                continue
            dimensions = tuple(name for name in rule.per if name != LOOP)
            key = (ran.tenant, rule.name, tuple(str(get(name) or "") for name in dimensions))
            group = self._groups.get(key)
            if group is None:
                if len(self._groups) >= _MOST_GROUPS:
                    del self._groups[next(iter(self._groups))]
                group = self._groups[key] = _Group()
            known = next((one for one in group.runs if one[2] == ran.run_id), None)
            if known is not None:
                group.runs.remove(known)
            insort(group.runs, (ran.end_ns, ran.start_ns, ran.run_id, ran), key=lambda one: one[:3])
            newest = group.runs[-1][0]
            while group.runs[0][0] < newest - 2 * rule.last_ns or len(group.runs) > _MOST_RUNS:
                del group.runs[0]
            if known is not None:
                continue
            named = dict(zip(dimensions, key[2], strict=True))
            for shape in self._measures(rule, group, ran):
                self._judge(rule, group, named, shape, ran, now_ns, said)
        return said

    def restore(self, runs: Iterable[Ran], now_ns: int) -> list[Alert]:
        """After a restart: what still stands, with the ids it had."""
        for ran in runs:
            self.observe(ran, now_ns)
        return [
            episode.told
            for group in self._groups.values()
            for episode in group.episodes.values()
            if episode.told is not None
        ]

    def standings(self, tenant: str | None = None, shown: int = 60) -> list[dict[str, object]]:
        """Where each group of each rule stands, what is dear first: what is normal, what is allowed, the last runs.

        Money as decimal strings; `baseline_usd` None: not enough runs yet.
        """
        rules = {rule.name: rule for rule in self._rules}
        found = [
            self._standing(rules[name], owner, values, group, shape, shown)
            for (owner, name, values), group in self._groups.items()
            if tenant in {None, owner}
            for shape in ([*group.episodes] if LOOP in rules[name].per else [None])
        ]
        return sorted(found, key=lambda one: (one["state"] != "firing", str(one["rule"]), str(one["group"])))

    def _standing(
        self, rule: DriftRule, tenant: str, values: tuple[str, ...], group: _Group, shape: str | None, shown: int
    ) -> dict[str, object]:
        cost = _cost_of(shape)
        runs = [one for *_, one in group.runs]
        episode, apart = group.episodes.get(shape), group.apart.get(shape, set())
        normal = [one for one in runs if one.run_id not in apart] if episode is None else episode.normal
        known = episode is not None or len(normal) >= rule.min_runs
        costs = [cost(one) for one in normal]
        limit = _limit(rule, costs) if episode is None and known else None if episode is None else episode.limit
        dear = {} if episode is None else episode.breaches
        return {
            "rule": rule.name,
            "tenant": tenant,
            "group": dict(zip((name for name in rule.per if name != LOOP), values, strict=True)),
            "loop": shape,
            "mode": rule.mode.value,
            "state": "normal" if episode is None else "firing",
            "baseline_usd": nano_to_text(_stat(rule.stat, costs)) if known else None,
            "threshold_usd": None if limit is None else nano_to_text(int(limit)),
            "baseline_runs": len(normal),
            "since": None if episode is None else rfc3339(episode.since_ns),
            "breaches": len(dear),
            "extra_usd": nano_to_text(sum(dear.values())),
            "alert_id": None if episode is None or episode.told is None else episode.told.id,
            "runs": [
                {
                    "run_id": one.run_id,
                    "end_time": rfc3339(one.end_ns),
                    "cost_usd": nano_to_text(cost(one)),
                    "dear": one.run_id in dear,
                }
                for one in runs[-shown:]
            ],
        }

    def actions(self, name: str) -> Actions:
        """What a rule asks for; nothing while it is only tried."""
        return next((rule.actions for rule in self._rules if rule.name == name and rule.mode == "enforce"), ())

    # ---- one run ---------------------------------------------------------------

    def _measures(self, rule: DriftRule, group: _Group, ran: Ran) -> list[str | None]:
        if LOOP not in rule.per:
            return [None]
        dearest = sorted(ran.loops, key=lambda shape: (-ran.loops[shape], shape))[:_MOST_LOOPS]
        return [*sorted({*dearest, *(shape for shape in group.episodes if shape is not None)})]

    def _judge(
        self,
        rule: DriftRule,
        group: _Group,
        named: dict[str, str],
        shape: str | None,
        ran: Ran,
        now_ns: int,
        said: Said,
    ) -> None:
        cost = _cost_of(shape)
        runs = [one for *_, one in group.runs]
        apart = group.apart.setdefault(shape, set())
        episode = group.episodes.get(shape)
        if episode is not None and ran.end_ns >= episode.since_ns + rule.last_ns:
            # It has lasted for as long as anybody looks back: that is what the work costs now.
            self._end(group, shape, now_ns, "it has been so for as long as the baseline reaches back", said)
            apart.clear()
            episode = None
        last = runs[-rule.of :]
        if episode is None:
            since = last[0].end_ns - rule.last_ns
            before = [one for one in runs[: -rule.of] if one.end_ns >= since and one.run_id not in apart]
            if len(before) < max(1, rule.min_runs - rule.of):
                return
            # Of the last runs, those that are not dearer than the ones before them are as normal as these.
            limit = _limit(rule, list(map(cost, before)))
            normal = [*before, *(one for one in last if cost(one) <= limit)]
            if len(normal) < rule.min_runs:
                return
            limit = _limit(rule, list(map(cost, normal)))
        else:
            limit = episode.limit
        over = [one for one in last if cost(one) > limit]
        if episode is not None:
            if ran in over:
                episode.breaches[ran.run_id] = cost(ran) - episode.base_nano
                apart.add(ran.run_id)
                alert = self._alert(rule, episode, named, shape, ran, runs, now_ns)
                place = hashlib.blake2b(ran.run_id.encode(), digest_size=4).hexdigest()
                said.again.append(replace(alert, id=f"{alert.id}-{place}"))
            if len(over) < rule.need and sum(one.end_ns >= episode.since_ns for one in last) >= rule.of:
                self._end(group, shape, now_ns, f"{len(over)} of the last {rule.of} runs are dearer", said)
            return
        if ran not in over or len(over) < rule.need:
            return
        base = _stat(rule.stat, list(map(cost, normal)))
        group.seqs[shape] += 1
        episode = group.episodes[shape] = _Episode(group.seqs[shape], over[0].end_ns, normal, base, limit)
        episode.breaches = {one.run_id: cost(one) - base for one in over}
        apart.update(episode.breaches)
        episode.told = self._alert(rule, episode, named, shape, ran, runs, now_ns)
        said.alerts.append(episode.told)

    def _end(self, group: _Group, shape: str | None, now_ns: int, why: str, said: Said) -> None:
        episode = group.episodes.pop(shape)
        if episode.told is not None:
            told = episode.told
            evidence = told.evidence | {"breaches": len(episode.breaches), "resolved_because": why}
            extra = sum(episode.breaches.values())
            said.alerts.append(
                replace(
                    told,
                    id=f"{told.id}-resolved",
                    state="resolved",
                    at_ns=now_ns,
                    wasted_nano=extra,
                    evidence=evidence | {"extra_usd": nano_to_text(extra)},
                )
            )

    # ---- what is told --------------------------------------------------------------

    def _alert(
        self,
        rule: DriftRule,
        episode: _Episode,
        named: dict[str, str],
        shape: str | None,
        ran: Ran,
        runs: Sequence[Ran],
        now_ns: int,
    ) -> Alert:
        cost = _cost_of(shape)
        dear = [one for one in runs if one.run_id in episode.breaches]
        now_nano = _stat("p50", [cost(one) for one in dear])
        extra = sum(episode.breaches.values())
        changed = _changed(episode.normal, dear)
        fingerprint = _fingerprint(ran.tenant, rule.name, *named.values(), shape or "")
        what = ", ".join(f"{name} {value or '(unknown)'}" for name, value in named.items()) or "all runs together"
        times = f", {exact_text(_times(now_nano, episode.base_nano))} times as much" if episode.base_nano else ""
        subject = "a run costs" if shape is None else "a loop burns"
        return Alert(
            id=f"{fingerprint}-{episode.seq}",
            tenant=ran.tenant,
            run_id=ran.run_id,
            trace_id=ran.trace_id,
            rule=rule.name,
            category=Category.DRIFT,
            kind="cost_drift" if shape is None else "loop_drift",
            state="firing",
            seq=episode.seq,
            severity=rule.severity,
            span_ids=(),
            onset_span_id=b"",
            at_span_id=b"",
            at_ns=now_ns,
            wasted_nano=extra,
            action="",
            summary=f"{what}: {subject} {_usd(now_nano)} USD, was {_usd(episode.base_nano)}{times}; "
            f"{len(dear)} dear runs so far cost {_usd(extra)} USD more",
            fingerprint=fingerprint,
            evidence={
                **{name: value for name, value in named.items() if value},
                "group": named,
                **({} if shape is None else {"loop": shape}),
                "observed": nano_to_text(now_nano),
                "threshold": nano_to_text(int(episode.limit)),
                "baseline_usd": nano_to_text(episode.base_nano),
                "baseline_runs": len(episode.normal),
                "baseline_mad_usd": nano_to_text(_mad([cost(one) for one in episode.normal])),
                "stat": rule.stat,
                "window": duration_text(rule.last_ns),
                "ratio": exact_text(rule.ratio),
                "fires_for": f"{rule.need} of last {rule.of}",
                "breaches": len(episode.breaches),
                "extra_usd": nano_to_text(extra),
                "since": rfc3339(episode.since_ns),
                "runs": [
                    {
                        "run_id": one.run_id,
                        "trace_id": one.trace_id.hex(),
                        "cost_usd": nano_to_text(one.nano),
                        "start_time": rfc3339(one.start_ns),
                    }
                    for one in dear[-_NAMED:]
                ],
                "changed": changed,
                "model_route": list(ran.route),
                "tools": dict(ran.tools),
                "retries": ran.retries,
                "cost_usd": nano_to_text(ran.nano),
                "mode": rule.mode.value,
            },
        )


def ran_of(run: Run, summary: RunSummary) -> Ran | None:
    """A finished run as it is compared; None where its cost has holes, because half a cost is no cost."""
    if summary.nano is None or not summary.complete:
        return None
    calls = list(run.calls.values())
    model_calls = [call for call in calls if call.kind in MODEL_KINDS]
    inputs = [usage.input for call in model_calls if (usage := call.charge.usage or call.step.usage) is not None]
    loops: Counter[str] = Counter()
    for episode, shape in run.shapes.items():
        loops[shape] += run.wasted.get(episode) or 0
    return Ran(
        tenant=summary.tenant,
        run_id=summary.run_id,
        trace_id=min(summary.trace_ids, default=b""),
        start_ns=summary.start_ns,
        end_ns=summary.end_ns,
        nano=summary.nano,
        facts=facts_of(summary),
        route=tuple(leg.model for leg in summary.model_route),
        context=_stat("p50", inputs) if inputs else 0,
        llm_calls=summary.llm_calls,
        retries=sum(call.failed for call in model_calls) + sum(call.attempts - 1 for call in calls),
        tools=Counter(call.step.tool or "unknown" for call in calls if call.kind is Kind.TOOL),
        loops={shape: nano for shape, nano in loops.items() if nano},
    )


def facts_of(summary: RunSummary) -> dict[str, object]:
    """What a rule may ask about a run that is over."""
    return facts_of_line(run_line(summary)) | summary.who


def facts_of_line(run: Mapping[str, Any]) -> dict[str, object]:
    """The same from a run line, as far as it tells them."""
    route = run["model_route"]
    dearest = max(route, key=lambda leg: usd_to_nano(leg["cost_usd"] or "0"), default=None)
    return {
        "tenant": run["tenant"],
        "run": run["run_id"],
        "session": run["session"],
        "agent": run["agents"][0] if run["agents"] else None,
        "model": None if dearest is None else dearest["model"],
        "outcome": run["outcome"],
        "cost_usd": run["cost_usd"],
        "wasted_usd": run["wasted_usd"],
        "loop": run["wasted_usd"] not in {None, "0"},
        "llm_calls": run["llm_calls"],
        "tool_calls": run["tool_calls"],
        "failed": run["errors"] > 0,
    }


def _getter(facts: Mapping[str, object]) -> Callable[[str], object]:
    """A name's value; an attribute may be written with or without `attr:`."""
    return lambda name: facts[name] if name in facts else facts.get(name.removeprefix("attr:"))


# ---- figures -----------------------------------------------------------------------


def _cost_of(shape: str | None) -> Callable[[Ran], int]:
    return (lambda ran: ran.nano) if shape is None else (lambda ran: ran.loops.get(shape, 0))


def _stat(name: str, values: Sequence[int]) -> int:
    """A quantile by nearest rank (the median of an even number: the middle of its two), or the mean; nano-USD."""
    ordered = sorted(values)
    if name == "mean":
        return round(Fraction(sum(ordered), len(ordered)))
    if name == "p50":
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else round(Fraction(ordered[middle - 1] + ordered[middle], 2))
    share = int(name.removeprefix("p"))
    return ordered[-(-share * len(ordered) // 100) - 1]


def _mad(values: Sequence[int]) -> int:
    """Median absolute deviation."""
    median = _stat("p50", values)
    return _stat("p50", [abs(value - median) for value in values])


def _limit(rule: DriftRule, normal: Sequence[int]) -> Fraction:
    """What a run may cost, nano-USD: the rule's factor allows it, or what these scatter by themselves explains it."""
    scatter = _stat("p50", normal) + _SCATTER * _mad(normal)
    return max(rule.ratio * _stat(rule.stat, normal), scatter)


def _times(now_nano: int, base_nano: int) -> Fraction:
    """How many times as much, to a tenth."""
    return Fraction(round(Fraction(10 * now_nano, base_nano)), 10)


def _changed(before: Sequence[Ran], after: Sequence[Ran]) -> dict[str, object]:
    """What is different about dear runs, each with its value before and after; what stayed as it was is left out."""
    changed: dict[str, object] = {}
    routes = [Counter(one.route for one in runs).most_common(1)[0][0] for runs in (before, after)]
    if routes[0] != routes[1]:
        changed["model_route"] = {"before": list(routes[0]), "after": list(routes[1])}
    for name in ("context", "llm_calls", "retries"):
        was, now = (_stat("p50", [getattr(one, name) for one in runs]) for runs in (before, after))
        if abs(now - was) * 5 > max(was, 1):  # more than a fifth
            changed["context_tokens" if name == "context" else name] = {"before": was, "after": now}
    tools: dict[str, dict[str, str]] = {}
    for tool in sorted({tool for one in (*before, *after) for tool in one.tools}):
        was_, now_ = (
            Fraction(round(Fraction(10 * sum(one.tools.get(tool, 0) for one in runs), len(runs))), 10)
            for runs in (before, after)
        )
        if abs(now_ - was_) * 5 > max(was_, Fraction(1)):
            tools[tool] = {"before": exact_text(was_), "after": exact_text(now_)}
    if tools:
        changed["tools_per_run"] = dict(list(tools.items())[:_NAMED])
    return changed


def _usd(nano: int) -> str:
    """Dollars for people: cents, or four digits of what is less."""
    unit = 10**7 if abs(nano) >= 10**8 else 10**5
    return nano_to_text((nano + unit // 2) // unit * unit) if abs(nano) >= unit else nano_to_text(nano)


def _fingerprint(*parts: str) -> str:
    return hashlib.blake2b("\0".join(("drift", *parts)).encode(), digest_size=8).hexdigest()
