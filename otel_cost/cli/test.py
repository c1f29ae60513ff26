"""Run the unit tests of rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def test(
    paths: Annotated[list[Path], typer.Argument(help="Test files, or folders with *.test.yaml files")],
    junit: Annotated[Path | None, typer.Option(help="Write the results as JUnit XML, too")] = None,  # noqa: PT028  # a command
) -> None:
    """Run the unit tests of rules. Exit 0: all pass; 1: some do not."""
    from otel_cost.edge.files import is_test, yaml_files
    from otel_cost.edge.rule_tests import run_file
    from otel_cost.errors import UsageError

    files = [file for path in paths for file in yaml_files(path) if not path.is_dir() or is_test(file)]
    if not files:
        raise UsageError("no tests there: name a file, or a folder with *.test.yaml files")
    results = [(file, name, failures) for file in files for name, failures in run_file(file)]
    for file, name, failures in results:
        print(f"{'FAIL' if failures else 'ok  '} {file}: {name}", *(f"     {said}" for said in failures), sep="\n")
    failed = sum(bool(failures) for *_, failures in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    if junit is not None:
        junit.write_text(_junit(results), encoding="utf-8")
    raise typer.Exit(1 if failed else 0)


def _junit(results: list[tuple[Path, str, list[str]]]) -> str:
    from xml.etree.ElementTree import Element, SubElement, tostring

    failed = sum(bool(failures) for *_, failures in results)
    suite = Element("testsuite", name="otel-cost", tests=str(len(results)), failures=str(failed))
    for file, name, failures in results:
        case = SubElement(suite, "testcase", classname=str(file), name=name)
        if failures:
            SubElement(case, "failure", message=failures[0]).text = "\n".join(failures)
    return tostring(suite, encoding="unicode", xml_declaration=True)
