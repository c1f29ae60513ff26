"""Sink `github`: one issue per thing that goes wrong, a bug report with a dollar sign.

An alert's fingerprint has one issue for ever: the first alert opens it, what comes
later is a comment, and one that comes after somebody has closed it opens it again.
What was posted is known from two sides: our own notes (issue numbers, alerts told),
and, should these be lost or older than the last crash, marks in the issue's and its
comments' text, which are looked for before anything is written. Creating is not
idempotent at GitHub, so nothing is created that was not looked for first.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

import urllib3

from otel_cost.core.rules.kinds.contacts import GitHub as Settings
from otel_cost.edge.export._answers import retry_after
from otel_cost.edge.notify import register
from otel_cost.edge.notify._contract import Refused, SinkKind, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_PAGE: Final = 100  # what GitHub gives at most
_MOST_PAGES: Final = 30
_TOLD: Final = 500  # alerts remembered per issue
_BODY: Final = 60_000  # GitHub takes 65,536 characters
_TITLE: Final = 240
_TIMEOUT: Final = urllib3.Timeout(connect=10.0, read=30.0)
_GONE: Final = frozenset({404, 410})
_MOST_BYTES: Final = 16 * 2**20


class _Answer(Exception):  # noqa: N818  # an answer that is no success; whoever asked knows what it means
    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


class GitHubIssues:
    """Issues of one repository. Safe to use from several threads; they take turns."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._notes: dict[str, dict[str, Any]] = {}  # fingerprint → {number, told: [alert id]}
        self._file: Path | None = None
        self._http = urllib3.PoolManager(retries=False, timeout=_TIMEOUT)
        self._headers = {
            "accept": "application/vnd.github+json",
            "authorization": f"Bearer {settings.token.get_secret_value()}",
            "user-agent": "otel-cost",
            "x-github-api-version": "2022-11-28",
        }

    def remember_in(self, file: Path) -> None:
        """Keep notes in a file; without one they are found again at GitHub after a restart."""
        with self._lock:
            self._file = file
            try:
                noted = json.loads(file.read_text(encoding="utf-8"))
                self._notes = {
                    fingerprint: {"number": int(note["number"]), "told": list(note["told"])}
                    for fingerprint, note in noted.items()
                }
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                self._notes = {}

    def send(self, message: Mapping[str, object]) -> None:
        """As `Sink.send`; the same alert again is not posted again."""
        fingerprint, alert = str(message.get("fingerprint", "")), str(message.get("id", ""))
        if not fingerprint or not alert:
            return  # a correction, or something else that has no issue
        with self._lock:
            try:
                self._tell(message, fingerprint, alert)
            except _Answer as answer:
                raise Refused(f"GitHub answers {answer.status}: {answer}", f"http_{answer.status}") from answer

    def close(self) -> None:
        """Connections close with the process."""
        self._http.clear()

    # ---- one alert ---------------------------------------------------------------

    def _tell(self, message: Mapping[str, object], fingerprint: str, alert: str) -> None:
        note = self._notes.get(fingerprint)
        if note is not None and alert in note["told"]:
            return
        issue = self._known(note) or self._looked_up(fingerprint)
        firing = message.get("state") == "firing"
        if issue is None:
            if not firing:
                return  # nothing was ever said of it here
            issue = self._create(message, fingerprint, alert)
        elif f"alert={alert} " not in str(issue.get("body") or "") and not self._is_commented(issue, alert):
            number = issue["number"]
            if firing and issue.get("state") == "closed":
                self._ask("PATCH", f"/issues/{number}", {"state": "open", "state_reason": "reopened"})
            mark = f"<!-- otel-cost: alert={alert} -->"
            self._ask("POST", f"/issues/{number}/comments", {"body": _comment(message, mark)})
        told = [] if note is None or note["number"] != issue["number"] else note["told"]
        self._notes[fingerprint] = {"number": issue["number"], "told": [*told, alert][-_TOLD:]}
        self._write()

    def _known(self, note: dict[str, Any] | None) -> dict[str, Any] | None:
        """The issue that our notes name; None: it was deleted or moved away."""
        if note is None:
            return None
        try:
            issue = self._ask("GET", f"/issues/{note['number']}")
        except _Answer as answer:
            if answer.status in _GONE:
                return None
            raise
        return issue if isinstance(issue, dict) and issue.get("number") == note["number"] else None

    def _looked_up(self, fingerprint: str) -> dict[str, Any] | None:
        """By the mark in its text, among all issues with our label: a list, because the search lags behind."""
        mark = f"fingerprint={fingerprint} "
        ours = self._pages(f"/issues?state=all&labels={quote(self._settings.label, safe='')}")
        for issue in ours:
            if mark in str(issue.get("body") or "") and "pull_request" not in issue:
                return issue
        # Who may not set labels creates without: the newest issues are looked through, too.
        newest = self._pages("/issues?state=all&sort=created&direction=desc", most=2)
        return next((issue for issue in newest if mark in str(issue.get("body") or "")), None)

    def _is_commented(self, issue: Mapping[str, Any], alert: str) -> bool:
        mark = f"alert={alert} "
        comments = self._pages(f"/issues/{issue['number']}/comments?sort=created")
        return any(mark in str(comment.get("body") or "") for comment in comments)

    def _create(self, message: Mapping[str, object], fingerprint: str, alert: str) -> dict[str, Any]:
        mark = f"<!-- otel-cost: fingerprint={fingerprint} alert={alert} -->"
        said: dict[str, Any] = {
            "title": _title(message),
            "body": _report(message, mark),
            "labels": [self._settings.label],
        }
        owned = {"assignees": list(self._settings.assignees)} if self._settings.assignees else {}
        try:
            issue = self._ask("POST", "/issues", said | owned)
        except _Answer as answer:
            if answer.status != 422 or not owned:
                raise
            # Somebody who cannot be assigned here must not keep the report from being written.
            issue = self._ask("POST", "/issues", said)
        made: dict[str, Any] = issue
        return made

    # ---- HTTP --------------------------------------------------------------------

    def _pages(self, path: str, most: int = _MOST_PAGES) -> Iterator[dict[str, Any]]:
        for page in range(1, most + 1):
            items = self._ask("GET", f"{path}&per_page={_PAGE}&page={page}")
            if not isinstance(items, list):
                return
            yield from (item for item in items if isinstance(item, dict))
            if len(items) < _PAGE:
                return

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401  # JSON
        """One request.

        Raises:
            Unavailable: later: limits, outages.
            _Answer: another answer that is no success.
        """
        url = f"{self._settings.url.rstrip('/')}/repos/{self._settings.repo}{path}"
        sent = None if body is None else json.dumps(body).encode()
        for _ in range(3):
            try:
                answer = self._http.request(
                    method, url, body=sent, headers=self._headers, redirect=False, preload_content=False
                )
                text = answer.read(_MOST_BYTES, decode_content=True)
                answer.release_conn()
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise Unavailable(f"{urlsplit(url).netloc}: {type(error).__name__}", "connection") from error
            target = answer.headers.get("location", "")
            # A repository that was renamed; the token goes to no other host.
            if answer.status in {301, 302, 307, 308} and urlsplit(target).netloc == urlsplit(url).netloc:
                url = target
                continue
            break
        if answer.status in {200, 201}:
            try:
                return json.loads(text)
            except ValueError as error:
                raise Unavailable("GitHub's answer is no JSON", "bad_answer") from error
        said = _message(text)
        wait_s = _wait(answer.headers)
        limited = answer.headers.get("x-ratelimit-remaining") == "0" or "rate limit" in said.lower()
        if answer.status == 429 or (answer.status == 403 and (wait_s is not None or limited)):
            raise Unavailable(f"GitHub's limit: {said}", "rate_limit", retry_after_s=60.0 if wait_s is None else wait_s)
        if answer.status >= 500 or answer.status == 408:
            raise Unavailable(f"GitHub answers {answer.status}", f"http_{answer.status}", retry_after_s=wait_s)
        raise _Answer(answer.status, said)

    def _write(self) -> None:
        if self._file is None:
            return
        fresh = self._file.with_name(self._file.name + ".new")
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(self._notes, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._file)


def _wait(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, as a limit says it: `retry-after`, else when its window ends."""
    wait_s = retry_after(headers.get("retry-after"))
    if wait_s is None and headers.get("x-ratelimit-remaining") == "0":
        reset = headers.get("x-ratelimit-reset", "")
        if reset.isascii() and reset.isdigit():
            wait_s = max(0.0, int(reset[:12]) - time.time())
    return wait_s


def _message(body: bytes) -> str:
    try:
        said = json.loads(body)
        errors = said.get("errors") or []
        fields = [f"{one.get('field')}: {one.get('code')}" for one in errors if isinstance(one, dict)]
        return ", ".join([str(said.get("message", "")), *fields])[:300]
    except (ValueError, AttributeError):
        return ""


# ---- words -----------------------------------------------------------------------


def _title(message: Mapping[str, object]) -> str:
    return _inert(f"{message['rule']}: {message['summary']}").strip()[:_TITLE]


def _report(message: Mapping[str, object], mark: str) -> str:
    evidence = _evidence(message)
    parts = [f"**{_inert(str(message['summary']))}**", "", *_table(message, evidence), *_changes(evidence)]
    parts += _runs(message, evidence)
    parts += ["", _HOUSE_RULE]
    return _fitted("\n".join(parts), mark)


def _comment(message: Mapping[str, object], mark: str) -> str:
    evidence = _evidence(message)
    if message.get("state") != "firing":
        because = evidence.get("resolved_because")
        said = f"Back to normal{f': {_inert(str(because))}' if because else ''}. {_inert(str(message['summary']))}"
        return _fitted(said, mark)
    head = f"**Again: {_inert(str(message['summary']))}**"
    return _fitted("\n".join([head, "", *_changes(evidence), *_runs(message, evidence)]), mark)


def _fitted(text: str, mark: str) -> str:
    return f"{text[:_BODY]}\n\n{mark}"


def _evidence(message: Mapping[str, object]) -> dict[str, Any]:
    evidence = message.get("evidence")
    return evidence if isinstance(evidence, dict) else {}


_HOUSE_RULE: Final = (
    "This issue belongs to everything of the same kind: what comes next is a comment here. Close it when it is fixed; "
    "if it comes back, it is opened again."
)
_ROWS: Final = (
    ("baseline_usd", "was, USD a run"),
    ("observed", "is, USD a run"),
    ("threshold", "allowed, USD"),
    ("extra_usd", "cost so far beyond what is normal, USD"),
    ("wasted_usd", "wasted, USD"),
    ("baseline_runs", "runs that say what is normal"),
    ("breaches", "dear runs"),
    ("fires_for", "rule fires for"),
    ("window", "looking back"),
    ("since", "since"),
    ("workflow", "workflow"),
    ("team", "team"),
    ("user", "user"),
    ("agent", "agent"),
    ("retries", "retries"),
    ("outcome", "outcome"),
)


def _table(message: Mapping[str, object], evidence: Mapping[str, Any]) -> list[str]:
    known = {"wasted_usd": message.get("wasted_usd"), **evidence}
    rows = [f"| {words} | {_code(known[key])} |" for key, words in _ROWS if known.get(key) not in {None, ""}]
    if known.get("model_route"):
        rows.append(f"| model route | {_code(' → '.join(map(str, known['model_route'])))} |")
    return ["| | |", "|---|---|", f"| rule | {_code(message['rule'])} |", *rows]


def _changes(evidence: Mapping[str, Any]) -> list[str]:
    changed = evidence.get("changed")
    if not isinstance(changed, dict) or not changed:
        return []
    lines = ["", "| what changed | before | after |", "|---|---|---|"]
    for name, told in changed.items():
        if not isinstance(told, dict):
            continue
        parts = {f"calls of {_code(tool)} a run": one for tool, one in told.items()}
        for words, one in parts.items() if name == "tools_per_run" else [(name.replace("_", " "), told)]:
            lines.append(f"| {words} | {_side(one, 'before')} | {_side(one, 'after')} |")
    return lines


def _side(told: Mapping[str, Any], side: str) -> str:
    value = told.get(side)
    return _code(" → ".join(map(str, value)) if isinstance(value, list) else value)


def _runs(message: Mapping[str, object], evidence: Mapping[str, Any]) -> list[str]:
    page = _page_of(message)
    runs = evidence.get("runs")
    if not isinstance(runs, list) or not runs:
        runs = [
            {"run_id": message.get("run_id"), "trace_id": message.get("trace_id"), "cost_usd": evidence.get("cost_usd")}
        ]
    lines = ["", "Runs:"]
    for one in runs:
        line = f"{_code(one.get('run_id'))}, trace {_code(one.get('trace_id'))}: {one.get('cost_usd')} USD"
        if page is not None:
            line += f", {page}/runs/{quote(str(one.get('run_id')), safe='')}"
        lines.append(f"- {line}")
    return lines


def _page_of(message: Mapping[str, object]) -> str | None:
    """Where our page is, from the link that the alert brings along."""
    links = message.get("links")
    link = links.get("run") if isinstance(links, dict) else None
    return link.rpartition("/runs/")[0] or None if isinstance(link, str) else None


def _code(value: object) -> str:
    """A value that a sender chose, so that it names nobody, links nowhere and breaks no table."""
    text = re.sub(r"[`|\r\n]+", " ", str(value))[:300].strip()
    return f"`{text}`" if text else ""


def _inert(text: str) -> str:
    """The same within a sentence: no mentions, no links to issues, no markup."""
    return re.sub(r"([@#])", "\\1\N{ZERO WIDTH NON-JOINER}", re.sub(r"[`|<>\[\]\r\n*]+", " ", text))


register(SinkKind(name="github", settings=Settings, build=GitHubIssues))
