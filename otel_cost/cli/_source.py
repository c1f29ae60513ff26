"""Source: where a reading command gets its answers: the service that runs on the data dir, else its ledger."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import urllib3

from otel_cost.cli._service import place_of
from otel_cost.edge.serve import discovery
from otel_cost.edge.serve.when import instant_ns
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from otel_cost.edge.ledger import Ledger

Row = dict[str, Any]


class Source(Protocol):
    """What the reading commands ask; times as the user wrote them."""

    def report(self, by: Sequence[str], since: str | None, until: str | None) -> list[Row]: ...

    def per_outcome(self, by: Sequence[str], since: str | None, until: str | None) -> list[Row]: ...

    def runs(self, top: int, since: str | None) -> list[Row]: ...

    def loops(self, top: int, since: str | None) -> list[Row]: ...

    def run(self, run_or_trace_id: str) -> Row | None: ...

    def alerts(self, limit: int, since: str | None) -> list[Row]: ...

    def news(self, limit: int, since: str | None) -> list[Row]: ...

    def recorded(self, since: str | None) -> Iterator[tuple[str, str, bytes, str]]:
        """As `Ledger.recorded`."""


def open_source(config: Sequence[Path] | None, data_dir: Path | None) -> Source:
    """The running service's API, else the ledger, read-only.

    Raises:
        UsageError: neither is there, or the file is in use by something that does not answer.
    """
    folder, database = place_of(config, data_dir)
    url = discovery.find(folder)
    if url is not None:
        api = _Api(url, discovery.local_key(folder))
        if api.answers():
            return api
    from otel_cost.edge.ledger.opening import read_ledger  # not needed where the API answers

    return _Stored(read_ledger(database, folder))


class _Api:
    def __init__(self, url: str, key: str | None) -> None:
        self._url = url
        # No retries and a time limit: a command that hangs is worse than one that says why it cannot answer.
        headers = None if key is None else {"authorization": f"Bearer {key}"}
        self._http = urllib3.PoolManager(
            headers=headers, retries=False, timeout=urllib3.Timeout(connect=2.0, read=30.0)
        )

    def answers(self) -> bool:
        try:
            return self._http.request("GET", f"{self._url}/healthz").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def report(self, by: Sequence[str], since: str | None, until: str | None) -> list[Row]:
        rows: list[Row] = self._get("/v1/report", {"by": ",".join(by), "since": since, "until": until})["rows"]
        return rows

    def per_outcome(self, by: Sequence[str], since: str | None, until: str | None) -> list[Row]:
        asked = {"per": "outcome", "by": ",".join(by), "since": since, "until": until}
        rows: list[Row] = self._get("/v1/report", asked)["rows"]
        return rows

    def runs(self, top: int, since: str | None) -> list[Row]:
        runs: list[Row] = self._get("/v1/runs", {"top": str(top), "since": since})["runs"]
        return runs

    def loops(self, top: int, since: str | None) -> list[Row]:
        loops: list[Row] = self._get("/v1/loops", {"top": str(top), "since": since})["loops"]
        return loops

    def run(self, run_or_trace_id: str) -> Row | None:
        return self._get(f"/v1/runs/{quote(run_or_trace_id, safe='')}", {}, missing_ok=True) or None

    def alerts(self, limit: int, since: str | None) -> list[Row]:
        alerts: list[Row] = self._get("/v1/alerts", {"limit": str(limit), "since": since})["alerts"]
        return alerts

    def news(self, limit: int, since: str | None) -> list[Row]:
        found: list[Row] = self._get("/v1/outcomes", {"limit": str(limit), "since": since})["outcomes"]
        return found

    def recorded(self, since: str | None) -> Iterator[tuple[str, str, bytes, str]]:
        fields = {"since": since} if since else {}
        try:
            answer = self._http.request("GET", f"{self._url}/v1/recorded", fields=fields, preload_content=False)
            if answer.status != 200:
                raise UsageError(str(answer.json().get("error", f"HTTP {answer.status}")))
            for line in answer:
                told = json.loads(line)
                yield told["tenant"], told["run_id"], b64decode(told["snapshot"]), told["verdict"]
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise UsageError(f"the service at {self._url} does not answer: {error}") from error

    def _get(self, path: str, fields: dict[str, str | None], *, missing_ok: bool = False) -> Row:
        given = {key: value for key, value in fields.items() if value}
        try:
            answer = self._http.request("GET", f"{self._url}{path}", fields=given)
            if answer.status == 404 and missing_ok:
                return {}
            body: Row = answer.json()
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise UsageError(f"the service at {self._url} does not answer: {error}") from error
        if answer.status != 200:
            raise UsageError(str(body.get("error", f"{self._url}{path}: HTTP {answer.status}")))
        return body


class _Stored:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def report(self, by: Sequence[str], since: str | None, until: str | None) -> list[Row]:
        return self._ledger.report(by, _ns(since), _ns(until))

    def per_outcome(self, by: Sequence[str], since: str | None, until: str | None) -> list[Row]:
        return self._ledger.per_outcome(by, _ns(since), _ns(until))

    def runs(self, top: int, since: str | None) -> list[Row]:
        return self._ledger.runs(top, _ns(since))

    def loops(self, top: int, since: str | None) -> list[Row]:
        return self._ledger.loops(top, _ns(since))

    def run(self, run_or_trace_id: str) -> Row | None:
        return self._ledger.run(run_or_trace_id)

    def alerts(self, limit: int, since: str | None) -> list[Row]:
        return self._ledger.alerts(limit, _ns(since))

    def news(self, limit: int, since: str | None) -> list[Row]:
        return self._ledger.news(limit, _ns(since))

    def recorded(self, since: str | None) -> Iterator[tuple[str, str, bytes, str]]:
        return self._ledger.recorded(_ns(since))


def _ns(written: str | None) -> int | None:
    return None if written is None else instant_ns(written, time.time_ns())


def printable(text: object) -> str:
    """Text of a sender as one line that no terminal obeys; nothing for None."""
    if text is None:
        return ""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text))
