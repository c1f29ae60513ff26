"""YAML with positions: what is read, and what a mistake looks like."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from otel_cost.document import Document, expand, merge, parse_document, path_text, validate
from otel_cost.errors import DocumentError


class Window(BaseModel):
    model_config = ConfigDict(extra="forbid")
    usd: Annotated[Decimal, Field(gt=0)]
    kind: Literal["rolling", "calendar"] = "rolling"
    count: int | list[str] = 1
    token: SecretStr | None = None


class File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    limits: list[Window] = []
    named: dict[str, Window] = {}


def problems_in(text: str, model: type[BaseModel] = File) -> list[str]:
    with pytest.raises(DocumentError) as raised:
        validate(parse_document(text, "f.yaml"), model)
    return [str(problem) for problem in raised.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[yes, no, on, off, y]", ["yes", "no", "on", "off", "y"]),
        ("[true, false, True]", [True, False, True]),
        ("[010, 0x1f, 0o17, -3]", [10, 31, 15, -3]),
        ("[1_000, 12:30:00, 2026-01-01]", ["1_000", "12:30:00", "2026-01-01"]),
        ("[null, ~, ]", [None, None]),
        ("'0.56'", "0.56"),
        ("{1: a, on: b, null: c}", {"1": "a", "on": "b", "null": "c"}),
        ("x: &a [1]\ny: *a", {"x": [1], "y": [1]}),
        ("", None),
    ],
)
def test_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    read = parse_document(text, "f.yaml").value
    assert read == value
    assert repr(read) == repr(value)  # True is not 1


@given(st.decimals(allow_nan=False, allow_infinity=False, places=18, min_value=0, max_value=10**12))
def test_money_is_what_was_written(amount: Decimal) -> None:
    text = format(amount, "f")
    document = parse_document(f"limits: [{{usd: {text}}}]", "f.yaml")
    if amount > 0:
        assert validate(document, File).limits[0].usd == amount
    assert format(document.at(("limits", 0, "usd")), "f") == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_what_a_yaml_writer_writes_is_read_back_and_placed(value: object) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    document = parse_document(text, "f.yaml")
    assert document.value == value
    lines = text.splitlines()
    for path in document.places:
        line, column = document.position(path)
        assert 1 <= line <= len(lines) + 1
        assert column >= 1


def test_every_mistake_at_once_in_file_order_with_the_way_out() -> None:
    text = "limits:\n  - {usd: 0, kind: roling}\n  - cuont: 1\nnamd: {}\n"
    assert problems_in(text) == [
        "f.yaml:2:11: limits[0].usd: `0` must be greater than 0",
        "f.yaml:2:20: limits[0].kind: `roling` is not allowed\n    did you mean `rolling`? allowed: rolling, calendar",
        "f.yaml:3:5: limits[1]: `usd` is missing",
        "f.yaml:3:5: limits[1].cuont: unknown key `cuont`\n    did you mean `count`? allowed: usd, kind, count, token",
        "f.yaml:4:1: namd: unknown key `namd`\n    did you mean `named`? allowed: limits, named",
    ]


def test_members_of_a_union_complain_with_one_voice() -> None:
    assert problems_in("named: {a b: {usd: 1, count: x}}") == [
        'f.yaml:1:30: named["a b"].count: `x` is not a whole number or a list'
    ]


def test_a_secret_is_not_quoted_in_a_message() -> None:
    (said,) = problems_in("limits: [{usd: 1, token: 12345}]")
    assert "12345" not in said
    assert "put it in quotes" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2", "f.yaml:2:1: a: key `a` is given twice\n    first at line 1"),
        ("a: [1", "f.yaml:2:1: not YAML"),
        ("a:\n\t- 1", "spaces for indentation, no tabs"),
        ("a: 1\n---\nb: 2", "one document per file"),
        ("a: !!python/object:os.system x", "tag `tag:yaml.org,2002:python/object:os.system` is not supported"),
        ("a: !secret x", "tag `!secret` is not supported"),
        ("? [a]\n: 1", "a key must be plain text"),
        ("a: &a [*a]", "nested deeper"),
        ("[" * 100 + "]" * 100, "nested deeper"),
        ("a: \x00", "f.yaml:1:"),
        ("a: " + "9" * 5000, "is not what its tag says"),
        ("x: {a: ${env:A}}", 'write it in quotes: "${env:NAME}"'),
    ],
)
def test_what_is_no_document_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(DocumentError) as raised:
        parse_document(text, "f.yaml")
    assert said in str(raised.value)


def test_a_few_lines_cannot_name_billions_of_values() -> None:
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 12))
    with pytest.raises(DocumentError, match="more than"):
        parse_document(f"l0: &l0 [x]\n{levels}", "f.yaml")


def test_position_of_what_is_not_there_is_the_nearest_that_is() -> None:
    document = parse_document("a:\n  - b: 1\n", "f.yaml")
    assert document.position(("a", 0, "b")) == (2, 8)
    assert document.position(("a", 0, "c", "d")) == (2, 5)
    assert path_text(("a", 0, "b c", "d/e")) == 'a[0]["b c"].d/e'


def resolve(scheme: str, argument: str) -> str:
    return {"env:A": "1", "env:SECRET": "hunter2"}[f"{scheme}:{argument}"]


def test_expansion_is_text_once_and_remembers_what_was_written() -> None:
    document = expand(parse_document('{a: "${env:A}", b: "$$${env:A}-$$ $x", c: "${A}"}', "f.yaml"), resolve)
    assert document.value == {"a": "1", "b": "$1-$ $x", "c": "1"}
    secret = expand(parse_document('limits: [{usd: "${env:SECRET}"}]', "f.yaml"), resolve)
    with pytest.raises(DocumentError) as raised:
        validate(secret, File)
    assert "hunter2" not in str(raised.value)
    assert "${env:SECRET}" in str(raised.value)


def test_an_expanded_number_is_read_where_a_number_is_wanted() -> None:
    document = expand(parse_document('limits: [{usd: "${env:A}", count: "${env:A}"}]', "f.yaml"), resolve)
    assert validate(document, File).limits[0].usd == 1


def test_later_documents_win_key_by_key_and_keep_their_places() -> None:
    first = parse_document("a: {x: 1, y: [1, 2]}\nb: 1", "one.yaml")
    second = parse_document("a: {y: [3]}", "two.yaml")
    merged = merge([first, Document("empty.yaml", None, {}), second])
    assert merged.value == {"a": {"x": 1, "y": [3]}, "b": 1}
    assert merged.place(("a", "x")).source == "one.yaml"
    assert merged.place(("a", "y", 0)) == ("two.yaml", 1, 9)
    assert merged.place(("a", "y", 1)).source == "two.yaml"
