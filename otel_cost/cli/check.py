"""List every mistake in rule, config, price and rule test files."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from otel_cost.document import Document
    from otel_cost.errors import Problem


def check(
    paths: Annotated[list[str], typer.Argument(help="Rule, config or price files, folders of them, or bundled:NAME")],
) -> None:
    """List every mistake in rule, config, price and test files; which is which is told by their keys.

    Rule files are checked together, because rules of all files share one space of names.
    Exit 0: everything loads; 1: something does not.
    """
    from otel_cost.document import expand
    from otel_cost.edge.config import folder_of, resolver
    from otel_cost.edge.files import entry_files, read_document
    from otel_cost.errors import DocumentError

    problems: dict[str, list[Problem]] = {}  # by file, in the order given
    documents: dict[str, list[Document]] = {"config": [], "prices": [], "tests": [], "rules": []}
    for file, shown in (named for path in paths for named in entry_files(path)):
        problems[shown] = []
        try:
            document = expand(read_document(file, shown), resolver(os.environ, folder_of(shown)))
        except DocumentError as error:
            problems[shown] += error.problems
            continue
        documents[_kind_of(document)].append(document)
    for problem in (
        *_in_configs(documents["config"]),
        *_in_prices(documents["prices"]),
        *_in_tests(documents["tests"]),
        *_in_rules(documents["rules"]),
    ):
        problems.setdefault(problem.source, []).append(problem)
    for shown, here in problems.items():
        print(f"{shown}: {_counted(len(here))}", *here, sep="\n")
    raise typer.Exit(1 if any(problems.values()) else 0)


def _kind_of(document: Document) -> Literal["rules", "config", "prices", "tests"]:
    """What most of its top-level keys belong to; in doubt it is rules."""
    from otel_cost.core.price.schema import PriceFile
    from otel_cost.core.rules import RuleFile
    from otel_cost.edge.config import Config

    keys = set(document.value) if isinstance(document.value, dict) else set()
    if "tests" in keys:
        return "tests"
    rules, config, prices = (len(keys & set(model.model_fields)) for model in (RuleFile, Config, PriceFile))
    if rules >= max(config, prices):
        return "rules"
    return "config" if config >= prices else "prices"


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


def _in_prices(documents: list[Document]) -> list[Problem]:
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


def _in_rules(documents: list[Document]) -> list[Problem]:
    from otel_cost.core.rules import load_rules
    from otel_cost.errors import DocumentError

    try:
        load_rules(documents, now_ns=time.time_ns())
    except DocumentError as error:
        return error.problems
    return []


def _counted(mistakes: int) -> str:
    return {0: "no mistakes", 1: "1 mistake"}.get(mistakes, f"{mistakes} mistakes")
