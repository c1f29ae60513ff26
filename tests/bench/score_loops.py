"""Scores loop detection on labelled agent runs: what is found, what is cried wolf about, how late, what it saves.

    OTEL_COST_SHARED=… PYTHONPATH=. python tests/bench/score_loops.py [--show] [--per-detector] [--cross-validate]

Every run goes as OTLP through the whole engine with the shipped rules, as `otel-cost replay` does it.
A verdict is: an alert of category `loop`, firing, severity warning or worse; the first one of a trace counts.
Scored as recorded, without content, and on seeded perturbed copies. Delay counts tool calls from the label's
onset (the first useless call) to the alarm; `saved` is the share of the money from the onset on that a stop spares.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from otel_cost.core.decode.otlp import decode_traces
from otel_cost.core.decode.otlp_json import json_to_protobuf
from otel_cost.core.detect import DETECTORS
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.vocabulary import Category, Kind, Severity
from otel_cost.edge.config import load_config
from otel_cost.edge.engine import build_engine
from tests.bench import perturb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from otel_cost.core.model.finding import Alert

    Span = dict[str, Any]

SHAPES = ("exact", "reworded", "cycle", "other")
PERTURBED = (*perturb.ALONE, "interleaved")
COPIES = ("as recorded", *perturb.STRIPPED, *PERTURBED)
SEED = 20261125


@dataclass
class Run:
    """One labelled run: its spans (OTLP/JSON objects, without what only the benchmark knows) and its label."""

    label: dict[str, Any]
    spans: list[Span]
    step_of: dict[str, int]  # span id → the label's step
    resource: dict[str, Any]
    original: Run | None = None  # of a changed copy

    @property
    def id(self) -> str:
        return str(self.label["id"])

    @cached_property
    def shape(self) -> str:
        """What sort of loop the label tells of, worked out from the calls as they were recorded."""
        if self.original is not None:
            return self.original.shape
        tools = sorted((s for s in self.spans if perturb.is_tool(s)), key=lambda s: int(s["endTimeUnixNano"]))
        seen: list[tuple[str, str, str]] = []
        sorts: Counter[str] = Counter()
        repeats = {step for e in self.label["episodes"] for step in range(e["onset_step"], e["end_step"] + 1)}
        for span in tools:
            get = perturb.get
            name, asked, told = (
                str(get(span, k) or "") for k in ("gen_ai.tool.name", perturb.ARGUMENTS, perturb.RESULT)
            )
            if self.step_of.get(span["spanId"]) in repeats & set(self.label["repeat_steps"]):
                back = next((i for i, one in enumerate(reversed(seen), 1) if one == (name, asked, told)), None)
                if back is not None:
                    sorts["exact" if back == 1 else "cycle" if back <= 6 else "exact"] += 1
                elif any(
                    one[0] == name and one[2] == told and SequenceMatcher(None, one[1], asked).ratio() >= 0.6
                    for one in seen
                ):
                    sorts["reworded"] += 1
                else:
                    sorts["other"] += 1
            seen.append((name, asked, told))
        return sorts.most_common(1)[0][0] if sorts else "other"


def read_runs(folder: Path) -> list[Run]:
    labels = {one["trace_id"]: one for one in map(json.loads, (folder / "labels.jsonl").read_text().splitlines())}
    runs = []
    for path in sorted(folder.glob("*.otlp.jsonl.gz")):
        with gzip.open(path, "rt") as lines:
            for line in lines:
                (resource_spans,) = json.loads(line)["resourceSpans"]
                spans = [span for scope in resource_spans["scopeSpans"] for span in scope["spans"]]
                steps = {s["spanId"]: int(perturb.get(s, "bench.step")) for s in spans if perturb.get(s, "bench.step")}
                for span in spans:
                    perturb.drop(span, *[a["key"] for a in span["attributes"] if a["key"].startswith("bench.")])
                runs.append(Run(labels[spans[0]["traceId"]], spans, steps, resource_spans["resource"]))
    return runs


def copies(runs: Sequence[Run], how: str) -> list[Run]:
    """The runs in one of the ways of `COPIES`; the same every time."""
    if how == "as recorded":
        return list(runs)
    calm: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if not run.label["loop"] and not run.label["ambiguous"]:
            calm[run.label["source"]].append(run)
    made = []
    for run in runs:
        rng = random.Random(f"{SEED} {how} {run.id}")
        if how == "interleaved":
            others = [one for one in calm[run.label["source"]] if one is not run]
            spans = perturb.interleave(run.spans, rng.choice(others).spans, rng) if others else run.spans
        elif how in perturb.STRIPPED:
            spans = perturb.STRIPPED[how](run.spans, rng)
        else:
            spans = perturb.ALONE[how](run.spans, rng)
        made.append(Run(run.label, spans, run.step_of, run.resource, run))
    return made


@dataclass
class Verdict:
    """What was said of one run. `calls`: each call's span id, tool or not, cost, in event order."""

    run: Run
    alerts: list[Alert]
    calls: list[tuple[str, bool, int]] = field(default_factory=list)

    @cached_property
    def alarm(self) -> Alert | None:
        """The first one that counts."""
        return next(iter(self.alerts), None)

    def after_onset(self) -> tuple[int, int, int] | None:
        """Of a loop that was found: tool calls and money [nano-USD] from its onset to the alarm, and to the end."""
        place = {span_id: number for number, (span_id, _, _) in enumerate(self.calls)}
        onset_step = min(e["onset_step"] for e in self.run.label["episodes"])
        onset = min(
            (place[span_id] for span_id, step in self.run.step_of.items() if step >= onset_step and span_id in place),
            default=None,
        )
        if onset is None:
            return None
        rest = self.calls[onset:]
        money = sum(nano for _, _, nano in rest)
        alarm = len(self.calls) if self.alarm is None else place.get(self.alarm.at_span_id.hex(), len(self.calls) - 1)
        until = self.calls[onset : alarm + 1]
        first_tool = next((n for n, (_, tool, _) in enumerate(rest) if tool), 0)
        tools = sum(tool for _, tool, _ in until[first_tool + 1 :])
        return tools, sum(nano for _, _, nano in until), money


def judge(runs: Iterable[Run], rules: Sequence[str] = ()) -> list[Verdict]:
    """Send each run through an engine with `rules` (files; none: the shipped ones)."""
    runs = list(runs)
    engine = build_engine(load_config(environ={}), rules=list(rules) or None)
    now_ns = 0
    for position, run in enumerate(runs):
        request = {"resourceSpans": [{"resource": run.resource, "scopeSpans": [{"scope": {}, "spans": run.spans}]}]}
        payload, _ = json_to_protobuf(Signal.TRACES, json.dumps(request).encode())
        spans = decode_traces(payload, "default", 0).events
        now_ns = max([now_ns, *(span.end_ns for span in spans)])
        engine.feed(Signal.TRACES, spans, position, now_ns)
    engine.close(now_ns)
    effects = engine.take()
    alerts: dict[str, list[Alert]] = defaultdict(list)
    for alert in effects.alerts:
        if alert.category is Category.LOOP and alert.state == "firing" and alert.severity is not Severity.NOTICE:
            alerts[alert.trace_id.hex()].append(alert)
    calls: dict[str, list[tuple[str, bool, int]]] = defaultdict(list)
    made = [call for closed in effects.closed for call in closed.calls]
    for call in sorted(made, key=lambda call: (call.step.end_ns, call.step.start_ns, call.step.span_id)):
        calls[call.trace_id.hex()].append((call.step.span_id.hex(), call.kind is Kind.TOOL, call.nano or 0))
    return [Verdict(run, alerts[run.label["trace_id"]], calls[run.label["trace_id"]]) for run in runs]


# ---- figures ---------------------------------------------------------------------------------------------------

GROUPS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "human": lambda label: label["basis"] == "human",
    "mechanical": lambda label: label["basis"] == "mechanical",
    "human+mechanical": lambda label: label["basis"] in {"human", "mechanical"},
    "llm-ledger": lambda label: label["basis"] == "llm-ledger",
}


@dataclass
class Score:
    """The figures of a group of runs."""

    verdicts: list[Verdict] = field(default_factory=list)

    def count(self, *, loop: bool, found: bool) -> int:
        return sum(v.run.label["loop"] == loop and (v.alarm is not None) == found for v in self.verdicts)

    @cached_property
    def tp(self) -> int:
        return self.count(loop=True, found=True)

    @cached_property
    def fp(self) -> int:
        return self.count(loop=False, found=True)

    @cached_property
    def fn(self) -> int:
        return self.count(loop=True, found=False)

    @cached_property
    def tn(self) -> int:
        return self.count(loop=False, found=False)

    @property
    def precision(self) -> float:
        return self.tp / max(1, self.tp + self.fp)

    @property
    def recall(self) -> float:
        return self.tp / max(1, self.tp + self.fn)

    @property
    def f1(self) -> float:
        return 2 * self.tp / max(1, 2 * self.tp + self.fp + self.fn)

    @property
    def false_alarms(self) -> float:
        return self.fp / max(1, self.fp + self.tn)

    @cached_property
    def _timed(self) -> list[tuple[int, int, int, bool]]:
        timed = [(v.after_onset(), v.alarm is not None) for v in self.verdicts if v.run.label["loop"]]
        return [(*told, found) for told, found in timed if told is not None]

    @cached_property
    def delay(self) -> float:
        """Median tool calls from onset to alarm, of the loops found."""
        return statistics.median([tools for tools, _, _, found in self._timed if found] or [float("nan")])

    @cached_property
    def delay_usd(self) -> float:
        """Median dollars spent from onset to alarm, of the loops found."""
        return statistics.median([until for _, until, _, found in self._timed if found] or [float("nan")]) / 1e9

    @cached_property
    def saved(self) -> float:
        """Mean share of the money from the onset on that a stop at the alarm spares; a missed loop spares none."""
        shares = [1 - until / money if found and money else 0.0 for _, until, money, found in self._timed]
        return statistics.fmean(shares) if shares else float("nan")

    def interval(self, figure: str, rounds: int = 1000) -> tuple[float, float]:
        """Bootstrapped 95 % interval of a figure."""
        rng = random.Random(SEED)
        told = [(v.run.label["loop"], v.alarm is not None) for v in self.verdicts]
        found = []
        for _ in range(rounds if told else 0):
            drawn = Counter(rng.choices(told, k=len(told)))
            tp, fp = drawn[True, True], drawn[False, True]
            fn, tn = drawn[True, False], drawn[False, False]
            found.append(2 * tp / max(1, 2 * tp + fp + fn) if figure == "f1" else fp / max(1, fp + tn))
        found.sort()
        return (found[int(0.025 * rounds)], found[int(0.975 * rounds)]) if found else (0.0, 1.0)

    def __str__(self) -> str:
        low, high = self.interval("f1")
        worst = self.interval("fp")[1]
        return (
            f"P {self.precision:.2f}  R {self.recall:.2f}  F1 {self.f1:.3f} [{low:.2f}, {high:.2f}]"
            f"  FP {self.false_alarms:.3f} [≤ {worst:.2f}]  delay {self.delay:g} (${self.delay_usd:.3f})"
            f"  saved {self.saved:.2f}  (tp {self.tp} fp {self.fp} fn {self.fn} tn {self.tn})"
        )


def score(verdicts: Iterable[Verdict]) -> dict[str, Score]:
    """Scores per group; runs whose label is ambiguous are left out."""
    scores = {name: Score() for name in GROUPS}
    for verdict in verdicts:
        for name, belongs in GROUPS.items():
            if not verdict.run.label["ambiguous"] and belongs(verdict.run.label):
                scores[name].verdicts.append(verdict)
    return scores


def runs_folder() -> Path:
    shared = os.environ.get("OTEL_COST_SHARED") or str(Path(__file__).parents[3] / "shared")
    return Path(shared) / "trajectories"


# ---- cross-validation --------------------------------------------------------------------------------------------

# What was chosen by looking at these runs; each is varied around the value that ships.
GRID: dict[tuple[str, str], tuple[float, ...]] = {
    ("no_news", "count"): (2, 3, 4),
    ("repeated_error", "count"): (2, 3, 4),
    ("near_repeat", "count"): (2, 3, 4),
    ("edit_test_churn", "rounds"): (3, 4, 6),
    ("recreate_churn", "count"): (3, 4, 6),
}


def cross_validate(runs: list[Run], folds: int, scratch: Path) -> None:
    """Choose each setting on the other folds, score on the one left out; folds at random and by source."""
    runs = [run for run in runs if run.label["basis"] != "llm-ledger" and not run.label["ambiguous"]]
    alarmed: dict[tuple[tuple[str, str], float] | None, list[Verdict]] = {None: judge(runs)}
    for (detector, setting), values in GRID.items():
        for value in values:
            rules = scratch / f"{detector}-{setting}-{value}.yaml"
            rules.write_text(_shipped_with(detector, {setting: value}))
            alarmed[(detector, setting), value] = judge(runs, [str(rules)])
    rng = random.Random(SEED)
    places = list(range(len(runs)))
    rng.shuffle(places)
    splits = {
        "random folds": [places[n::folds] for n in range(folds)],
        "by source": [
            [n for n, run in enumerate(runs) if run.label["source"] == source]
            for source in sorted({run.label["source"] for run in runs})
        ],
    }
    for how, parts in splits.items():
        pooled: list[Verdict] = []
        chosen: Counter[str] = Counter()
        for part in parts:
            left_out = set(part)

            def trained(choice: Any, left_out: set[int] = left_out) -> float:
                kept = [v for n, v in enumerate(alarmed[choice]) if n not in left_out]
                return score(kept)["human+mechanical"].f1

            best = max(alarmed, key=lambda choice: (trained(choice), choice is None))
            chosen["as shipped" if best is None else f"{best[0][0]}.{best[0][1]} = {best[1]}"] += 1
            pooled += [alarmed[best][n] for n in part]
        scores = score(pooled)
        print(f"== cross-validated, {how}: {dict(chosen)}")
        for group in ("human", "mechanical", "human+mechanical"):
            print(f"{group:18} {scores[group]}")
    print("== each source by itself, as shipped")
    for source in sorted({run.label["source"] for run in runs}):
        part = Score([v for v in alarmed[None] if v.run.label["source"] == source])
        print(f"{source:18} {part}")


def _shipped_with(detector: str, settings: dict[str, float]) -> str:
    """The shipped loop rules as text, one detector's settings changed."""
    engine = build_engine(load_config(environ={}))
    rules = []
    for rule in engine._watch._rules:
        chosen = rule.settings.model_dump(mode="json", exclude_unset=True)
        if rule.detector.name == detector:
            chosen |= settings
        line: dict[str, Any] = {"name": rule.name, "detect": rule.detector.name, "with": chosen}
        if rule.severity is not None:
            line["severity"] = rule.severity.value
        rules.append(line)
    return json.dumps({"version": 1, "loops": rules})


# ---- report ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--copies", nargs="*", choices=COPIES, default=COPIES)
    parser.add_argument("--rules", nargs="*", default=[], help="rule files in place of the shipped ones")
    parser.add_argument("--per-detector", action="store_true", help="each detector by itself as well")
    parser.add_argument("--cross-validate", action="store_true")
    parser.add_argument("--show", action="store_true", help="list false alarms and misses")
    options = parser.parse_args()
    runs = read_runs(runs_folder())
    pooled: list[Verdict] = []
    for how in options.copies:
        verdicts = judge(copies(runs, how), options.rules)
        if how in PERTURBED:
            pooled += verdicts
        report(how, verdicts, show=options.show)
    if pooled:
        report("all perturbed copies", pooled, show=False)
    with TemporaryDirectory() as scratch:
        if options.per_detector:
            for name, detector in sorted(DETECTORS.items()):
                if detector.category is Category.LOOP:
                    rules = Path(scratch) / "one.yaml"
                    rules.write_text(json.dumps({"version": 1, "loops": [{"name": "one", "detect": name}]}))
                    print(f"{name:18} {score(judge(runs, [str(rules)]))['human+mechanical']}")
        if options.cross_validate:
            cross_validate(runs, 10, Path(scratch))


def report(how: str, verdicts: list[Verdict], *, show: bool) -> None:
    scores = score(verdicts)
    print(f"== {how}")
    for group, result in scores.items():
        print(f"{group:18} {result}")
    told = scores["human+mechanical"].verdicts
    for shape in SHAPES:
        loops = [v for v in told if v.run.label["loop"] and v.run.shape == shape]
        found = Counter(v.alarm.kind for v in loops if v.alarm is not None)
        kinds = ", ".join(f"{kind} {number}" for kind, number in found.most_common())
        print(f"  {shape:16} {sum(found.values())} of {len(loops)} found  ({kinds})")
    wolf = Counter(v.alarm.kind for v in told if v.alarm is not None and not v.run.label["loop"])
    print(f"  false alarms by   {dict(wolf)}")
    if show:
        for v in verdicts:
            if (v.alarm is not None) != v.run.label["loop"] and not v.run.label["ambiguous"]:
                alarms = [(v.run.step_of.get(a.at_span_id.hex()), a.kind, a.summary) for a in v.alerts]
                print(
                    "  FALSE " if v.alarm else "  MISSED",
                    v.run.id,
                    v.run.label["steps"],
                    v.run.label["episodes"],
                    alarms,
                )


if __name__ == "__main__":
    main()
