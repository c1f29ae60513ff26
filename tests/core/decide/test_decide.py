"""Decisions: the strictest wins, every word is kept, and the answer is the contract's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from otel_cost.core.decide import ALLOWED, Decision, Verb, decision_json, strictest
from otel_cost.core.decide.texts import text_of
from otel_cost.core.rules.kind import VERBS

words = st.builds(
    Decision,
    verb=st.sampled_from(Verb),
    rule=st.sampled_from("abc"),
    reason=st.text(min_size=1, max_size=5),
    text=st.none() | st.text(min_size=1, max_size=5),
)


def test_verbs_are_those_of_the_rules_in_their_order() -> None:
    assert tuple(map(str, sorted(Verb))) == VERBS
    assert [Verb.of(name) for name in VERBS] == sorted(Verb)


@given(st.lists(words, max_size=6))
def test_the_strictest_wins_and_no_word_is_lost(said: list[Decision]) -> None:
    merged = strictest(said)
    spoken = [one for one in said if one.verb is not Verb.ALLOW]
    assert merged.verb == max((one.verb for one in said), default=Verb.ALLOW)
    kept = [merged, *merged.others] if spoken else []
    assert sorted((one.rule, one.reason) for one in kept) == sorted((one.rule, one.reason) for one in spoken)


@given(st.lists(words, max_size=4), st.lists(words, max_size=4))
def test_merging_in_two_steps_is_merging_at_once(one: list[Decision], two: list[Decision]) -> None:
    assert strictest([strictest(one), strictest(two)]).verb == strictest([*one, *two]).verb


def test_warnings_are_all_said() -> None:
    merged = strictest([Decision(verb=Verb.WARN, text="a"), Decision(verb=Verb.WARN, text="b")])
    assert merged.words == "a\nb"


def test_the_answer_of_the_api() -> None:
    deny = Decision(verb=Verb.DENY, rule="r", reason="why", text="no", evidence={"repeats": 3})
    warn = Decision(verb=Verb.WARN, rule="w", reason="also")
    stop = Decision(verb=Verb.STOP, rule="s", reason="trial")
    merged = strictest([warn, deny, Decision(shadow=(stop,))])
    assert decision_json(merged) == {
        "decision": "deny",
        "reason": "why",
        "rule": "r",
        "text": "no",
        "evidence": {"repeats": 3, "also": [{"decision": "warn", "reason": "also", "rule": "w", "evidence": {}}]},
        "shadow": [{"decision": "stop", "reason": "trial", "rule": "s", "evidence": {}}],
    }
    assert decision_json(ALLOWED) == {"decision": "allow", "reason": "", "rule": None, "evidence": {}, "shadow": []}


def test_fixed_texts_say_what_to_change_and_stay_short() -> None:
    for verb in Verb:
        for same_call in (False, True):
            text = text_of(verb, "bash failed the same way 3 times", same_call=same_call, model="small")
            assert bool(text) == (verb is not Verb.ALLOW)
            assert len(text) < 200
            assert "bash failed" in text or not text
