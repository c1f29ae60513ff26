"""JSON text edited in place: what is added is written, what is removed is cut, and nothing else moves.

Settings files are the user's: their layout, key order and comments (which Gemini
CLI and Qwen Code allow) stay as they are.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

_BLANK: Final = re.compile(r"(?:[\s\ufeff]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_WORD: Final = re.compile(r"[-+.\w]+")
_DEEPEST: Final = 200


@dataclass(slots=True)
class Node:
    """One value: its place in the text, what it is, and its members by key or number."""

    start: int
    end: int
    value: Any
    members: dict[str | int, Member] = field(default_factory=dict)


@dataclass(slots=True)
class Member:
    """A key with its value, or an item; `start` is where the key begins."""

    start: int
    node: Node


def parse(text: str) -> Node:
    """The tree of a JSON text with comments and trailing commas.

    Raises:
        UsageError: it is none; the message says where.
    """
    at = len(text)
    try:
        node = _value(text, _skip(text, 0), 0)
        at = _skip(text, node.end)
        if at == len(text):
            return node
    except ValueError as error:
        at = error.args[0]
    except IndexError:
        pass  # it ends too early
    raise UsageError(f"line {text.count(chr(10), 0, at) + 1} is no JSON")


def _skip(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _value(text: str, at: int, depth: int) -> Node:
    if depth > _DEEPEST:
        raise ValueError(at)
    char = text[at]
    if char in "{[":
        return _container(text, at, depth, "}" if char == "{" else "]")
    found = (_STRING if char == '"' else _WORD).match(text, at)
    if found is None:
        raise ValueError(at)
    try:
        value = json.loads(found[0], strict=False)
    except ValueError:
        raise ValueError(at) from None
    return Node(at, found.end(), value)


def _container(text: str, start: int, depth: int, closing: str) -> Node:
    node = Node(start, start, {} if closing == "}" else [])
    at = _skip(text, start + 1)
    while text[at] != closing:
        begin = at
        key: str | int = len(node.members)
        if closing == "}":
            named = _value(text, at, depth + 1)
            if not isinstance(named.value, str):
                raise ValueError(at)
            key, at = named.value, _skip(text, named.end)
            if text[at] != ":":
                raise ValueError(at)
            at = _skip(text, at + 1)
        member = _value(text, at, depth + 1)
        node.members[key] = Member(begin, member)
        if isinstance(node.value, dict):
            node.value[key] = member.value
        else:
            node.value.append(member.value)
        at = _skip(text, member.end)
        if text[at] == ",":
            at = _skip(text, at + 1)
        elif text[at] != closing:
            raise ValueError(at)
    node.end = at + 1
    return node


def append(text: str, path: tuple[str, ...], item: Any) -> str:  # noqa: ANN401  # any JSON value
    """Put an item at the end of the array at a path of keys; what is missing on the way is made.

    Raises:
        UsageError: the text is no JSON, or something else stands at the path.
    """
    if not text.strip():
        text = "{}\n"
    node, depth = parse(text), 0
    for key in path:
        if not isinstance(node.value, dict):
            raise UsageError(f"`{'.'.join(path[:depth]) or 'the document'}` is no object")
        if key not in node.members:
            made: Any = [item]
            for missing in reversed(path[depth + 1 :]):
                made = {missing: made}
            return _insert(text, node, depth, key, made)
        node = node.members[key].node
        depth += 1
    if not isinstance(node.value, list):
        raise UsageError(f"`{'.'.join(path)}` is no list")
    return _insert(text, node, depth, None, item)


def _insert(text: str, node: Node, depth: int, key: str | None, value: Any) -> str:  # noqa: ANN401
    step = _indent(text)
    last = max(node.members.values(), key=lambda member: member.node.end, default=None)
    flat = last is not None and "\n" not in text[node.start : last.start]
    inner = "" if flat else step * (depth + 1)
    written = json.dumps(value, indent=None if flat else step, ensure_ascii=False).replace("\n", "\n" + inner)
    named = written if key is None else f"{json.dumps(key, ensure_ascii=False)}: {written}"
    gap = " " if flat else "\n" + inner
    if last is None:
        return f"{text[: node.start + 1]}{gap}{named}\n{step * depth}{text[node.end - 1 :]}"
    after = _skip(text, last.node.end)
    if text[after] == ",":  # a trailing comma stays one
        return f"{text[: after + 1]}{gap}{named}{text[after + 1 :]}"
    return f"{text[: last.node.end]},{gap}{named}{text[last.node.end :]}"


def _indent(text: str) -> str:
    found = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
    return found[1] if found else "  "


def remove(text: str, path: tuple[str | int, ...], unwanted: Callable[[Any], bool]) -> str:
    """Cut the unwanted items out of the array at a path; containers on the path that are left empty go as well."""
    while True:
        chain = [parse(text)]
        for key in path:
            member = chain[-1].members.get(key)
            if member is None:
                return text
            chain.append(member.node)
        if not isinstance(chain[-1].value, list):
            return text
        doomed = next((at for at, value in enumerate(chain[-1].value) if unwanted(value)), None)
        if doomed is None:
            return text
        keys: list[str | int] = [*path, doomed]
        while len(keys) > 1 and len(chain[len(keys) - 1].members) == 1:
            keys.pop()
        text = _cut(text, chain[len(keys) - 1], keys[-1])


def _cut(text: str, node: Node, key: str | int) -> str:
    members = sorted(node.members.values(), key=lambda member: member.start)
    doomed = node.members[key]
    at = members.index(doomed)
    if len(members) == 1:
        return f"{text[: node.start + 1]}{text[node.end - 1 :]}"
    if at > 0:
        return f"{text[: members[at - 1].node.end]}{text[doomed.node.end :]}"
    return f"{text[: doomed.start]}{text[members[1].start :]}"
