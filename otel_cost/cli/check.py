"""List every mistake in rule, config, price and rule test files."""

from __future__ import annotations

import os
import time
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from otel_cost.document import Document
    from otel_cost.errors import Problem


def check(
    paths: Annotated[list[str], typer.Argument(help="Rule, config or price files, folders of them, or bundled:NAME")],
) -> None:
    """List every mistake in rule, config, price and test files; which is which is told by their keys.

    Rule files are checked together, because rules of all files share one space of names. Also mistakes are rules that
    load and cannot do their work: expired, never matching, shadowed. What may be meant is a note.
    Exit 0: everything loads; 1: something does not.
    """
    from otel_cost.document import expand
    from otel_cost.edge.files import entry_files, read_document
    from otel_cost.edge.rule_files import folder_of, resolver, unset_secrets
    from otel_cost.errors import DocumentError

    notes: list[str] = []
    problems: dict[str, list[Problem]] = {}  # by file, in the order given
    documents: dict[str, list[Document]] = {"config": [], "prices": [], "tests": [], "rules": []}
    for file, shown in (named for path in paths for named in entry_files(path)):
        problems[shown] = []
        try:
            document = read_document(file, shown)
            unset = unset_secrets(document, os.environ)
            document = expand(document, resolver({**os.environ, **unset}, folder_of(shown)))
            notes += [f"{shown}: {name} is not set here; `serve` asks for it" for name in unset]
        except DocumentError as error:
            problems[shown] += error.problems
            continue
        documents[_kind_of(document)].append(document)
    for problem in (
        *_in_configs(documents["config"]),
        *_in_prices(documents["prices"]),
        *_in_tests(documents["tests"]),
        *_in_rules(documents["rules"], notes),
    ):
        problems.setdefault(problem.source, []).append(problem)
    for shown, here in problems.items():
        print(f"{shown}: {_counted(len(here))}", *here, sep="\n")
    for note in notes:
        print(f"note: {note}")
    raise typer.Exit(1 if any(problems.values()) else 0)


def _kind_of(document: Document) -> Literal["rules", "config", "prices", "tests"]:
    """What most of its top-level keys belong to; in doubt it is rules."""
    from otel_cost.core.rules import RuleFile

    keys = set(document.value) if isinstance(document.value, dict) else set()
    if "tests" in keys:
        return "tests"
    if keys and keys <= set(RuleFile.model_fields):
        return "rules"  # at once: the models of the others come with exporters and price lists

    from otel_cost.core.price.schema import PriceFile
    from otel_cost.edge.config import Config

    rules, config, prices = (_known(keys, set(model.model_fields)) for model in (RuleFile, Config, PriceFile))
    if rules >= max(config, prices):
        return "rules"
    return "config" if config >= prices else "prices"


def _known(keys: set[str], fields: set[str]) -> float:
    """How many keys belong there; one that is only misspelt counts a little less."""
    misspelt = sum(bool(get_close_matches(str(key), fields, n=1)) for key in keys - fields)
    return len(keys & fields) + misspelt / 2


def _in_configs(documents: list[Document]) -> list[Problem]:
    """Mistakes in configs, and in the rules that they name."""
    if not documents:
        return []  # what is not there is not worth its imports
    from otel_cost.edge.config import check_config
    from otel_cost.edge.rule_files import read_rules
    from otel_cost.errors import DocumentError

    problems: list[Problem] = []
    for document in documents:
        try:
            config = check_config(document)
            if "rules" in config.model_fields_set:
                read_rules(config.rules, tells_nobody=True, exporters=config.exporters.keys())
        except DocumentError as error:
            problems += error.problems
    return problems


def _in_prices(documents: list[Document]) -> list[Problem]:
    if not documents:
        return []  # what is not there is not worth its imports
    from otel_cost.core.price import layer_of
    from otel_cost.errors import DocumentError

    problems: list[Problem] = []
    for document in documents:
        try:
            layer_of(document)
        except DocumentError as error:
            problems += error.problems
    return problems


def _in_tests(documents: list[Document]) -> list[Problem]:
    if not documents:
        return []  # what is not there is not worth its imports
    from otel_cost.document import validate
    from otel_cost.edge.rule_tests import RuleTestFile
    from otel_cost.errors import DocumentError

    problems: list[Problem] = []
    for document in documents:
        try:
            validate(document, RuleTestFile)
        except DocumentError as error:
            problems += error.problems
    return problems


def _in_rules(documents: list[Document], notes: list[str]) -> list[Problem]:
    """Mistakes in rule files; what may not be meant goes to `notes`."""
    from otel_cost.core.rules import load_rules
    from otel_cost.edge.rule_files import read_beside
    from otel_cost.errors import DocumentError

    try:
        notes += map(str, load_rules(documents, now_ns=time.time_ns(), read=read_beside).notes)
    except DocumentError as error:
        return error.problems
    return []


def _counted(mistakes: int) -> str:
    return {0: "no mistakes", 1: "1 mistake"}.get(mistakes, f"{mistakes} mistakes")
