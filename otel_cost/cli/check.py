"""List every mistake in rule and config files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from otel_cost.document import Document
    from otel_cost.errors import Problem


def check(
    paths: Annotated[list[str], typer.Argument(help="Rule or config files, folders of them, or bundled:NAME")],
) -> None:
    """List every mistake in rule and config files; which is which is told by their keys.

    Rule files are checked together, because rules of all files share one space of names.
    Exit 0: everything loads; 1: something does not.
    """
    from otel_cost.document import expand
    from otel_cost.edge.config import folder_of, resolver
    from otel_cost.edge.files import entry_files, read_document
    from otel_cost.errors import DocumentError

    problems: dict[str, list[Problem]] = {}  # by file, in the order given
    configs: list[Document] = []
    rules: list[Document] = []
    for file, shown in (named for path in paths for named in entry_files(path)):
        problems[shown] = []
        try:
            document = expand(read_document(file, shown), resolver(os.environ, folder_of(shown)))
        except DocumentError as error:
            problems[shown] += error.problems
            continue
        (configs if _is_config(document) else rules).append(document)
    for problem in (*_in_configs(configs), *_in_rules(rules)):
        problems.setdefault(problem.source, []).append(problem)
    for shown, found in problems.items():
        print(f"{shown}: {_counted(len(found))}", *found, sep="\n")
    raise typer.Exit(1 if any(problems.values()) else 0)


def _is_config(document: Document) -> bool:
    """A rule file has rule kinds at its top, a config has its own sections; a name in both is none of either."""
    from otel_cost.core.rules import RuleFile
    from otel_cost.edge.config import Config

    keys = set(document.value) if isinstance(document.value, dict) else set()
    return len(keys & set(Config.model_fields)) > len(keys & set(RuleFile.model_fields))


def _in_configs(documents: list[Document]) -> list[Problem]:
    """Mistakes in configs, and in the rules that they name."""
    from otel_cost.edge.config import check_config, read_rules
    from otel_cost.errors import DocumentError

    problems: list[Problem] = []
    for document in documents:
        try:
            config = check_config(document)
            if "rules" in config.model_fields_set:
                read_rules(config.rules)
        except DocumentError as error:
            problems += error.problems
    return problems


def _in_rules(documents: list[Document]) -> list[Problem]:
    from otel_cost.core.rules import load_rules
    from otel_cost.errors import DocumentError

    try:
        load_rules(documents)
    except DocumentError as error:
        return error.problems
    return []


def _counted(mistakes: int) -> str:
    return {0: "no mistakes", 1: "1 mistake"}.get(mistakes, f"{mistakes} mistakes")
