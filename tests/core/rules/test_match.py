"""Matchers: what holds, what does not, and what is refused."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_cost.core.model.attributes import PlainAttributes
from otel_cost.core.rules.match import compile_match, lookup
from otel_cost.document import Mistakes

FACTS = {
    "workflow": "refactor",
    "model": "claude-opus-4-5",
    "cost_usd": Decimal("1.50"),
    "llm_calls": 12,
    "loop": True,
    "over_budget": False,
}
GET = lookup(
    FACTS,
    PlainAttributes({"app.tags": ["a", "beta"], "app.tries": "3", "app.dry": False, "service.name": "span"}),
    PlainAttributes({"service.name": "resource", "deployment.environment.name": "prod"}),
)


@pytest.mark.parametrize(
    "match",
    [
        {},
        {"workflow": "refactor"},
        {"workflow": ["x", "ref*"]},
        {"workflow": {"not": "incident"}},
        {"workflow": {"not": ["incident", "x*"]}},
        {"workflow": {"any": ["x", {"re": "^ref"}]}},
        {"model": "*opus*", "llm_calls": 12},
        {"cost_usd": {"gte": Decimal("1.5"), "lt": 2}},
        {"cost_usd": {"gt": 1, "lte": Decimal("1.50")}},
        {"cost_usd": Decimal("1.5")},
        {"user": None},
        {"user": {"exists": False}},
        {"user": {"not": "me"}},
        {"any": ["over_budget", "loop"]},
        {"any": [{"workflow": "x"}, {"loop": True, "workflow": "refactor"}]},
        {"all": ["loop", {"workflow": "refactor"}]},
        {"not": {"loop": True, "workflow": "x"}},
        {"app.tags": "beta"},
        {"app.tags": "be*"},
        {"attr:app.tries": {"gte": 3}},
        {"app.tries": 3},
        {"app.dry": False},
        {"service.name": "span"},
        {"resource.service.name": "resource"},
        {"deployment.environment.name": "prod"},
        {"workflow": {"ne": "ref*"}},
    ],
)
def test_holds(match: dict[str, object]) -> None:
    assert compile_match(match)(GET)


@pytest.mark.parametrize(
    "match",
    [
        {"workflow": "Refactor"},
        {"workflow": {"not": "ref*"}},
        {"workflow": {"eq": "ref*"}},
        {"cost_usd": {"gt": Decimal("1.5")}},
        {"workflow": {"gte": 1}},
        {"user": "me"},
        {"user": {"exists": True}},
        {"user": {"gte": 0}},
        {"over_budget": True},
        {"llm_calls": True},
        {"any": ["over_budget"]},
        {"not": {"loop": True, "workflow": "refactor"}},
        {"loop": True, "workflow": "x"},
        {"app.tags": "eta"},
    ],
)
def test_does_not_hold(match: dict[str, object]) -> None:
    assert not compile_match(match)(GET)


@pytest.mark.parametrize(
    ("match", "path", "said", "hint"),
    [
        ({"usr": "x"}, ("usr",), "unknown name `usr`", "did you mean `user`?"),
        ({"user": {"nto": "x"}}, ("user", "nto"), "unknown operator `nto`", "did you mean `not`?"),
        ({"cost_usd": {"gte": "x"}}, ("cost_usd", "gte"), "`x` is not a number", ""),
        ({"user": {"re": "("}}, ("user", "re"), "not a regular expression", ""),
        ({"user": {"exists": "maybe"}}, ("user", "exists"), "`exists` takes true or false", ""),
        ({"any": ["lop"]}, ("any", 0), "unknown name `lop`", "did you mean `loop`?"),
        ({"any": {}}, ("any",), "`any` takes a list", ""),
        ({"not": "x"}, ("not",), "a match is a mapping", ""),
        ("x", (), "a match is a mapping", ""),
    ],
)
def test_what_cannot_be_meant_is_refused_at_its_place(
    match: object, path: tuple[object, ...], said: str, hint: str
) -> None:
    with pytest.raises(Mistakes) as raised:
        compile_match(match)
    (item,) = raised.value.items
    assert item.path == path
    assert item.message.startswith(said)
    assert item.hint.startswith(hint)


@given(st.text(max_size=40) | st.integers() | st.floats() | st.booleans() | st.none() | st.lists(st.text(max_size=5)))
def test_any_value_that_is_sent_gets_an_answer(value: object) -> None:
    for condition in ("a*", 1, True, None, {"gte": 1}, {"re": "x"}, {"not": "a"}, ["a", 2]):
        assert compile_match({"attr:x": condition})(lambda _name: value) in {True, False}


def test_a_number_in_text_cannot_cost_memory() -> None:
    assert not compile_match({"attr:x": {"gte": 1}})(lambda _name: "1e999999999")
