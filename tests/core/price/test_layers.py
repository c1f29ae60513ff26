"""Layers: later wins rate by rate; a file with mistakes says where; the id is of the content."""

from __future__ import annotations

import pytest
from price_helper import called, shipped, usd, written

from otel_cost.core.model.vocabulary import Kind
from otel_cost.core.price import compile_book, layer_of, upstream_layer
from otel_cost.document import parse_document
from otel_cost.errors import DocumentError

LIST = """
version: 1
source: https://example.com/prices
providers:
  - id: seller
    models:
      - id: m
        prices:
          - {input_mtok: 1, output_mtok: 2}
"""


def extended(text: str) -> str:
    return f"version: 1\nsource: contract of 2026\n{text}"


def test_a_later_layer_wins_rate_by_rate_from_its_start_on() -> None:
    later = extended(
        "providers: [{id: seller, models: [{id: m, prices: [{output_mtok: 1, from: 2026-01-01T00:00:00Z}]}]}]"
    )
    book = written(LIST, later)
    assert usd(book, called("seller", "m", at="2025-12-31T23:59:59.999999999Z")) == "0.012"
    assert usd(book, called("seller", "m", at="2026-01-01T00:00:00Z")) == "0.011"
    assert usd(written(later, LIST), called("seller", "m")) == "0.012"


def test_a_price_can_be_taken_away_and_a_model_replaced() -> None:
    none = extended("providers: [{id: seller, models: [{id: m, prices: [{output_mtok: null}]}]}]")
    assert usd(written(LIST, none), called("seller", "m")) == "no_rate"
    alone = extended(
        "providers: [{id: seller, models: [{id: m, alone: true, prices: [{input_mtok: 9, from: 2026-06-01}]}]}]"
    )
    assert usd(written(LIST, alone), called("seller", "m", at="2026-05-01")) == "before_first_price"
    gone = extended("providers: [{id: seller, models: [{id: m, remove: true}]}]")
    assert usd(written(LIST, gone), called("seller", "m")) == "unknown_model"


def test_the_users_own_names() -> None:
    mine = extended(
        "aliases: {providers: {our-gateway: openai}, models: [{provider: azure, deployment: prod, model: gpt-5-mini}]}"
    )
    book = compile_book([upstream_layer(), layer_of(parse_document(mine, "mine.yaml"))])
    assert usd(book, called("our-gateway", "gpt-5-mini")) == "0.0045"
    assert usd(book, called("azure.ai.openai", "Prod")) == "0.0045"
    assert usd(book, called("azure.ai.openai", "other")) == "unknown_model"


def test_contracts_by_tenant() -> None:
    book = written(LIST, extended("discounts: [{provider: seller, tenant: acme, x: 0.8, from: 2026-01-01}]"))
    assert usd(book, called("seller", "m", tenant="acme")) == "0.0096"
    assert usd(book, called("seller", "m", tenant="other")) == "0.012"
    assert usd(book, called("seller", "m", tenant="acme", at="2025-01-01")) == "0.012"


def test_context_tells_what_the_span_does_not() -> None:
    book = written(
        LIST,
        extended(
            "providers: [{id: seller, multipliers: [{when: {processing: batch}, x: 0.5}]}]\n"
            "context: [{match: {service.name: nightly-*}, set: {processing: batch}}]"
        ),
    )
    assert usd(book, called("seller", "m", who={"service.name": "nightly-7"})) == "0.006"
    assert usd(book, called("seller", "m")) == "0.012"


def test_fees_for_people_machines_and_tools() -> None:
    book = written(
        extended(
            """
fees:
  - {id: review, match: {span.name: human_review}, per: hour, quantity: duration, usd: 85, kind: human}
  - {id: sandbox, match: {tool: run_*}, per: minute, quantity: duration, quantum: 1m, minimum: 5m, usd: 0.01}
  - {id: scrape, match: {tool: scrape, kind: tool}, usd: 0.002}
"""
        )
    )

    def used(seconds: int, **told: object) -> str:
        start = 1_790_000_000 * 10**9
        step = called(None, None, usage=None, **({"kind": Kind.TOOL} | told))
        step.start_ns, step.end_ns = start, start + seconds * 10**9
        return usd(book, step)

    assert used(1800, name="human_review", kind=Kind.FEE) == "42.5"
    assert used(61, tool="run_tests") == "0.05"
    assert used(301, tool="run_tests") == "0.06"
    assert used(1, tool="scrape") == "0.002"
    assert used(1, tool="other") == "no_rate"


def test_a_list_may_say_anew_whose_prices_hold_beside_it() -> None:
    shop = "providers: [{id: shop, follows: [seller], models: []}]"
    assert usd(written(LIST, extended(shop)), called("shop", "m")) == "0.012"
    assert usd(
        written(LIST, extended(shop), extended("providers: [{id: shop, follows: []}]")), called("shop", "m")
    ) == ("unknown_model")
    assert usd(written(LIST, extended(shop), extended("providers: [{id: shop}]")), called("shop", "m")) == "0.012"


def test_a_price_names_its_source_its_day_and_who_took_it() -> None:
    row = "{input_mtok: 1, output_mtok: 1, source: their page, read: 2026-10-21, by: ann@example.com}"
    book = written(f"version: 1\nproviders: [{{id: seller, models: [{{id: m, prices: [{row}]}}]}}]")
    assert {item.source for item in book.charge(called("seller", "m")).items} == {
        "their page (read 2026-10-21, by ann@example.com)"
    }


def test_the_id_is_of_the_content() -> None:
    assert written(LIST).id == written(LIST).id
    elsewhere = compile_book([layer_of(parse_document(LIST, "/srv/prices/ours.yaml"))])
    assert elsewhere.id == written(LIST).id
    assert written(LIST).id != written(LIST.replace("input_mtok: 1", "input_mtok: 1.1")).id
    assert len(shipped().id) == 64


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (
            "version: 1\nproviders:\n  - id: s\n    models:\n    - id: m\n      prices:\n          - {input_mtok: 1}\n",
            "mine.yaml:7:13",
            "no source is given",
        ),
        (
            extended(
                "providers: [{id: s, models: [{id: m, prices: [{input_mtok: 1}, {input_mtok: 2, from: 2026-01-01}]}]}]"
            ),
            "mine.yaml:3:77",
            "two prices at the same time",
        ),
        (extended("providers: [{id: s, modles: []}]"), "mine.yaml:3:21", "unknown key `modles`"),
        (
            extended("providers: [{id: s, models: [{id: m, prices: [{input_mtoks: 1}]}]}]"),
            "mine.yaml:3:48",
            "unknown key `input_mtoks`",
        ),
        (
            extended("providers: [{id: s, models: [{id: m, prices: [{input_mtok: 1, from: never}]}]}]"),
            "mine.yaml:3:69",
            "is not a time",
        ),
        (
            extended("fees: [{id: f, match: {tool: t}, usd: 1, quantity: tool.pages}]"),
            "mine.yaml:3:52",
            "not a quantity that a step tells",
        ),
        (
            extended("providers: [{id: s, models: [{id: m, prices: [{input_mtok: -1}]}]}]"),
            "mine.yaml:3:60",
            "at least 0",
        ),
        (
            extended(
                "providers: [{id: s, models: [{id: m, prices: [{input_mtok: 1, from: 2026-02-01, to: 2026-01-01}]}]}]"
            ),
            "mine.yaml:3:85",
            "not after `from`",
        ),
    ],
)
def test_a_mistake_is_shown_at_its_place(text: str, place: str, message: str) -> None:
    with pytest.raises(DocumentError) as raised:
        layer_of(parse_document(text, "mine.yaml"))
    assert str(raised.value).startswith(place)
    assert message in str(raised.value)


def test_windows_that_share_no_hour_do_not_overlap() -> None:
    book = written(
        extended(
            """
providers:
  - id: seller
    models:
      - id: m
        prices:
          - {input_mtok: 1, output_mtok: 0, daily: {from: "08:00", to: "20:00"}}
          - {input_mtok: 3, output_mtok: 0, daily: {from: "20:00", to: "08:00"}}
"""
        )
    )
    assert usd(book, called("seller", "m", at="2026-11-01T19:59:59.9Z")) == "0.01"
    assert usd(book, called("seller", "m", at="2026-11-01T20:00:00Z")) == "0.03"
    assert usd(book, called("seller", "m", at="2026-11-02T07:59:59.9Z")) == "0.03"
