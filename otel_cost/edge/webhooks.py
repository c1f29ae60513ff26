"""Webhooks: what GitHub tells of finished work, as outcomes. A body is believed only with the right signature."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.model.outcome import Outcome, Result
from otel_cost.core.outcomes import decided, keys_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from otel_cost.core.outcomes import OutcomeRule

# The object of each event that says where the work is.
_OBJECTS: Final = {
    "pull_request": "pull_request",
    "issues": "issue",
    "check_run": "check_run",
    "check_suite": "check_suite",
    "workflow_run": "workflow_run",
    "deployment_status": "deployment",
}
_MOST_FACTS: Final = 2000
_LONGEST: Final = 500
_CLOSES: Final = re.compile(r"\b(?:close[sd]?|fix(?:e[sd])?|resolve[sd]?):?\s+#(\d{1,9})\b", re.IGNORECASE)


def is_signed(body: bytes, signature: str | None, secret: str) -> bool:
    """Does `X-Hub-Signature-256` fit? Compared in constant time, over the bytes as they came."""
    expected = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), (signature or "").strip().encode("utf-8", "replace"))


def github_outcomes(
    event: str, payload: Mapping[str, Any], rules: Sequence[OutcomeRule], tenant: str, now_ns: int
) -> list[Outcome]:
    """What a delivery says of finished work: by the rules for its event, else as GitHub's own events are meant.

    A pull request that is merged is a success of `merged_pr`, one that is closed
    without is a failure; an issue closed as completed is a success of `resolved_ticket`,
    closed as not planned it says nothing. Told again, or reopened and closed again, it is the same outcome.
    """
    pattern = f"{event}.{payload['action']}" if isinstance(payload.get("action"), str) else event
    thing = payload.get(_OBJECTS.get(event, event))
    thing = thing if isinstance(thing, dict) else {}
    facts = dict(_facts(payload)) | {key: value for key, value in thing.items() if _is_plain(value)}
    found = [(rule.name, value, rule.joins) for rule, value in decided(rules, pattern, facts)]
    if not any(rule.origin == "github" and rule.pattern == pattern for rule in rules):
        found = [(name, value, frozenset[str]()) for name, value in _meant(pattern, thing)]
    if not found:
        return []
    repository = _text(payload.get("repository"), "full_name")
    keys = _keys(event, payload, thing, repository)
    number = thing.get("number", thing.get("id"))
    subject = f"{repository or ''}#{number}" if number is not None else repository or event
    return [
        Outcome(
            id=hashlib.blake2b(f"{tenant}\0github\0{event}\0{subject}\0{name}".encode(), digest_size=12).hexdigest(),
            tenant=tenant,
            name=name,
            value=value,
            at_ns=_at_ns(thing, now_ns),
            source="github",
            keys=tuple(key for key in keys if not joins or key.partition(":")[0] in joins),
            subject=subject[:_LONGEST],
            url=(_text(thing, "html_url") or "")[:_LONGEST] or None,
        )
        for name, value, joins in found
    ]


def _meant(pattern: str, thing: Mapping[str, Any]) -> Iterator[tuple[str, Result]]:
    if pattern == "pull_request.closed":
        yield "merged_pr", Result.SUCCESS if thing.get("merged") is True else Result.FAILURE
    if pattern == "pull_request.reopened":
        yield "merged_pr", Result.UNKNOWN
    if pattern == "issues.reopened":
        yield "resolved_ticket", Result.UNKNOWN
    if pattern == "issues.closed":
        reason = thing.get("state_reason")
        yield "resolved_ticket", Result.SUCCESS if reason in {None, "completed"} else Result.UNKNOWN


def _keys(event: str, payload: Mapping[str, Any], thing: Mapping[str, Any], repository: str | None) -> tuple[str, ...]:
    """Branch, commits and tickets that a delivery is about."""
    raw_head = thing.get("head")
    head: Mapping[str, Any] = raw_head if isinstance(raw_head, dict) else {}
    branch = _text(head, "ref") or _text(thing, "head_branch")
    if branch is None and str(payload.get("ref", "")).startswith("refs/heads/"):
        branch = str(payload["ref"])
    commits = [_text(head, "sha"), _text(thing, "head_sha"), _text(thing, "merge_commit_sha"), _text(payload, "after")]
    tickets: list[str] = []
    if isinstance(thing.get("number"), int):
        tickets.append(str(thing["number"]))
    if event == "pull_request":
        tickets += _CLOSES.findall((_text(thing, "title") or "") + "\n" + (_text(thing, "body") or ""))[:20]
    keys = list(keys_of(branch=branch, repository=repository))
    for commit in commits:
        keys += keys_of(commit=commit)
    for ticket in tickets:
        keys += keys_of(ticket=ticket, repository=repository)
    return tuple(dict.fromkeys(keys))


def _facts(payload: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Every plain value of a payload under its dotted path."""
    left = [("", payload)]
    count = 0
    while left:
        prefix, here = left.pop()
        for key, value in here.items():
            if isinstance(value, dict):
                left.append((f"{prefix}{key}.", value))
            elif _is_plain(value):
                yield f"{prefix}{key}", value
                count += 1
                if count >= _MOST_FACTS:
                    return


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool)


def _text(thing: object, key: str) -> str | None:
    value = thing.get(key) if isinstance(thing, dict) else None
    return value if isinstance(value, str) and value else None


def _at_ns(thing: Mapping[str, Any], now_ns: int) -> int:
    """When it was closed; an open thing has been told of just now."""
    for key in ("merged_at", "closed_at", "completed_at", "updated_at"):
        said = _text(thing, key)
        if said is not None:
            try:
                return round(datetime.fromisoformat(said).timestamp()) * 10**9
            except (ValueError, OverflowError):
                continue
    return now_ns


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: it is none.
    """
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  # what json.loads raises for other bodies
    return value
