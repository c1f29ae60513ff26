"""Documents: YAML that remembers where everything stands, so that a mistake is shown at its line and column.

Used for rules, config and price files alike. Text in, values out: reading files
is the caller's business. YAML 1.2 core schema: only `true` and `false` are
booleans, `yes`, `off` and dates stay text, `010` is ten. Numbers with a fraction
become `Decimal`, so that `0.56` is what was written; keys are always text.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, SecretStr, ValidationError

from otel_cost.errors import DocumentError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pydantic_core import ErrorDetails

Path = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

MAX_DEPTH: Final = 64
MAX_NODES: Final = 200_000  # after aliases are expanded: a few lines of YAML can name billions


class Place(NamedTuple):
    """Where something stands; line and column count from 1."""

    source: str
    line: int
    column: int


@dataclass(slots=True, frozen=True)
class Document:
    """One YAML document (or several merged): plain values, and the place of each.

    `value` holds dict (keys are text), list, str, int, Decimal, bool and None.
    """

    source: str
    value: Any
    places: Mapping[Path, Place]
    keys: Mapping[Path, Place] = field(default_factory=dict)
    written: Mapping[Path, str] = field(default_factory=dict)  # as it stood before `expand`; may hide a secret

    def position(self, path: Path) -> tuple[int, int]:
        """(line, column) of the value at `path`, or of the nearest thing around it that exists."""
        place = self.place(path)
        return place.line, place.column

    def place(self, path: Path, *, key: bool = False) -> Place:
        """Like `position`, with the file's name; `key`: where the key stands instead of its value."""
        if key and path in self.keys:
            return self.keys[path]
        for end in range(len(path), -1, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return Place(self.source, 1, 1)

    def problem(self, path: Path, message: str, hint: str = "", *, key: bool = False) -> Problem:
        """A mistake at `path`, ready to be raised in a `DocumentError`."""
        place = self.place(path, key=key)
        return Problem(place.source, place.line, place.column, path_text(path), message, hint)

    def at(self, path: Path) -> object:
        """The value at `path`; None where there is none."""
        value: Any = self.value
        for part in path:
            try:
                value = value[part]
            except (LookupError, TypeError):
                return None
        return value


def path_text(path: Sequence[str | int]) -> str:
    """`("budgets", 0, "limit")` → `budgets[0].limit`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[\w/-]+", part):
            text += f".{part}" if text else part
        else:
            text += f'["{part}"]'
    return text


# --- Reading ---------------------------------------------------------------------------------------------------------


class _Loader(yaml.CSafeLoader):
    """The safe C loader under the YAML 1.2 core schema; used to compose nodes, never to construct."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  # PyYAML's own way of giving a loader another schema


_TAG: Final = "tag:yaml.org,2002:"
for _name, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"^{_pattern}$"), _first)


def parse_document(text: str, source: str) -> Document:
    """Read one YAML document.

    `source` is the file's name as the user wrote it; it opens every message.

    Raises:
        DocumentError: not YAML, more than one document, duplicate keys, unknown tags, too deep or too large.
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = Problem(source, line, column, "", f"not YAML: {error.problem}", _yaml_hint(error, text))
        raise DocumentError([problem]) from error
    except (yaml.YAMLError, UnicodeError) as error:
        # Control characters and broken encodings have no mark; what is printable of the reason is its last line.
        reason = getattr(error, "reason", "") or str(error).splitlines()[0]
        raise DocumentError([Problem(source, 1, 1, "", f"not YAML: {reason}")]) from error
    if root is None:
        return Document(source, None, {(): Place(source, 1, 1)})
    builder = _Builder(source)
    value = builder.build(root, (), 0)
    if builder.problems:
        raise DocumentError(builder.problems)
    return Document(source, value, builder.places, builder.keys)


def _yaml_hint(error: yaml.MarkedYAMLError, text: str) -> str:
    if error.problem and "expected a single document" in (error.context or ""):
        return "one document per file: remove the `---`"
    lines = text.splitlines()
    mark = error.problem_mark
    if mark and mark.line < len(lines) and "\t" in lines[mark.line]:
        return "YAML takes spaces for indentation, no tabs"
    if mark and mark.line < len(lines) and "${" in lines[mark.line]:
        return 'inside `{ }` and `[ ]` write it in quotes: "${env:NAME}"'
    return error.context or ""


class _Builder:
    """Turns composed nodes into values and remembers where each stood."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.places: dict[Path, Place] = {}
        self.keys: dict[Path, Place] = {}
        self.problems: list[Problem] = []
        self.nodes = 0

    def build(self, node: yaml.Node, path: Path, depth: int) -> object:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise DocumentError([self._problem(node, path, f"more than {MAX_NODES} values")])
        if depth > MAX_DEPTH:
            raise DocumentError([self._problem(node, path[:4], f"nested deeper than {MAX_DEPTH} levels")])
        self.places[path] = self._place(node)
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.build(child, (*path, index), depth + 1) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self.problems.append(self._problem(node, path, f"tag `{node.tag}` is not supported", "plain YAML values only"))
        return None

    def _mapping(self, node: yaml.MappingNode, path: Path, depth: int) -> dict[str, object]:
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(self._problem(key_node, path, "a key must be plain text"))
                continue
            key = key_node.value
            here = (*path, key)
            if key in values:
                first = self.keys[here]
                self.problems.append(
                    self._problem(key_node, here, f"key `{key}` is given twice", f"first at line {first.line}")
                )
                continue
            self.keys[here] = self._place(key_node)
            values[key] = self.build(value_node, here, depth + 1)
        return values

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> str | int | Decimal | bool | None:
        text: str = node.value
        try:
            match node.tag.removeprefix(_TAG):
                case "str":
                    return text
                case "null":
                    return None
                case "bool":
                    return {"true": True, "false": False}[text.lower()]
                case "int":
                    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
                case "float":
                    return Decimal(text)
        except (LookupError, ValueError, ArithmeticError):
            self.problems.append(self._problem(node, path, f"`{text[:40]}` is not what its tag says"))
            return None
        self.problems.append(self._problem(node, path, f"tag `{node.tag}` is not supported", "plain YAML values only"))
        return None

    def _place(self, node: yaml.Node) -> Place:
        return Place(self.source, node.start_mark.line + 1, node.start_mark.column + 1)

    def _problem(self, node: yaml.Node, path: Path, message: str, hint: str = "") -> Problem:
        return Problem(*self._place(node), path_text(path), message, hint)


# --- Merging and expanding -------------------------------------------------------------------------------------------


def merge(documents: Sequence[Document]) -> Document:
    """One document from several: mappings are merged key by key, anything else is replaced by the later one."""
    value: object = None
    into = _Merged({}, {}, {})
    for document in documents:
        if document.value is not None:
            value = _laid(value, document.value, (), document, into)
    source = documents[0].source if documents else ""
    return Document(source, value, *into)


class _Merged(NamedTuple):
    places: dict[Path, Place]
    keys: dict[Path, Place]
    written: dict[Path, str]


def _laid(old: object, new: object, path: Path, document: Document, into: _Merged) -> object:
    """A document's value at a path, laid over that of those before; its places replace theirs."""
    if path in document.keys:
        into.keys[path] = document.keys[path]
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {key: _laid(old.get(key), item, (*path, key), document, into) for key, item in new.items()}
    _replace_below(path, into.places, document.places)
    _replace_below(path, into.keys, document.keys)
    _replace_below(path, into.written, document.written)
    return new


def _replace_below(path: Path, into: dict[Path, T], given: Mapping[Path, T]) -> None:
    for known in [known for known in into if known[: len(path)] == path]:
        del into[known]
    into.update({known: item for known, item in given.items() if known[: len(path)] == path})


_EXPANSION: Final = re.compile(r"\$\$|\$\{([^{}]*)\}")


def expand(document: Document, resolve: Callable[[str, str], str]) -> Document:
    """Replace `${scheme:argument}` in every text by `resolve(scheme, argument)`; `$$` is a plain `$`.

    The result of an expansion is text and is not expanded again; a field that
    wants a number reads it from the text. `${env:NAME:-default}` reaches
    `resolve` as ("env", "NAME:-default"). What was written is kept, for messages.

    Raises:
        DocumentError: every `LookupError` that `resolve` raised, each at its place.
    """
    problems: list[Problem] = []
    written: dict[Path, str] = dict(document.written)

    def expanded(value: str, path: Path) -> str:
        def one(found: re.Match[str]) -> str:
            if found[1] is None:
                return "$"
            scheme, separator, argument = found[1].partition(":")
            try:
                return resolve(scheme, argument) if separator else resolve("env", scheme)
            except LookupError as error:
                message, _, hint = str(error.args[0]).partition("\n")
                problems.append(document.problem(path, message, hint))
                return ""

        said = _EXPANSION.sub(one, value)
        if said != value:
            written[path] = value
        return said

    value = _each_text(document.value, (), expanded)
    if problems:
        raise DocumentError(problems)
    return replace(document, value=value, written=written)


def _each_text(value: object, path: Path, change: Callable[[str, Path], str]) -> object:
    """The same with every text that holds a `$` changed."""
    if isinstance(value, dict):
        return {key: _each_text(item, (*path, key), change) for key, item in value.items()}
    if isinstance(value, list):
        return [_each_text(item, (*path, index), change) for index, item in enumerate(value)]
    return change(value, path) if isinstance(value, str) and "$" in value else value


# --- Validating ------------------------------------------------------------------------------------------------------


class Mistake(NamedTuple):
    """What a validator that looks deep into a value found there; `path` is relative to that value."""

    path: Path
    message: str
    hint: str = ""
    on_key: bool = False


class Mistakes(ValueError):  # noqa: N818  # a list of findings, raised because that is how pydantic takes them
    """Several mistakes inside one value, each at its own place."""

    def __init__(self, items: Sequence[Mistake]) -> None:
        self.items = tuple(items)
        super().__init__("; ".join(item.message for item in self.items))


def validate(document: Document, model: type[M], *, at: Path = ()) -> M:
    r"""The part of `document` at `at` as an instance of `model`.

    Validators say what is allowed by raising `ValueError("message\nhint")`.

    Raises:
        DocumentError: every mistake at once, in the order of the file.
    """
    value = document.at(at)
    try:
        return model.model_validate({} if value is None else value)
    except ValidationError as error:
        raise DocumentError(problems_of(error, document, model, at=at)) from None


def problems_of(error: ValidationError, document: Document, model: type[BaseModel], *, at: Path = ()) -> list[Problem]:
    """What pydantic found, in the words of this project and at the places of `document`."""
    value = document.at(at)
    found: dict[tuple[Path, bool], dict[_Said, None]] = {}
    for detail in error.errors(include_url=False):
        path, on_key = _path_of(detail, value)
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, Mistakes):
            for item in cause.items:
                said = found.setdefault(((*at, *path, *item.path), item.on_key), {})
                said[_Said(item.message, item.hint)] = None
            continue
        said = found.setdefault(((*at, *path), on_key), {})
        said[_say(detail, model, document.written.get((*at, *path)))] = None
    problems = []
    for (path, on_key), said in found.items():
        # Members of a union complain one by one about the same value: one sentence for all of them.
        kinds = [one for one in said if one.expected]
        if len(kinds) > 1:
            message = f"{kinds[0].message} or {' or '.join(one.expected for one in kinds[1:])}"
            problems.append(document.problem(path, message, kinds[0].hint, key=on_key))
        alone = [one for one in said if not one.expected or len(kinds) == 1]
        problems += [document.problem(path, one.message, one.hint, key=on_key) for one in alone]
    return in_file_order(problems)


class _Said(NamedTuple):
    message: str
    hint: str = ""
    expected: str = ""  # "a whole number", where the message is "… is not a whole number"


def in_file_order(problems: Iterable[Problem]) -> list[Problem]:
    """Sorted by line and column, files in the order in which they first appear."""
    problems = list(problems)
    files = list(dict.fromkeys(problem.source for problem in problems))
    return sorted(problems, key=lambda problem: (files.index(problem.source), problem.line, problem.column))


def nearest(word: str, allowed: Iterable[str]) -> str:
    """The hint for a word that is not allowed: the nearest one that is, and the list."""
    words = [str(item) for item in allowed]
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    listed = f"allowed: {', '.join(words)}" if words else "nothing is allowed here"
    return f"did you mean `{close[0]}`? {listed}" if close else listed


def _path_of(detail: ErrorDetails, value: object) -> tuple[Path, bool]:
    """The part of an error's location that exists in the document, and whether it is about the key.

    pydantic puts names of union members and `[key]` between the keys of the data; those are skipped.
    """
    path: list[str | int] = []
    on_key = detail["type"] == "extra_forbidden"
    for part in detail["loc"]:
        inside = part in value if isinstance(value, dict) else isinstance(value, list) and isinstance(part, int)
        if inside:
            value = value[part]  # type: ignore[index]
        elif part == "[key]":
            on_key = True
            continue
        else:
            continue
        path.append(part)
    return tuple(path), on_key


_KINDS: Final = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "datetime": "a time (RFC 3339)",
    "date": "a date",
    "none": "empty",
}

_BOUNDS: Final = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _say(detail: ErrorDetails, model: type[BaseModel], written: str | None) -> _Said:
    """One pydantic error in our words. `written`: what stood there before it was expanded."""
    kind, context = detail["type"], detail.get("ctx", {})
    shown = _shown(detail["input"]) if written is None else f"`{written}`"
    if SecretStr in _annotations(model, detail["loc"]):
        shown = "the secret"
    if kind == "missing":
        return _Said(f"`{detail['loc'][-1]}` is missing")
    if kind == "extra_forbidden":
        key = str(detail["loc"][-1])
        return _Said(f"unknown key `{key}`", nearest(key, _allowed_keys(model, detail["loc"][:-1])))
    if kind in {"literal_error", "enum"}:
        allowed = re.findall(r"'([^']*)'", context.get("expected", "")) or [context.get("expected", "")]
        return _Said(f"{shown} is not allowed", nearest(str(detail["input"]), allowed))
    if kind == "value_error":
        message, _, hint = str(context["error"]).partition("\n")
        return _Said(message, hint)
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return _Said(f"{shown} must be {words} {context[name]}")
    if kind == "too_short":
        least = context.get("min_length", 1)
        return _Said("the list is empty" if not detail["input"] else "the list is too short", f"at least {least}")
    if kind == "string_pattern_mismatch":
        return _Said(f"{shown} does not have the right form", f"it must match {context['pattern']}")
    expected = _KINDS.get(kind.partition("_")[0])
    if expected and kind.endswith(("_type", "_parsing", "_from_float", "_required")):
        in_quotes = expected == "text" and isinstance(detail["input"], int | Decimal)
        return _Said(f"{shown} is not {expected}", "put it in quotes" if in_quotes else "", expected)
    message = detail["msg"]
    return _Said(f"{shown}: {message[:1].lower()}{message[1:]}")


def _shown(value: object) -> str:
    """A value as it may stand in a message: short, one line."""
    if value is None:
        return "an empty value"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    text = " ".join(str(value).split())
    return f"`{text[:57]}…`" if len(text) > 60 else f"`{text}`"


def _allowed_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Names of the fields of the model (or models, in a union) that `location` leads to."""
    keys: dict[str, None] = {}
    for annotation in _annotations(model, location):
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            for name, info in annotation.model_fields.items():
                keys[info.alias or name] = None
    return list(keys)


def _annotations(model: type[BaseModel], location: Sequence[str | int]) -> list[object]:
    """The types that are allowed where `location` leads to."""
    here: list[object] = [model]
    for part in location:
        inner = [item for annotation in here for item in _step(annotation, part)]
        here = inner or [item for item in here if getattr(item, "__name__", None) == part] or here
    return here


def _step(annotation: object, part: str | int) -> Iterator[object]:
    """The annotations one step further inside; unions are opened on the way."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, info in annotation.model_fields.items():
            if part == (info.alias or name):
                yield from _members(info.annotation)
        return
    arguments = typing.get_args(annotation)
    if arguments and (isinstance(part, int) or typing.get_origin(annotation) is dict):
        yield from _members(arguments[-1] if arguments[-1] is not Ellipsis else arguments[0])


def _members(annotation: object) -> Iterator[object]:
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from _members(typing.get_args(annotation)[0])
    elif origin in {typing.Union, types.UnionType}:
        for member in typing.get_args(annotation):
            yield from _members(member)
    elif not (isinstance(annotation, type) and issubclass(annotation, Enum)):
        yield annotation
