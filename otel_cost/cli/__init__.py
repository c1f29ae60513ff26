"""The command line: one file per command, imported only when it is the one that runs.

A file `cli/NAME.py` is the command `NAME` (an underscore in the file's name is a
dash): it holds a function of that name, or, for a command with subcommands, a
`typer.Typer` called `app`. The first line of its docstring is its line in `--help`.
Files starting with an underscore are shared tools.

Exit codes: 0 done, 1 the input has mistakes (each command says which), 2 unusable
arguments or a config or rule file that does not load.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from otel_cost.errors import OtelCostError

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Commands(TyperGroup):
    """Finds commands by their files; lists them from their docstrings, without importing any."""

    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002  # Typer hides its own Context type
        return sorted(
            module.name.replace("_", "-")
            for module in pkgutil.iter_modules(__path__)
            if not module.name.startswith("_")
        )

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        if cmd_name not in self.list_commands(ctx):
            return None
        app = typer.Typer(add_completion=False)
        if self._listing:
            app.command(cmd_name, help=_summary(cmd_name))(lambda: None)
            return typer.main.get_command(app)
        name = cmd_name.replace("-", "_")
        module = importlib.import_module(f"{__name__}.{name}")
        if hasattr(module, "app"):
            module.app.info.name = cmd_name
            return typer.main.get_group(module.app)
        app.command(cmd_name)(getattr(module, name))
        return typer.main.get_command(app)

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False


def _summary(command: str) -> str:
    """First line of the help of a command, read without running its file."""
    name = command.replace("-", "_")
    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    text = ast.get_docstring(functions[0] if functions else tree) or ""
    return text.partition("\n")[0]


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"otel-cost {version('otel-cost')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Cost as a runtime signal for AI agents: prices GenAI spans, sees loops and waste while they burn."""


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code instead of leaving."""
    try:
        app(args=list(arguments), prog_name="otel-cost")
    except OtelCostError as error:
        print(error, file=sys.stderr)
        return 2
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    return 0
