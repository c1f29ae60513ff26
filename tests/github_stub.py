"""A GitHub that behaves like the real one as far as issues go: pages, labels, limits, assignees, what is gone."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class GitHubStub:
    """Listens on a free port. `next_answers`: (status, headers, body) given before anything is looked at."""

    def __init__(self, repo: str = "acme/agents", *, users: tuple[str, ...] = ("ann",), may_label: bool = True) -> None:
        self.repo, self.users, self.may_label = repo, users, may_label
        self.issues: dict[int, dict[str, Any]] = {}
        self.comments: dict[int, list[dict[str, Any]]] = {}
        self.requests: list[tuple[str, str]] = []
        self.next_answers: list[tuple[int, dict[str, str], dict[str, Any]]] = []
        self.disabled = False
        self.lose_answer = False  # do what is asked, then hang up
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length)) if length else {}
                stub.requests.append((self.command, self.path))
                status, headers, said = stub.answer(self.command, self.path, body, self.headers)
                if stub.lose_answer and self.command == "POST":
                    stub.lose_answer = False
                    self.close_connection = True
                    self.connection.close()
                    return
                raw = json.dumps(said).encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_PATCH = do  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def posted(self) -> list[str]:
        """What was written, in order."""
        return [f"{method} {urlsplit(path).path}" for method, path in self.requests if method != "GET"]

    def answer(self, method: str, path: str, body: dict[str, Any], headers: Any) -> tuple[int, dict[str, str], Any]:
        if self.next_answers:
            return self.next_answers.pop(0)
        if headers.get("authorization") != "Bearer t0ken":
            return 401, {}, {"message": "Bad credentials"}
        split = urlsplit(path)
        prefix = f"/repos/{self.repo}/issues"
        if not split.path.startswith(prefix):
            return 404, {}, {"message": "Not Found"}
        if self.disabled:
            return 410, {}, {"message": "Issues are disabled for this repo"}
        query = {key: values[0] for key, values in parse_qs(split.query).items()}
        rest = [part for part in split.path.removeprefix(prefix).split("/") if part]
        match (method, rest):
            case ("GET", []):
                return 200, {}, self._page(self._listed(query), query)
            case ("POST", []):
                return self._create(body)
            case ("GET", [number]) if int(number) in self.issues:
                return 200, {}, self.issues[int(number)]
            case ("PATCH", [number]) if int(number) in self.issues:
                self.issues[int(number)].update({key: body[key] for key in ("state", "title", "body") if key in body})
                return 200, {}, self.issues[int(number)]
            case ("GET", [number, "comments"]) if int(number) in self.issues:
                return 200, {}, self._page(self.comments[int(number)], query)
            case ("POST", [number, "comments"]) if int(number) in self.issues:
                if len(body["body"]) > 65_536:
                    return 422, {}, {"message": "Validation Failed", "errors": [{"field": "body", "code": "too_long"}]}
                self.comments[int(number)].append({"id": len(self.comments[int(number)]) + 1, "body": body["body"]})
                return 201, {}, self.comments[int(number)][-1]
        return 404, {}, {"message": "Not Found"}

    def _listed(self, query: dict[str, str]) -> list[dict[str, Any]]:
        label = query.get("labels")
        state = query.get("state", "open")
        return [
            issue
            for issue in sorted(self.issues.values(), key=lambda one: -one["number"])
            if (label is None or label in [one["name"] for one in issue["labels"]])
            and (state == "all" or issue["state"] == state)
        ]

    def _page(self, items: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
        size, page = int(query.get("per_page", 30)), int(query.get("page", 1))
        return items[(page - 1) * size : page * size]

    def _create(self, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        wrong = [name for name in body.get("assignees", []) if name not in self.users]
        if wrong:
            return 422, {}, {"message": "Validation Failed", "errors": [{"field": "assignees", "code": "invalid"}]}
        if len(body["body"]) > 65_536 or len(body["title"]) > 256:
            return 422, {}, {"message": "Validation Failed", "errors": [{"field": "body", "code": "too_long"}]}
        number = len(self.issues) + 1
        labels = [{"name": name} for name in body.get("labels", [])] if self.may_label else []
        self.issues[number] = {
            "number": number,
            "title": body["title"],
            "body": body["body"],
            "state": "open",
            "labels": labels,
            "assignees": [{"login": name} for name in body.get("assignees", [])],
        }
        self.comments[number] = []
        return 201, {}, self.issues[number]
