"""Scores the detectors against labelled agent runs: precision, recall, F1, delay and money saved, per group of labels.

    OTEL_COST_SHARED=… python tests/bench/score_loops.py [--engine] [--without-content] [--per-detector] [--show]

A verdict is: any detector of category `loop` fires with severity warning or worse. By default the
detectors are fed alone; `--engine` sends the bytes through decoding, assembly and pricing, as `otel-cost replay` does.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from otel_cost.core.decode.otlp import decode_traces
from otel_cost.core.detect import DETECTORS, Observed
from otel_cost.core.detect._memory import Memory
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.step import Step
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Category, Kind, Severity, Source
from otel_cost.edge.config import load_config
from otel_cost.edge.engine import build_engine
from otel_cost.edge.otlp_files import requests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_cost.core.model.finding import Alert, Finding

# USD per million tokens, input and output, of the models in the data: only ratios matter here.
PRICES = {
    "gpt-4o": (2500, 10000),
    "gpt-4": (30000, 60000),
    "gpt-3.5": (500, 1500),
    "claude-3-5-sonnet": (3000, 15000),
}


@dataclass
class Run:
    label: dict[str, Any]
    agents: dict[str, list[tuple[int, Step, int | None]]] = field(default_factory=lambda: defaultdict(list))

    @property
    def calls(self) -> list[tuple[int, Step, int | None]]:
        return sorted(
            (call for calls in self.agents.values() for call in calls), key=lambda c: (c[1].end_ns, c[1].start_ns)
        )


def price(model: str, usage: Usage) -> int | None:
    """Nano-USD, exact in whole numbers; None for a model without a price here."""
    for prefix, (given, made) in PRICES.items():
        if model.startswith(prefix):
            return usage.input * given + usage.output * made
    return None


def read_runs(folder: Path, content: bool = True) -> Iterator[Run]:
    labels = {one["trace_id"]: one for one in map(json.loads, (folder / "labels.jsonl").read_text().splitlines())}
    for path in sorted(folder.glob("*.otlp.jsonl.gz")):
        with gzip.open(path, "rt") as lines:
            for line in lines:
                spans = [
                    span
                    for resource in json.loads(line)["resourceSpans"]
                    for scope in resource["scopeSpans"]
                    for span in scope["spans"]
                ]
                yield _run(labels[spans[0]["traceId"]], spans, content)


def _run(label: dict[str, Any], spans: list[dict[str, Any]], content: bool) -> Run:
    run = Run(label)
    agents = {s["spanId"] for s in spans if s["name"].startswith("invoke_agent")}
    parents = {s["spanId"]: s.get("parentSpanId", "") for s in spans}
    for span in sorted(spans, key=lambda s: (int(s["endTimeUnixNano"]), int(s["startTimeUnixNano"]), s["spanId"])):
        if span["spanId"] in agents:
            continue
        at = {a["key"]: next(iter(a["value"].values())) for a in span["attributes"]}
        step = _step(span, at, content)
        agent = span.get("parentSpanId", "")
        while agent and agent not in agents:
            agent = parents.get(agent, "")
        # Agents of one name under one root are one agent that is called again and again.
        key = next((str(_attribute(s, "gen_ai.agent.name")) for s in spans if s["spanId"] == agent), "")
        nano = price(step.model or "", step.usage) if step.usage else None
        run.agents[key].append((int(at["bench.step"]), step, nano))
    return run


def _attribute(span: dict[str, Any], key: str) -> object:
    return next((next(iter(a["value"].values())) for a in span["attributes"] if a["key"] == key), None)


def _step(span: dict[str, Any], at: dict[str, Any], content: bool) -> Step:
    tool = at["gen_ai.operation.name"] == "execute_tool"
    usage = None
    if "gen_ai.usage.input_tokens" in at:
        usage = Usage(input=int(at["gen_ai.usage.input_tokens"]), output=int(at["gen_ai.usage.output_tokens"]))
    return Step(
        source=Source.SPAN,
        dialect="bench",
        scope="bench.trajectories",
        kind=Kind.TOOL if tool else Kind.INFERENCE,
        trace_id=bytes.fromhex(span["traceId"]),
        span_id=bytes.fromhex(span["spanId"]),
        parent_id=bytes.fromhex(span.get("parentSpanId", "")),
        name=span["name"],
        start_ns=int(span["startTimeUnixNano"]),
        end_ns=int(span["endTimeUnixNano"]),
        requested_model=at.get("gen_ai.request.model"),
        response_model=at.get("gen_ai.response.model"),
        usage=usage,
        failed=span.get("status", {}).get("code") == 2 or "error.type" in at,
        error_type=at.get("error.type"),
        tool=at.get("gen_ai.tool.name"),
        arguments=at.get("gen_ai.tool.call.arguments") if content else None,
        result=at.get("gen_ai.tool.call.result") if content else None,
        output_text=at.get("gen_ai.output.messages") if content else None,
    )


@dataclass
class Verdict:
    run: Run
    fired: list[tuple[int, Finding | Alert]]  # (step of the firing event, what fired), in event order


def judge(run: Run, names: set[str], waste: bool = False) -> Verdict:
    fired: list[tuple[int, Finding]] = []
    for calls in run.agents.values():
        detectors = [
            (d, d.state(), d.settings())
            for d in DETECTORS.values()
            if d.name in names and (waste or d.category is Category.LOOP)
        ]
        memory = Memory()
        for at, step, nano in calls:
            seen = Observed(step, nano, step.failed)
            memory.look(seen)
            for detector, state, settings in detectors:
                if step.kind not in detector.kinds:
                    continue
                fired += [
                    (at, f)
                    for f in detector.observe(state, seen, settings)
                    if f.state == "firing" and f.severity is not Severity.NOTICE
                ]
    fired.sort(key=lambda pair: pair[0])
    return Verdict(run, fired)


def judge_by_engine(folder: Path, names: set[str], rules: Path) -> list[Verdict]:
    """The same verdicts by way of the whole engine; `rules` is a file to write the loop rules to."""
    rules.write_text(
        "version: 1\nloops:\n"
        + "".join(f"  - {{name: {name.replace('_', '-')}, detect: {name}}}\n" for name in sorted(names))
    )
    runs = {bytes.fromhex(run.label["trace_id"]): run for run in read_runs(folder)}
    steps = {step.span_id: at for run in runs.values() for at, step, _ in run.calls}
    fired: dict[bytes, list[tuple[int, Finding | Alert]]] = defaultdict(list)
    for path in sorted(folder.glob("*.otlp.jsonl.gz")):
        engine = build_engine(load_config(environ={}), rules=[str(rules)])
        now_ns = 0
        for position, request in enumerate(requests(path)):
            spans = decode_traces(request.payload, "default", 0).events
            now_ns = max([now_ns, *(span.end_ns for span in spans)])
            engine.feed(Signal.TRACES, spans, position, now_ns)
        engine.close(now_ns)
        for alert in engine.take().alerts:
            loud = alert.severity is not Severity.NOTICE and alert.category is Category.LOOP
            if alert.state == "firing" and loud:
                fired[alert.trace_id].append((steps[alert.at_span_id], alert))
    return [Verdict(run, sorted(fired[trace_id], key=lambda pair: pair[0])) for trace_id, run in runs.items()]


GROUPS = {
    "human": lambda label: label["basis"] == "human",
    "mechanical": lambda label: label["basis"] == "mechanical",
    "human+mechanical": lambda label: label["basis"] in {"human", "mechanical"},
    "llm-ledger": lambda label: label["basis"] == "llm-ledger",
}


@dataclass
class Score:
    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0
    delays: list[int] = field(default_factory=list)
    saved: float = 0.0
    at_stake: float = 0.0

    def add(self, verdict: Verdict) -> None:
        loop, fired = verdict.run.label["loop"], bool(verdict.fired)
        self.tp += loop and fired
        self.fn += loop and not fired
        self.fp += fired and not loop
        self.tn += not fired and not loop
        if not loop:
            return
        onset = min(e["onset_step"] for e in verdict.run.label["episodes"])
        after = [(at, nano or 0) for at, _, nano in verdict.run.calls if at >= onset]
        self.at_stake += 1
        total = sum(nano for _, nano in after)
        if fired:
            alarm = verdict.fired[0][0]
            self.delays.append(max(0, alarm - onset))
            if total:
                self.saved += sum(nano for at, nano in after if at > alarm) / total

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

    def __str__(self) -> str:
        delay = statistics.median(self.delays) if self.delays else float("nan")
        return (
            f"P {self.precision:.2f}  R {self.recall:.2f}  F1 {self.f1:.3f}  FP {self.false_alarms:.2f}"
            f"  delay {delay:g}  saved {self.saved / max(1, self.at_stake):.2f}"
            f"  (tp {self.tp} fp {self.fp} fn {self.fn} tn {self.tn})"
        )


def score(verdicts: list[Verdict], fold: int | None = None) -> dict[str, Score]:
    """Scores per group. `fold` 0 or 1 takes every second run only, to see whether a tuning carries over."""
    scores = {name: Score() for name in GROUPS}
    for number, verdict in enumerate(verdicts):
        if verdict.run.label["ambiguous"] or (fold is not None and number % 2 != fold):
            continue
        for name, belongs in GROUPS.items():
            if belongs(verdict.run.label):
                scores[name].add(verdict)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--engine", action="store_true")
    parser.add_argument("--without-content", action="store_true")
    parser.add_argument("--per-detector", action="store_true")
    parser.add_argument("--folds", action="store_true")
    parser.add_argument("--show", action="store_true", help="list false alarms and misses")
    parser.add_argument("--only", nargs="*", default=sorted(DETECTORS))
    options = parser.parse_args()
    shared = os.environ.get("OTEL_COST_SHARED") or str(Path(__file__).parents[3] / "shared")
    folder = Path(shared) / "trajectories"
    runs = list(read_runs(folder, content=not options.without_content))
    selections = [{name} for name in options.only] if options.per_detector else []
    for names in [*selections, set(options.only)]:
        with TemporaryDirectory() as scratch:
            verdicts = (
                judge_by_engine(folder, names, Path(scratch) / "rules.yaml")
                if options.engine
                else [judge(run, names) for run in runs]
            )
        print(f"== {', '.join(sorted(names)) if len(names) == 1 else 'all'}")
        for fold in (None, 0, 1) if options.folds else (None,):
            for group, result in score(verdicts, fold).items():
                print(f"{'' if fold is None else f'fold {fold} '}{group:18} {result}")
        if options.show:
            for v in verdicts:
                label = v.run.label
                if bool(v.fired) != label["loop"] and not label["ambiguous"]:
                    what = [(at, f.summary) for at, f in v.fired]
                    print("FALSE" if v.fired else "MISSED", label["id"], label["steps"], label["episodes"], what)


if __name__ == "__main__":
    main()
