"""The language beyond plain matches: look-up files, CEL, messages with names in them, and what lint says of rules."""

from __future__ import annotations

import pytest

from otel_cost.core.model.attributes import PlainAttributes
from otel_cost.core.rules import load_rules
from otel_cost.core.rules.match import compile_match, lookup
from otel_cost.core.rules.template import filled, placeholders
from otel_cost.document import Mistakes, parse_document
from otel_cost.errors import DocumentError

NOW = 1_780_000_000 * 10**9  # in 2026


def read(files: dict[str, str]):
    def one(_document: object, name: str) -> str:
        if name not in files:
            raise LookupError(f"`{name}` cannot be read: No such file or directory\npaths are relative to this file")
        return files[name]

    return one


def loaded(text: str, files: dict[str, str] | None = None):
    return load_rules([parse_document(f"version: 1\n{text}", "r.yaml")], NOW, read(files or {}))


def said(text: str, files: dict[str, str] | None = None) -> str:
    with pytest.raises(DocumentError) as raised:
        loaded(text, files)
    return str(raised.value)


# --- Look-up files ---

TEAMS = '# who belongs where\nuser, team ,cost centre\nann,core,42\nbob@example.com,"web, shop",7\n\n'


def test_a_team_is_looked_up_by_the_user_that_is_told() -> None:
    identity = loaded(
        "identity: {user: [user.id], team: [team.id, {lookup: teams.csv, by: user}]}", {"teams.csv": TEAMS}
    ).identity
    assert identity.of(PlainAttributes({"user.id": "ann"})) == {"user": "ann", "team": "core"}
    assert identity.of(PlainAttributes({"user.id": "bob@example.com"}))["team"] == "web, shop"
    assert identity.of(PlainAttributes({"user.id": "ann", "team.id": "own"}))["team"] == "own"
    assert identity.of(PlainAttributes({"user.id": "nobody"})) == {"user": "nobody"}


def test_a_look_up_takes_what_the_client_told_where_the_rules_do_not_say_who_it_is() -> None:
    identity = loaded("identity: {team: [{lookup: t, by: user}]}", {"t": "user,team\nann,core"}).identity
    assert identity.of(PlainAttributes({}), known={"user": "ann"}) == {"team": "core"}


def test_look_ups_follow_each_other_whatever_their_order_and_may_go_by_an_attribute() -> None:
    text = """
identity:
  org: [{lookup: orgs.csv, by: team}]
  team: [{lookup: teams.csv, by: user.email}]
"""
    files = {"orgs.csv": "team,org\ncore,acme", "teams.csv": "user.email,team\na@x,core"}
    assert loaded(text, files).identity.of(PlainAttributes({"user.email": "a@x"})) == {"team": "core", "org": "acme"}


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({}, "r.yaml:2:28: identity.team[0].lookup: `t.csv` cannot be read: No such file"),
        ({"t.csv": ""}, "`t.csv` has no column `user`\n    the first line names the columns"),
        ({"t.csv": "user,group\na,b"}, "`t.csv` has no column `team`"),
        ({"t.csv": "user,team\na"}, "`t.csv` line 2: a column is missing"),
        ({"t.csv": "user,team\na,b\na,c"}, "`t.csv` line 3: `a` is given twice"),
    ],
)
def test_a_table_that_is_none_is_said_where_it_is_named(files: dict[str, str], what: str) -> None:
    assert what in said("identity: {team: [{lookup: t.csv, by: user}]}", files)


def test_look_ups_in_a_circle_are_refused() -> None:
    files = {"a": "user,team\nx,y", "b": "team,user\nx,y"}
    text = "identity: {team: [{lookup: a, by: user}], user: [{lookup: b, by: team}]}"
    assert "look-ups go in a circle: team, user" in said(text, files)


def test_rules_with_another_table_have_another_hash_and_a_secret_is_not_in_it() -> None:
    text = "identity: {team: [{lookup: t, by: user}]}"
    one, other = (loaded(text, {"t": f"user,team\nann,{team}"}).hash for team in ("core", "web"))
    assert one != other
    assert len(one) == 12


# --- CEL ---

FACTS = {"user": "ann", "model": "claude-opus-4-5", "cost_usd": 2, "failed": False, "tool": None}
GET = lookup(FACTS, PlainAttributes({"app.tries": "3", "app.tags": ["a", "b"]}), PlainAttributes({"k8s.ns": "prod"}))


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ('user == "ann" && cost_usd > 1.5', True),
        ("cost_usd >= 2", True),
        ('model.startsWith("claude") && model.matches("opus|sonnet")', True),
        ('user in ["bob", "eve"]', False),
        ('attr["app.tries"] == "3" && int(attr["app.tries"]) > 2', True),
        ("attr['app.tags'].exists(tag, tag == 'b')", True),
        ('attr["nothing"] == null && tool == null', True),
        ('resource["k8s.ns"] == "prod"', True),
        ("!failed", True),
        ('tool.startsWith("x")', False),  # of what is not told nothing can be asked
        ("cost_usd", False),  # not true, only a number
    ],
)
def test_an_expression_holds_or_does_not(expression: str, holds: bool) -> None:
    assert compile_match({"cel": expression})(GET) is holds


def test_an_expression_that_fails_is_counted_and_asked_only_when_the_rest_holds() -> None:
    match = compile_match({"cel": "tool > 3", "user": "bob"})
    (expression,) = match.expressions
    assert not match(GET)
    assert expression.errors == 0
    assert not compile_match({"cel": "tool > 3", "user": "ann"})(GET)
    assert not expression(GET)
    assert expression.errors == 1
    assert match.names == {"tool", "user"}


def test_attributes_that_an_expression_asks_for_are_kept() -> None:
    rules = loaded('budgets: [{name: b, limit: {usd: 1, window: 1d}, match: {cel: \'attr["app.x"] == "1"\'}}]')
    assert rules.attributes == {"attr:app.x"}


@pytest.mark.parametrize(
    ("expression", "what"),
    [
        ("usr == 'x'", "unknown name `usr`\n    did you mean `user`?"),
        ("user == ", "not CEL: mismatched input '<EOF>'"),
        ("user.startWith('x')", "unknown function `startWith`\n    did you mean `startsWith`?"),
        ("attr[user] == 'x'", "`attr` is asked by a plain key"),
        ("", "`cel` takes an expression"),
    ],
)
def test_an_expression_is_checked_when_it_loads(expression: str, what: str) -> None:
    text = f'loops: [{{name: a, detect: repeated_error, match: {{cel: "{expression}"}}}}]'
    assert f"r.yaml:2:56: loops[0].match.cel: {what}" in said(text)


def test_cel_inside_any_and_all() -> None:
    assert compile_match({"any": [{"cel": "user == 'x'"}, {"cel": "user == 'ann'"}]})(GET)
    with pytest.raises(Mistakes, match="unknown name"):
        compile_match({"any": [{"cel": "nope == 1"}]})


# --- Messages ---


def test_a_message_is_filled_with_what_is_known() -> None:
    known = {"spent_usd": "20.50", "route": ["a", "b"], "group": {"user": "ann"}, "empty": None, "text": "x\n y"}
    text = "{{spent_usd}} {{ route }} {{group}} {{empty}} {{nobody}} {{text}} {plain} {}"
    assert filled(text, known.get) == "20.50 a → b user ann unknown unknown x y {plain} {}"
    assert placeholders("{{a}} and {{ b.c }}") == ["a", "b.c"]


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        (
            "budgets: [{name: b, limit: {usd: 1, window: 1d}, at_limit: {do: [{ask: {text: '{{spend_usd}}'}}]}}]",
            "do[0].ask.text: unknown name `{{spend_usd}}` in a message\n    did you mean `spent_usd`?",
        ),
        ("loops: [{name: a, detect: repeated_error, do: [{warn: {text: '{{'}}]}]", "`{{` without a name and `}}`"),
        ("loops: [{name: a, detect: repeated_error, do: [{warn: {text: '{{limit_usd}}'}}]}]", "unknown name"),
    ],
)
def test_names_in_messages_are_checked(rule: str, what: str) -> None:
    assert what in said(rule)


# --- All mistakes at once ---


def test_a_mistake_in_one_rule_hides_none_in_the_others() -> None:
    out = said(
        """
budgets:
  - {name: ok, per: [user], limit: {usd: 1, window: 1d}, at_limit: {do: [{alert: nobody}]}}
  - {name: bad, per: [usr], limit: {usd: 1, window: 1d}}
  - 7
loops: {name: x}
exceptions:
  - {name: e, applies_to: [ok, bad, okk], exempt: true, expires: 2020-01-01T00:00:00Z, owner: o, reason: r}
lops: []
"""
    )
    assert [line.split(":")[1] for line in out.splitlines() if line.startswith("r.yaml")] == [
        "4", "5", "6", "7", "9", "9", "10",
    ]  # fmt: skip
    for what in (
        "unknown contact `nobody`",
        "unknown dimension `usr`",
        "a rule is a mapping",
        "loops: a mapping is not a list",
        "unknown rule `okk`\n    did you mean `ok`?",
        "expired: `e` has no effect any more\n    remove it, or ask o",
        "unknown key `lops`\n    did you mean `loops`?",
    ):
        assert what in out


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ("budgets: [{name: b, limit: {usd: 1e400, window: 1d}}]", "USD cannot be counted\n    from 0.000000001 to"),
        ("budgets: [{name: b, limit: {usd: 0.0000000001, window: 1d}}]", "USD cannot be counted"),
        ("budgets: [{name: b, limit: {usd: 1, window: 1d}, warn: [{at: 50}]}]", "`5000%` of the limit is no level"),
        ("budgets: [{name: b, limit: {usd: 1, window: 1d}, warn: [{at: 0%}]}]", "`0%` of the limit is no level"),
        (
            "budgets: [{name: b, limit: {usd: 1, window: 1d}, warn: [{burn_rate: 2, over: [0s]}]}]",
            "budgets[0].warn[0].over[0]: a stretch of no time",
        ),
        (
            "exceptions: [{name: e, applies_to: [], exempt: true, expires: 2030-01-01T00:00:00Z, owner: o, reason: r}]",
            "exceptions[0].applies_to: the list is empty\n    at least 1",
        ),
        ("budgets: [{name: b, limit: {usd: 1, window: 1d}, match: {user: {}}}]", "match.user: nothing is asked"),
        ("defaults: []", "r.yaml:2:11: defaults: a list is not a mapping"),
    ],
)
def test_values_that_make_no_sense(rule: str, what: str) -> None:
    out = said(rule)
    assert what in out
    assert out.count("r.yaml:") <= 2  # a wrong item and the list that is short of it


# --- Lint ---

B = "limit: {usd: 1, window: 1d}"
STOP = "at_limit: {hard_stop_at: 130%}"
E = "expires: 2027-01-01T00:00:00Z, owner: o, reason: r"


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        (f"budgets: [{{name: b, {B}, match: {{model: []}}}}]", "budgets[0].match.model: can never match"),
        (f"budgets: [{{name: b, {B}, match: {{team: {{eq: a, ne: a}}}}}}]", "nothing passes what is asked of `team`"),
        (f"budgets: [{{name: b, {B}, match: {{app.n: {{gt: 5, lt: 5}}}}}}]", "asked of `app.n`"),
        (f"budgets: [{{name: b, {B}, match: {{kind: inferense}}}}]", "asked of `kind`"),
        (f"budgets: [{{name: b, {B}, match: {{all: [{{team: []}}]}}}}]", "can never match"),
        (f"budgets: [{{name: b, {B}, match: {{not: {{}}}}}}]", "can never match"),
        (f"budgets: [{{name: b, {B}, match: {{user: {{exists: false, re: x}}}}}}]", "can never match"),
        (f"budgets: [{{name: b, {B}, match: {{cel: '1 > 2'}}}}]", "the expression is never true"),
        (
            f"budgets: [{{name: a, per: [user], {B}, {STOP}}}, {{name: b, per: [user], {B}, {STOP}}}]",
            "budgets[1].at_limit.hard_stop_at: a second hard stop on the scope user: `a` has one, too",
        ),
        (
            f"budgets: [{{name: a, {B}, {STOP}}}, {{name: b, {B}, at_limit: {{do: [{{stop: }}]}}}}]",
            "budgets[1].at_limit.do[0]: a second hard stop on the scope everyone together",
        ),
        (f"budgets: [{{name: a, {B}, at_limit: {{hard_stop_at: 90%}}}}]", "a hard stop before the limit"),
        (
            (f"budgets: [{{name: b, {B}, match: {{workflow: {{not: incident}}}}}}]\n"
            f"exceptions: [{{name: e, applies_to: [b], match: {{workflow: incident}}, exempt: true, {E}}}]"),
            "exceptions[0].match: can never match: what it matches does not count there\n    see `b`",
        ),
        (
            "escalation: [{name: e, models: ['*o*'], allow_if: {prior: {models: ['*o*']}}, else: {do: [{warn: }]}}]",
            "escalation[0].allow_if.prior.models: can never be allowed",
        ),
        (
            ("loops: [{name: l, detect: cycle}]\n"
            f"exceptions: [{{name: e, applies_to: [l], grant: {{usd: 1}}, {E}}}]"),
            "`l` has no limit that could be raised",
        ),
    ],
)  # fmt: skip
def test_rules_that_cannot_do_their_work(rule: str, what: str) -> None:
    assert what in said(rule)


@pytest.mark.parametrize(
    "rule",
    [
        f"budgets: [{{name: a, per: [user], {B}, {STOP}}}, {{name: b, per: [team], {B}, {STOP}}}]",
        f"budgets: [{{name: a, match: {{team: x}}, {B}, {STOP}}}, {{name: b, match: {{team: y}}, {B}, {STOP}}}]",
        f"budgets: [{{name: a, {B}, match: {{team: [x, 'y*'], app.n: {{gte: 5, lte: 5}}, user: {{exists: true}}}}}}]",
        f"budgets: [{{name: a, {B}, match: {{any: [{{team: []}}, {{team: x}}], kind: [inference, fee]}}}}]",
    ],
)
def test_rules_that_can(rule: str) -> None:
    assert loaded(rule).notes == ()


def test_what_may_be_meant_is_a_note() -> None:
    day, hour = B, B.replace("1d", "1h")
    rules = loaded(f"budgets: [{{name: a, per: [user], {hour}, {STOP}}}, {{name: b, per: [user], {day}, {STOP}}}]")
    (note,) = rules.notes
    assert "a second hard stop on the scope user" in str(note)
    assert "the windows differ" in str(note)


def test_the_service_loads_what_lint_calls_a_mistake_and_says_so() -> None:
    text = f"version: 1\nbudgets: [{{name: b, {B}, match: {{model: []}}}}]"
    (note,) = load_rules([parse_document(text, "r.yaml")]).notes
    assert "can never match" in str(note)
