"""GitHub's webhooks as outcomes."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from otel_cost.core.outcomes import joins_of
from otel_cost.core.rules import load_rules
from otel_cost.document import parse_document
from otel_cost.edge.webhooks import github_outcomes, is_signed

NOW = 1_790_000_000 * 10**9
REPOSITORY = {"full_name": "acme/shop"}


def closed_pr(**said: object) -> dict[str, object]:
    pull = {
        "number": 12,
        "merged": True,
        "merged_at": "2026-11-02T10:00:00Z",
        "closed_at": "2026-11-02T10:00:00Z",
        "merge_commit_sha": "ffff",
        "head": {"ref": "fix/cart", "sha": "ABCD"},
        "html_url": "https://github.com/acme/shop/pull/12",
        "title": "Fix the cart",
        "body": "Fixes #7, resolves: #8",
        **said,
    }
    return {"action": "closed", "pull_request": pull, "repository": REPOSITORY, "number": 12}


def test_a_signature_is_checked_over_the_bytes() -> None:
    body = b'{"a": 1}'
    good = "sha256=" + hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    assert is_signed(body, good, "s3cret")
    assert not is_signed(body + b" ", good, "s3cret")
    assert not is_signed(body, good, "other")
    for wrong in (None, "", "sha1=abc", "sha256=é"):
        assert not is_signed(body, wrong, "s3cret")


def test_a_merged_pull_request_is_a_success_of_its_branch_commits_and_tickets() -> None:
    (one,) = github_outcomes("pull_request", closed_pr(), (), "default", NOW)
    assert (one.name, one.value, one.source, one.subject) == ("merged_pr", "success", "github", "acme/shop#12")
    assert (one.url, one.at_ns) == ("https://github.com/acme/shop/pull/12", 1_793_613_600 * 10**9)
    for said in (
        {"vcs.ref.head.name": "fix/cart"},
        {"vcs.ref.head.revision": "abcd"},
        {"vcs.change.id": "12", "vcs.repository.name": "shop"},
        {"ticket.id": "7"},
        {"issue.id": "acme/shop#8"},
    ):
        assert joins_of(said) & set(one.keys), said
    assert not joins_of({"ticket.id": "7", "vcs.repository.name": "other"}) & set(one.keys)


def test_told_again_it_is_the_same_and_reopened_it_is_open() -> None:
    (merged,) = github_outcomes("pull_request", closed_pr(), (), "default", NOW)
    (again,) = github_outcomes("pull_request", closed_pr(), (), "default", NOW + 5)
    assert again == merged
    (dropped,) = github_outcomes("pull_request", closed_pr(merged=False, merged_at=None), (), "default", NOW)
    assert (dropped.id, dropped.value) == (merged.id, "failure")
    reopened = closed_pr(merged_at=None, closed_at=None, updated_at="2026-11-03T10:00:00Z") | {"action": "reopened"}
    (open_,) = github_outcomes("pull_request", reopened, (), "default", NOW)
    assert (open_.id, open_.value) == (merged.id, "unknown")
    assert open_.at_ns > merged.at_ns


@pytest.mark.parametrize(("reason", "value"), [("completed", "success"), (None, "success"), ("not_planned", "unknown")])
def test_a_closed_issue_is_a_resolved_ticket(reason: str | None, value: str) -> None:
    issue = {"number": 7, "state_reason": reason, "closed_at": "2026-11-02T10:00:00Z"}
    told = {"action": "closed", "issue": issue, "repository": REPOSITORY}
    (one,) = github_outcomes("issues", told, (), "default", NOW)
    assert (one.name, one.value) == ("resolved_ticket", value)
    assert joins_of({"ticket.id": "shop#7"}) & set(one.keys)


def test_rules_say_which_events_count_and_by_what_they_join() -> None:
    text = """
version: 1
outcomes:
  - name: merged
    from: {webhook: github, event: pull_request.closed, if: merged}
    join: [vcs.ref.head.name]
    value: success
  - name: ci
    from: {webhook: github, event: check_suite.completed, if: {conclusion: success}}
    join: [vcs.ref.head.name, vcs.ref.head.revision]
    value: success
    else: failure
"""
    rules = load_rules([parse_document(text, "r.yaml")]).outcomes
    (one,) = github_outcomes("pull_request", closed_pr(), rules, "default", NOW)
    assert one.name == "merged"
    assert {key.partition(":")[0] for key in one.keys} == {"branch"}
    assert github_outcomes("pull_request", closed_pr(merged=False), rules, "default", NOW) == []
    suite = {"id": 5, "conclusion": "failure", "head_branch": "fix/cart", "head_sha": "abcd"}
    told = {"action": "completed", "check_suite": suite, "repository": REPOSITORY}
    (ci,) = github_outcomes("check_suite", told, rules, "default", NOW)
    assert (ci.name, ci.value) == ("ci", "failure")
    assert "commit:abcd" in ci.keys


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        ("ping", {"zen": "x"}),
        ("pull_request", {"action": "opened", "pull_request": {"number": 1}}),
        ("pull_request", {"action": 3, "pull_request": "x", "repository": []}),
        ("issues", {"action": "closed", "issue": None, "repository": None}),
    ],
)
def test_anything_else_is_nothing_or_harmless(event: str, payload: dict[str, object]) -> None:
    for one in github_outcomes(event, payload, (), "default", NOW):
        assert one.keys == ()
