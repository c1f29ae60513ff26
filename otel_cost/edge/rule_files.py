"""Rule files: documents from disk, expanded, with what they name beside them, compiled.

Apart from the config, so that `check` and editors load rules without exporters and price lists.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from otel_cost.core.rules import load_rules
from otel_cost.document import expand, nearest
from otel_cost.edge.files import BUNDLED, bundled, rule_documents
from otel_cost.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from otel_cost.core.rules import RuleSet
    from otel_cost.document import Document
    from otel_cost.errors import Problem


def read_rules(
    entries: Sequence[str],
    environ: Mapping[str, str] | None = None,
    *,
    tells_nobody: bool = False,
    beside: list[Path] | None = None,
    exporters: Collection[str] | None = None,
) -> RuleSet:
    """The rules that a config (or a command) names, expanded and compiled.

    `tells_nobody`: whoever asks sends nothing, so that the secrets of contacts need not be there.
    `beside`: gets the files that the rules look things up in.
    `exporters`: the ids to which routes may lead; None: nothing is sent, so any will do.

    Raises:
        UsageError: an entry names nothing.
        DocumentError: every mistake in every file.
    """
    environ = os.environ if environ is None else environ
    expanded: list[Document] = []
    problems: list[Problem] = []
    for document in rule_documents(entries):
        known = {**environ, **unset_secrets(document, environ)} if tells_nobody else environ
        try:
            expanded.append(expand(document, resolver(known, folder_of(document.source))))
        except DocumentError as error:
            problems += error.problems
    if problems:
        raise DocumentError(problems)

    def read(document: Document, name: str) -> str:
        if beside is not None:
            beside.append(path_beside(document, name))
        return read_beside(document, name)

    rules = load_rules(expanded, read=read)
    if exporters is not None:
        problems += [problem for document in expanded for problem in _to_nowhere(document, exporters)]
    if problems:
        raise DocumentError(problems)
    return rules


def _to_nowhere(document: Document, exporters: Collection[str]) -> Iterator[Problem]:
    """Routes of a checked document that lead to exporters which the config does not have."""
    routes = document.at(("routes",))
    for index, route in enumerate(routes if isinstance(routes, list) else ()):
        for place, name in enumerate(route["to"]):
            if name not in exporters:
                hint = nearest(name, sorted(exporters)) if exporters else "there are no `exporters`"
                path = ("routes", index, "to", place)
                yield document.problem(path, f"`{name}` is no exporter of the config", hint)


def resolver(environ: Mapping[str, str], base: Path) -> Callable[[str, str], str]:
    """What `${scheme:argument}` stands for: `env` (with `:-default`) and `file`, relative to `base`."""

    def resolve(scheme: str, argument: str) -> str:
        if scheme == "env":
            name, separator, default = argument.partition(":-")
            if name in environ:
                return environ[name]
            if separator:
                return default
            raise LookupError(
                f"environment variable `{name}` is not set\nset it, or give a default: `${{env:{name}:-default}}`"
            )
        if scheme == "file":
            path = base / Path(argument).expanduser()
            try:
                return path.read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise LookupError(f"file `{argument}` cannot be read: {error}") from error
        raise LookupError(f"`${{{scheme}:…}}` is not known\n{nearest(scheme, ['env', 'file'])}; a plain `$` is `$$`")

    return resolve


def folder_of(source: str) -> Path:
    """Where the paths that a document names start; those of `--set` start where the user stands."""
    return Path() if source.startswith(("--set ", BUNDLED)) else Path(source).parent


_ENV: Final = re.compile(r"\$\{(?:env:)?(\w+)\}")


def unset_secrets(document: Document, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that contacts of a rule file ask for and that are not set, with something in their place."""
    found: dict[str, str] = {}

    def walk(value: object, key: str) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                walk(item, str(name))
        elif isinstance(value, list):
            for item in value:
                walk(item, key)
        elif isinstance(value, str):
            for name in _ENV.findall(value):
                if name not in environ:
                    found[name] = f"https://unset.invalid/{name}" if "url" in key else "unset"

    walk(document.at(("contacts",)), "")
    return found


def path_beside(document: Document, name: str) -> Path:
    """A file that a document names, relative to it."""
    folder = bundled("rules") if document.source.startswith(BUNDLED) else folder_of(document.source)
    return folder / Path(name).expanduser()


def read_beside(document: Document, name: str) -> str:
    r"""The text of a file that a document names, relative to it.

    Raises:
        LookupError: it cannot be read; "message\nhint".
    """
    try:
        return path_beside(document, name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise LookupError(f"`{name}` cannot be read: {reason}\npaths are relative to this file") from error
