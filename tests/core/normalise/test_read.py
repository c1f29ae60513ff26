"""What every dialect reads the same way."""

from __future__ import annotations

import pytest

from otel_cost.core.model.attributes import PlainAttributes
from otel_cost.core.model.event import Resource
from otel_cost.core.normalise._read import (
    WELL,
    as_text,
    dig,
    failure_of,
    names,
    opened,
    opened_map,
    opened_repr,
    reported_nano,
    who_of,
)


def test_who_is_told_by_the_span_before_its_resource() -> None:
    resource = Resource(PlainAttributes({"team.id": "core", "user.id": "robot", "deployment.environment": "prod"}))
    span = PlainAttributes({"user.email": "a@example.com", "gen_ai.workflow.name": "triage", "organization.id": 7})
    assert who_of(span, resource) == {
        "team": "core",
        "user": "a@example.com",
        "environment": "prod",
        "workflow": "triage",
        "org": "7",
    }


def test_of_two_names_for_one_person_the_better_wins_and_empty_is_nobody() -> None:
    told = PlainAttributes({"user.email": "a@example.com", "user.id": "u1", "team.id": "", "api_key.id": True})
    assert who_of(told, Resource()) == {"user": "u1"}


@pytest.mark.parametrize(
    ("usd", "nano"),
    [
        (0.00047, 470_000),
        ("0.5", 500_000_000),
        (2, 2_000_000_000),
        (0, None),
        (0.0, None),
        ("0", None),
        (-1, None),
        (True, None),
        ("", None),
        ("free", None),
        (float("nan"), None),
        (float("inf"), None),
        (1e300, None),
    ],
)
def test_a_cost_of_zero_or_nonsense_is_no_report(usd: object, nano: int | None) -> None:
    assert reported_nano(usd) == nano


def test_content_is_text_or_compact_json() -> None:
    assert as_text("x") == "x"
    assert as_text({"a": [1, None]}) == '{"a":[1,null]}'
    assert as_text("") is None
    assert as_text(None) is None


def test_structures_are_opened_only_where_they_are_some() -> None:
    assert opened('{"a": 1}') == {"a": 1}
    assert opened([1]) == [1]
    assert opened("words") is None
    assert opened('{"a": ') is None
    assert opened("[" * 100_000) is None
    assert opened_map("[1]") == {}
    assert dig({"a": [{"b": 3}]}, "a", 0, "b") == 3
    assert dig({"a": []}, "a", 0) is None


def test_a_python_repr_is_read_and_never_run() -> None:
    assert opened_repr("{'a': None, 'b': {'c': 1}}") == {"a": None, "b": {"c": 1}}
    assert opened_repr('{"a": null}') == {"a": None}
    assert opened_repr("__import__('os')") == {}
    assert opened_repr("{'a': open('x')}") == {}
    assert opened_repr("{" * 10_000) == {}
    assert opened_repr("{'a': '" + "x" * 20_000 + "'}") == {}


def test_lists_of_names_come_as_lists_or_json() -> None:
    assert names(["stop"]) == ("stop",)
    assert names('["stop"]') == ("stop",)
    assert names("stop") == ("stop",)
    assert names(None) == ()


def test_a_failure_takes_its_words_from_the_status_else_from_the_exception(span_of) -> None:
    told = ("exception", {"exception.type": "ToolRetryError", "exception.message": "no such file"})
    assert failure_of(span_of({})) is WELL
    failure = failure_of(span_of({}, error="", events=[told]))
    assert (failure.failed, failure.type, failure.message) == (True, "ToolRetryError", "no such file")
    failure = failure_of(span_of({"error.type": "RateLimitError"}, error="slow down", events=[told]))
    assert (failure.type, failure.message) == ("RateLimitError", "slow down")


def test_an_error_type_alone_is_a_failure_and_a_number_in_it_the_status(span_of) -> None:
    failure = failure_of(span_of({"error.type": "429"}))
    assert (failure.failed, failure.status_code) == (True, 429)
    assert failure_of(span_of({"http.response.status_code": 529, "error.type": "x"})).status_code == 529
