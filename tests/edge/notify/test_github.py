"""One issue per thing that goes wrong, whatever happens in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from github_stub import GitHubStub
from otel_cost.edge.notify import build_sink
from otel_cost.edge.notify._contract import Refused, Unavailable
from otel_cost.edge.notify.github import GitHubIssues

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def alert(number: int, state: str = "firing", fingerprint: str = "fp1", **more: Any) -> dict[str, Any]:
    evidence = {
        "workflow": "fix-bug",
        "team": "@core",
        "baseline_usd": "0.4",
        "observed": "0.9",
        "extra_usd": "1.5",
        "runs": [{"run_id": "run/1", "trace_id": "ab" * 16, "cost_usd": "0.9", "start_time": "x"}],
        "changed": {
            "model_route": {"before": ["haiku"], "after": ["haiku", "opus"]},
            "tools_per_run": {"bash|x": {"before": "1", "after": "9"}},
        },
        "model_route": ["haiku", "opus"],
    }
    return {
        "id": f"{fingerprint}-{number}",
        "fingerprint": fingerprint,
        "rule": "workflow-drift",
        "state": state,
        "summary": "workflow fix-bug: a run costs 0.90 USD, was 0.40",
        "run_id": "run/1",
        "trace_id": "ab" * 16,
        "wasted_usd": "1.5",
        "evidence": evidence,
        **more,
    }


@pytest.fixture
def github() -> Iterator[GitHubStub]:
    stub = GitHubStub()
    yield stub
    stub.close()


def sink(stub: GitHubStub, file: Path | None = None, **settings: Any) -> GitHubIssues:
    made = build_sink("github", {"repo": stub.repo, "token": "t0ken", "url": stub.url, **settings})
    assert isinstance(made, GitHubIssues)
    if file is not None:
        made.remember_in(file)
    return made


def test_the_first_alert_opens_an_issue_and_the_next_are_comments(github: GitHubStub) -> None:
    issues = sink(github, assignees=["ann"])
    for number in (1, 1, 2, 2, 3):
        issues.send(alert(number, links={"run": "http://cost.example/runs/run/1"}))
    issues.send(alert(1, fingerprint="fp2"))
    assert [(one["number"], one["state"]) for one in github.issues.values()] == [(1, "open"), (2, "open")]
    assert len(github.comments[1]) == 2
    first = github.issues[1]
    assert first["labels"] == [{"name": "otel-cost"}]
    assert first["assignees"] == [{"login": "ann"}]
    for said in ("0.4", "0.9", "1.5", "`haiku → opus`", "http://cost.example/runs/run%2F1", "`bash x`", "`@core`"):
        assert said in first["body"], said
    assert "Again: " in github.comments[1][0]["body"]


def test_an_issue_that_was_closed_is_opened_again_by_the_next_alert_only(github: GitHubStub) -> None:
    issues = sink(github)
    issues.send(alert(1))
    github.issues[1]["state"] = "closed"
    issues.send(alert(1))
    assert github.issues[1]["state"] == "closed"
    issues.send(alert(1, "resolved", id="fp1-1-resolved"))
    assert (github.issues[1]["state"], len(github.comments[1])) == ("closed", 1)
    issues.send(alert(2))
    assert (github.issues[1]["state"], len(github.comments[1]), len(github.issues)) == ("open", 2, 1)


def test_what_is_over_without_having_been_told_needs_no_issue(github: GitHubStub) -> None:
    sink(github).send(alert(1, "resolved"))
    assert github.posted() == []


@pytest.mark.parametrize("keeps_notes", [True, False])
def test_after_a_restart_nothing_is_posted_twice(github: GitHubStub, tmp_path: Path, keeps_notes: bool) -> None:
    file = tmp_path / "sinks" / "github.json" if keeps_notes else None
    first = sink(github, file)
    first.send(alert(1))
    first.send(alert(2))
    second = sink(github, file)
    for number in (1, 2, 2, 1):
        second.send(alert(number))
    assert github.posted() == ["POST /repos/acme/agents/issues", "POST /repos/acme/agents/issues/1/comments"]
    second.send(alert(3))
    assert (len(github.issues), len(github.comments[1])) == (1, 2)


@pytest.mark.parametrize("damage", ["", "{", '{"fp1": {}}', '{"fp1": {"number": 77, "told": []}}'])
def test_damaged_or_wrong_notes_are_made_good_from_what_is_at_github(
    github: GitHubStub, tmp_path: Path, damage: str
) -> None:
    sink(github).send(alert(1))
    (tmp_path / "notes.json").write_text(damage)
    issues = sink(github, tmp_path / "notes.json")
    issues.send(alert(1))
    issues.send(alert(2))
    assert (len(github.issues), len(github.comments[1])) == (1, 1)


@pytest.mark.parametrize("number", [1, 2])
def test_an_answer_that_got_lost_is_not_asked_for_twice(github: GitHubStub, number: int) -> None:
    issues = sink(github)
    if number == 2:
        issues.send(alert(1))
    github.lose_answer = True
    with pytest.raises(Unavailable):
        issues.send(alert(number))
    issues.send(alert(number))
    assert (len(github.issues), len(github.comments[1])) == (1, number - 1)


def test_an_issue_is_found_among_hundreds_and_without_its_label(github: GitHubStub) -> None:
    sink(github).send(alert(1))
    for number in range(2, 260):
        sink_body = {"title": "x", "body": "other", "labels": ["otel-cost"]}
        github._create(sink_body)
        assert number in github.issues
    sink(github).send(alert(1))
    assert len(github.issues) == 259
    other = GitHubStub(may_label=False)
    try:
        sink(other).send(alert(1))
        sink(other).send(alert(1))
        assert len(other.issues) == 1
    finally:
        other.close()


def test_a_deleted_issue_is_written_anew(github: GitHubStub) -> None:
    issues = sink(github)
    issues.send(alert(1))
    del github.issues[1]
    github.issues[5] = {"number": 5, "body": "", "labels": [], "state": "open"}
    issues.send(alert(2))
    assert [one["state"] for number, one in github.issues.items() if number != 5] == ["open"]


def test_somebody_who_cannot_be_assigned_keeps_nobody_from_knowing(github: GitHubStub) -> None:
    sink(github, assignees=["nobody"]).send(alert(1))
    assert github.issues[1]["assignees"] == []


@pytest.mark.parametrize(
    ("status", "headers", "said", "wait_s"),
    [
        (403, {"retry-after": "7"}, "You have exceeded a secondary rate limit", 7.0),
        (403, {}, "You have exceeded a secondary rate limit. Please wait", 60.0),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "0"}, "API rate limit exceeded", 0.0),
        (429, {"retry-after": "3"}, "", 3.0),
        (502, {}, "", None),
    ],
)
def test_limits_and_outages_are_for_later(
    github: GitHubStub, status: int, headers: dict[str, str], said: str, wait_s: float | None
) -> None:
    issues = sink(github)
    github.next_answers = [(status, headers, {"message": said})]
    with pytest.raises(Unavailable) as caught:
        issues.send(alert(1))
    assert caught.value.retry_after_s == wait_s
    issues.send(alert(1))
    assert len(github.issues) == 1


@pytest.mark.parametrize(
    ("status", "said"), [(401, "Bad credentials"), (403, "Resource not accessible"), (404, "Not Found")]
)
def test_what_will_never_work_is_refused_with_githubs_word(github: GitHubStub, status: int, said: str) -> None:
    github.next_answers = [(status, {}, {"message": said})] * 3
    with pytest.raises(Refused, match=said) as caught:
        sink(github).send(alert(1))
    assert caught.value.reason == f"http_{status}"


def test_disabled_issues_and_unreachable_hosts(github: GitHubStub) -> None:
    github.disabled = True
    with pytest.raises(Refused, match="disabled"):
        sink(github).send(alert(1))
    with pytest.raises(Unavailable):
        sink(github, url="http://127.0.0.1:9").send(alert(1))


def test_a_renamed_repository_is_followed_and_the_token_goes_nowhere_else(github: GitHubStub) -> None:
    moved = f"{github.url}/repos/acme/agents/issues?state=all&labels=otel-cost&per_page=100&page=1"
    github.next_answers = [(301, {"location": moved}, {})]
    sink(github).send(alert(1))
    assert len(github.issues) == 1
    github.next_answers = [(301, {"location": "http://evil.example/"}, {"message": "Moved"})]
    with pytest.raises(Refused):
        sink(github).send(alert(1, fingerprint="fp9"))


def test_nothing_a_sender_wrote_names_people_or_breaks_the_text(github: GitHubStub) -> None:
    evil = alert(1, summary="@everyone see #1 <img> [x](http://evil) | `", run_id="@bob`|\n# hi")
    evil["evidence"] |= {"workflow": "@all`\n|", "huge": "x" * 100, "runs": []}
    sink(github).send(evil)
    body = github.issues[1]["body"]
    prose = "".join(part for index, part in enumerate(body.split("`")) if index % 2 == 0)
    assert "@everyone" not in body
    assert "@" not in prose.replace("@\N{ZERO WIDTH NON-JOINER}", "")
    assert "<img>" not in body
    assert "](" not in body
    long = alert(2, summary="y" * 300, fingerprint="fp3")
    long["evidence"]["runs"] = [{"run_id": "r" * 400, "trace_id": "t", "cost_usd": "1"}] * 1000
    sink(github).send(long)
    assert "fingerprint=fp3 " in github.issues[2]["body"]
