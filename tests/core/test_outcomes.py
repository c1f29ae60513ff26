"""News of finished work: what records say of it, which runs it reaches, and what verdict it makes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_cost.core.decode.otlp import decode_logs, decode_traces
from otel_cost.core.decode.otlp_json import json_to_protobuf
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.outcome import Outcome, Result
from otel_cost.core.outcomes import (
    REACH_NS,
    Places,
    Reader,
    joins_of,
    judge,
    keys_of,
    outcome_json,
    outcome_of,
    reaching,
    result_of,
)
from otel_cost.core.rules import load_rules
from otel_cost.document import parse_document

T0 = 1_790_000_000 * 10**9
TRACE = "0af7651916cd43dd8448eb211c80319c"


def pairs(told: dict[str, object]) -> list[dict[str, object]]:
    kinds = {str: "stringValue", float: "doubleValue", bool: "boolValue", int: "intValue"}
    return [{"key": key, "value": {kinds[type(value)]: value}} for key, value in told.items()]


def span(attributes: dict[str, object] | None = None, events: list | None = None, resource: dict | None = None):
    one = {
        "traceId": TRACE,
        "spanId": "b7ad6b7169203331",
        "name": "work",
        "startTimeUnixNano": str(T0),
        "endTimeUnixNano": str(T0 + 10),
        "attributes": pairs(attributes or {}),
        "events": events or [],
    }
    body = {"resourceSpans": [{"resource": {"attributes": pairs(resource or {})}, "scopeSpans": [{"spans": [one]}]}]}
    payload, _ = json_to_protobuf(Signal.TRACES, json.dumps(body).encode())
    (event,) = decode_traces(payload, "default", 0).events
    return event


def log(name: str, attributes: dict[str, object], trace: str = ""):
    one = {"timeUnixNano": str(T0), "eventName": name, "attributes": pairs(attributes), "traceId": trace}
    payload, _ = json_to_protobuf(
        Signal.LOGS, json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [one]}]}]}).encode()
    )
    (event,) = decode_logs(payload, "default", 0).events
    return event


def judged(name: str, **said: object) -> dict[str, object]:
    told = {f"gen_ai.evaluation.{key.replace('__', '.')}": value for key, value in said.items()}
    return {
        "name": "gen_ai.evaluation.result",
        "timeUnixNano": str(T0 + 5),
        "attributes": pairs({"gen_ai.evaluation.name": name, **told}),
    }


def rules(text: str):
    return load_rules([parse_document(f"version: 1\noutcomes:\n{text}", "r.yaml")]).outcomes


def news(name: str, value: str, at: int, source: str = "evaluation", **more: object) -> Outcome:
    given_ = {"id": f"{name}{at}", "tenant": "default", "keys": (), "source": source, **more}
    return Outcome(name=name, value=Result(value), at_ns=at, **given_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ({"score__label": "pass"}, "success"),
        ({"score__label": "Not Relevant"}, "failure"),
        ({"score__label": "fail", "score__value": 1.0}, "failure"),
        ({"score__value": 1.0}, "success"),
        ({"score__value": 0.0}, "failure"),
        ({"score__value": 0.7}, "unknown"),
        ({"score__label": "blue"}, "unknown"),
        ({"score__label": "pass", "score__value": 1}, "success"),
    ],
)
def test_an_evaluation_on_a_span_or_in_a_log_is_news_of_its_trace(said: dict[str, object], value: str) -> None:
    (of_span,) = Reader().read(span(events=[judged("correctness", **said)]))
    attributes = {"gen_ai.evaluation.name": "correctness"}
    attributes |= {f"gen_ai.evaluation.{key.replace('__', '.')}": item for key, item in said.items()}
    (of_log,) = Reader().read(log("gen_ai.evaluation.result", attributes, TRACE))
    for one in (of_span, of_log):
        assert (one.name, one.value, one.source, one.keys) == ("correctness", value, "evaluation", (f"trace:{TRACE}",))
    assert of_span.at_ns == T0 + 5


def test_a_judge_that_failed_says_nothing_about_the_work() -> None:
    attributes = {
        "gen_ai.evaluation.name": "correctness",
        "error.type": "timeout",
        "gen_ai.evaluation.score.value": 0.0,
    }
    (one,) = Reader().read(log("gen_ai.evaluation.result", attributes, TRACE))
    assert one.value == "unknown"


def test_an_evaluation_without_a_trace_is_joined_by_session_or_response() -> None:
    told = {"gen_ai.evaluation.name": "x", "gen_ai.evaluation.score.label": "pass", "gen_ai.response.id": "resp-1"}
    (one,) = Reader().read(log("gen_ai.evaluation.result", told))
    assert one.keys == ("response:resp-1",)
    (one,) = Reader().read(log("gen_ai.evaluation.result", told | {"gen_ai.conversation.id": "c"}))
    assert one.keys == ("session:c",)


def test_no_text_of_a_judge_is_kept() -> None:
    event = span(events=[judged("x", score__label="pass", explanation="SECRET reasons")])
    (one,) = Reader().read(event)
    assert "SECRET" not in json.dumps(outcome_json(one))


def test_rules_say_what_a_score_means_and_take_the_place_of_the_default() -> None:
    reader = Reader(
        rules(
            "  - name: good_answer\n    from: {evaluation: 'answer_*', if: {score: {gte: 0.7}}}\n"
            "    value: success\n    else: failure\n"
            "  - {name: shipped, from: {attribute: deploy.state, if: {value: live}}, value: success}\n"
            "  - {name: refunded, from: {event: shop.refund}, value: failure}\n"
        )
    )
    told = reader.read(
        span(events=[judged("answer_quality", score__value=0.8), judged("answer_tone", score__value=0.2)])
    )
    assert [(one.name, one.value) for one in told] == [("good_answer", "success"), ("good_answer", "failure")]
    (other,) = reader.read(span(events=[judged("other", score__label="pass")]))
    assert (other.name, other.value) == ("other", "success")
    (shipped,) = reader.read(span({"deploy.state": "live"}))
    assert (shipped.name, shipped.value, shipped.source) == ("shipped", "success", "attribute")
    (by_resource,) = reader.read(span(resource={"deploy.state": "live"}))
    assert by_resource.name == "shipped"
    assert reader.read(span({"deploy.state": "failed"})) == []
    (refunded,) = reader.read(log("shop.refund", {"amount": 3}, TRACE))
    assert (refunded.name, refunded.value) == ("refunded", "failure")


def test_an_application_may_say_it_itself() -> None:
    (one,) = Reader().read(span({"otel_cost.outcome": "failure"}))
    assert (one.name, one.value, one.source) == ("outcome", "failure", "attribute")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{name: o, from: {}, value: success}", "name one of `webhook`"),
        ("{name: o, from: {webhook: github, event: push}, value: success}", "`join` is missing"),
        ("{name: o, from: {webhook: github}, join: [branch], value: success}", "`event` is missing"),
        ("{name: o, from: {attribute: x, event: y}, value: success}", "does not go with `attribute`"),
        ("{name: o, from: {attribute: x}, value: yes}", "outcomes[0].value"),
        ("{name: o, from: {attribute: x}, join: [branche], value: success}", "did you mean `branch`?"),
        ("{name: o, from: {attribute: x, if: [1]}, value: success}", "`if` is the name of a fact"),
    ],
)
def test_a_wrong_rule_names_its_fix(text: str, said: str) -> None:
    from otel_cost.errors import DocumentError

    with pytest.raises(DocumentError) as caught:
        rules(f"  - {text}\n")
    assert said in str(caught.value)


# --- keys ---


@pytest.mark.parametrize(
    ("news_of", "run_says", "joined"),
    [
        ({"branch": "fix/1"}, {"vcs.ref.head.name": "fix/1"}, True),
        ({"branch": "refs/heads/fix/1"}, {"vcs.ref.head.name": "fix/1"}, True),
        ({"branch": "fix/1"}, {"vcs.ref.head.name": "fix/2"}, False),
        ({"branch": "main", "repository": "acme/shop"}, {"vcs.ref.head.name": "main"}, True),
        (
            {"branch": "main", "repository": "acme/shop"},
            {"vcs.ref.head.name": "main", "vcs.repository.name": "shop"},
            True,
        ),
        (
            {"branch": "main", "repository": "acme/shop"},
            {"vcs.ref.head.name": "main", "vcs.repository.url.full": "https://github.com/acme/other.git"},
            False,
        ),
        ({"branch": "main"}, {"vcs.ref.head.name": "main", "vcs.repository.name": "shop"}, True),
        ({"commit": "ABCDEF12"}, {"vcs.ref.head.revision": "abcdef12"}, True),
        ({"ticket": "PROJ-7", "repository": "acme/shop"}, {"ticket.id": "proj-7", "vcs.repository.name": "x"}, True),
        ({"ticket": "7", "repository": "acme/shop"}, {"otel_cost.ticket": "acme/shop#7"}, True),
        ({"ticket": "7", "repository": "acme/shop"}, {"issue.id": "https://github.com/acme/shop/issues/7"}, True),
        ({"ticket": "7", "repository": "acme/shop"}, {"vcs.change.id": "7", "vcs.repository.name": "other"}, False),
        ({"ticket": "#7"}, {"ticket.id": "7"}, True),
    ],
)
def test_news_and_runs_find_each_other_by_what_both_know(
    news_of: dict[str, str], run_says: dict[str, str], joined: bool
) -> None:
    assert bool(joins_of(run_says) & set(keys_of(**news_of))) is joined


def test_a_run_hears_of_its_branch_from_its_resource_or_a_span() -> None:
    places = Places()
    of_resource = span(resource={"vcs.ref.head.name": "fix/1", "vcs.repository.name": "shop"})
    assert places.of(of_resource) == {"branch:fix/1", "branch:shop@fix/1"}
    assert places.of(span({"vcs.change.id": 7})) == {"ticket:7", "ticket:?@7"}
    assert places.of(span()) is None


def test_a_branch_that_is_used_again_leads_to_what_ended_on_it_first() -> None:
    first, second = (news("merged_pr", "success", T0 + day * 86_400 * 10**9, "github") for day in (1, 9))
    told = [("branch:x", first), ("branch:x", second)]
    assert reaching(told, T0) == [first]
    assert reaching(told, T0 + 2 * 86_400 * 10**9) == [second]
    assert reaching(told, T0 - REACH_NS) == []
    assert reaching([("trace:1", second)], 0) == [second]


@given(st.sampled_from(["success", "failure", "unknown"]), st.one_of(st.none(), st.floats(allow_nan=False)))
def test_an_outcome_comes_back_from_json_as_it_was(value: str, score: float | None) -> None:
    one = news("x", value, T0, keys=("trace:1", "branch:y"), score=score, label="l", url="https://x", subject="s")
    assert outcome_of(json.loads(json.dumps(outcome_json(one)))) == one


# --- verdicts ---


def test_verdicts() -> None:
    assert (judge([]).outcome, judge([]).verdict) == (None, "unknown")
    assert judge([news("tests", "success", 1)]).verdict == "worth_it"
    assert judge([news("tests", "failure", 1)]).verdict == "waste"
    # The last word of a judge stands.
    assert judge([news("tests", "failure", 1), news("tests", "success", 2)]).verdict == "worth_it"
    # Where the work ended up outweighs what judges say, whenever.
    merged = news("merged_pr", "success", 1, "github", subject="acme/shop#12")
    told = judge([merged, news("tests", "failure", 2)])
    assert (told.verdict, told.outcome) == ("worth_it", "success")
    assert told.why == "merged_pr of acme/shop#12: success, says github"
    unclear = judge([news("score", "unknown", 1)], 100, 50)
    assert unclear.verdict == "unknown"
    assert "score: neither success nor failure" in unclear.why
    assert "0.00000005 of 0.0000001 USD were burnt" in unclear.why


@given(st.permutations([news("a", "success", 1), news("b", "failure", 2, "api"), news("a", "failure", 3)]))
def test_the_order_of_arrival_changes_no_verdict(told: list[Outcome]) -> None:
    assert judge(told).verdict == "waste"


def test_words_of_judges() -> None:
    assert (result_of("PASS", None), result_of("not-grounded", None)) == ("success", "failure")
    assert result_of(None, None) == "unknown"
