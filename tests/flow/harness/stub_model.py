"""A model that repeats itself: it asks for one shell command again and again, whatever it is told.

Speaks Anthropic messages, OpenAI responses and chat completions, Gemini generateContent; streamed where asked for.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

INPUT, OUTPUT = 1_000, 50  # tokens of each answer
SHELLS = ("Bash", "bash", "run_shell_command", "exec_command", "shell_command", "shell", "local_shell")


class StubModel:
    """`command` is asked for `times` times (NUMBER in it counts), then it says "Done.".

    Requests without a shell tool, for titles and the like, get that at once. `asked`: the
    model that each of the others named; `seen`: their bodies.
    """

    def __init__(self, command: str, times: int) -> None:
        self.command, self.times = command, times
        self.asked: list[str] = []
        self.seen: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def do_GET(self) -> None:
                self._send(json.dumps({"object": "list", "data": [], "models": []}).encode())

            def do_POST(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                raw = self.rfile.read(size) if size else self._chunks()
                kind, body = stub.answer(self.path, json.loads(raw or b"{}"))
                self._send(body, kind)

            def _chunks(self) -> bytes:
                parts = []
                while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                return b"".join(parts)

            def _send(self, body: bytes, kind: str = "application/json") -> None:
                self.send_response(200)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[str, bytes]:
        """Content type and body of the answer to one request."""
        if "count_tokens" in path or ":countTokens" in path:
            return "application/json", json.dumps({"input_tokens": INPUT, "totalTokens": INPUT}).encode()
        named = re.search(r"/models/([^/:]+):", path)
        model = str(body.get("model") or (named[1] if named else "stub"))
        tool = _shell_of(body)
        with self._lock:
            number = len(self.asked)
            if tool is not None:
                self.asked.append(model)
                self.seen.append(body)
        call = None
        if tool is not None and number < self.times:
            name, schema = tool
            call = (f"call_{number:04d}", name, _arguments(schema, self.command.replace("NUMBER", str(number))))
        streams = body.get("stream") is True or ":streamGenerateContent" in path
        if "/messages" in path:
            return _anthropic(model, number, call, streams)
        if "/responses" in path:
            return _responses(model, number, call, streams)
        if "/chat/completions" in path:
            return _chat(model, number, call, streams)
        if "enerateContent" in path:
            return _gemini(model, number, call, streams)
        return "application/json", b"{}"


Call = tuple[str, str, dict[str, Any]]


def _shell_of(body: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Name and parameters of the shell tool that a request offers."""
    found: dict[str, dict[str, Any]] = {}
    for tool in body.get("tools") or []:
        for one in tool.get("functionDeclarations") or [tool]:
            told = one.get("function") if isinstance(one.get("function"), dict) else one
            schema = told.get("input_schema") or told.get("parameters") or told.get("parametersJsonSchema") or {}
            if isinstance(told.get("name"), str):
                found[told["name"]] = schema
    return next(((name, found[name]) for name in SHELLS if name in found), None)


def _arguments(schema: dict[str, Any], command: str) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    key = "cmd" if "cmd" in properties else "command"
    kind = str((properties.get(key) or {}).get("type", "string")).lower()
    made: dict[str, Any] = {key: ["bash", "-lc", command] if kind == "array" else command}
    for name in schema.get("required") or []:
        if name not in made:
            of = str((properties.get(name) or {}).get("type", "string")).lower()
            made[name] = {"boolean": False, "number": 10, "integer": 10}.get(of, "Run the check")
    return made


def _events(events: list[tuple[str, dict[str, Any]]], *, named: bool, end: str = "") -> tuple[str, bytes]:
    lines = [(f"event: {name}\n" if named else "") + f"data: {json.dumps(data)}\n\n" for name, data in events]
    return "text/event-stream", ("".join(lines) + end).encode()


def _anthropic(model: str, number: int, call: Call | None, streams: bool) -> tuple[str, bytes]:
    if call is None:
        block: dict[str, Any] = {"type": "text", "text": "Done."}
    else:
        block = {"type": "tool_use", "id": f"toolu_{call[0]}", "name": call[1], "input": call[2]}
    why = "end_turn" if call is None else "tool_use"
    usage = {"input_tokens": INPUT, "output_tokens": OUTPUT}
    message = {"id": f"msg_{number:04d}", "type": "message", "role": "assistant", "model": model, "stop_sequence": None}
    if not streams:
        whole = {**message, "content": [block], "stop_reason": why, "usage": usage}
        return "application/json", json.dumps(whole).encode()
    begun = {**block, "input": {}} if call else {**block, "text": ""}
    delta = (
        {"type": "input_json_delta", "partial_json": json.dumps(call[2])}
        if call
        else {"type": "text_delta", "text": "Done."}
    )
    start = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    parts: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": begun},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": why, "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]
    return _events([(part["type"], part) for part in parts], named=True)


def _responses(model: str, number: int, call: Call | None, streams: bool) -> tuple[str, bytes]:
    item: dict[str, Any]
    if call is None:
        said = {"type": "output_text", "text": "Done.", "annotations": []}
        item = {"id": f"m_{number}", "type": "message", "role": "assistant", "status": "completed", "content": [said]}
    else:
        item = {"id": f"fc_{number}", "type": "function_call", "status": "completed", "call_id": call[0]}
        item |= {"name": call[1], "arguments": json.dumps(call[2])}
    usage = {
        "input_tokens": INPUT,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": OUTPUT,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": INPUT + OUTPUT,
    }
    base = {"id": f"resp_{number:04d}", "object": "response", "created_at": 1_790_000_000, "model": model}
    whole = {**base, "status": "completed", "output": [item], "usage": usage, "error": None}
    if not streams:
        return "application/json", json.dumps(whole).encode()
    begun = {**item, "status": "in_progress"} | ({"content": []} if call is None else {"arguments": ""})
    at = {"item_id": item["id"], "output_index": 0}
    parts: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**base, "status": "in_progress", "output": [], "usage": None}},
        {"type": "response.output_item.added", "output_index": 0, "item": begun},
    ]
    if call is None:
        part = {"type": "output_text", "text": "", "annotations": []}
        parts += [
            {"type": "response.content_part.added", **at, "content_index": 0, "part": part},
            {"type": "response.output_text.delta", **at, "content_index": 0, "delta": "Done."},
            {"type": "response.output_text.done", **at, "content_index": 0, "text": "Done."},
            {"type": "response.content_part.done", **at, "content_index": 0, "part": {**part, "text": "Done."}},
        ]
    else:
        parts += [
            {"type": "response.function_call_arguments.delta", **at, "delta": item["arguments"]},
            {"type": "response.function_call_arguments.done", **at, "arguments": item["arguments"]},
        ]
    parts += [
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    return _events([(part["type"], {**part, "sequence_number": n}) for n, part in enumerate(parts)], named=True)


def _chat(model: str, number: int, call: Call | None, streams: bool) -> tuple[str, bytes]:
    message: dict[str, Any] = {"role": "assistant", "content": "Done." if call is None else None}
    if call is not None:
        function = {"name": call[1], "arguments": json.dumps(call[2])}
        message["tool_calls"] = [{"index": 0, "id": call[0], "type": "function", "function": function}]
    why = "stop" if call is None else "tool_calls"
    usage = {"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT}
    base = {"id": f"chatcmpl-{number:04d}", "created": 1_790_000_000, "model": model}
    if not streams:
        choice = {"index": 0, "message": message, "finish_reason": why}
        whole = {**base, "object": "chat.completion", "choices": [choice], "usage": usage}
        return "application/json", json.dumps(whole).encode()
    chunk = {**base, "object": "chat.completion.chunk"}
    parts = [
        {**chunk, "choices": [{"index": 0, "delta": message, "finish_reason": None}]},
        {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": why}]},
        {**chunk, "choices": [], "usage": usage},
    ]
    return _events([("", part) for part in parts], named=False, end="data: [DONE]\n\n")


def _gemini(model: str, number: int, call: Call | None, streams: bool) -> tuple[str, bytes]:
    part: dict[str, Any] = {"text": "Done."}
    if call is not None:
        part = {"functionCall": {"name": call[1], "args": call[2]}}
    counts = {"promptTokenCount": INPUT, "candidatesTokenCount": OUTPUT, "totalTokenCount": INPUT + OUTPUT}
    candidate = {"index": 0, "content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}
    whole = {
        "candidates": [candidate],
        "usageMetadata": counts,
        "modelVersion": model,
        "responseId": f"stub-{number:04d}",
    }
    if not streams:
        return "application/json", json.dumps(whole).encode()
    return _events([("", whole)], named=False)
