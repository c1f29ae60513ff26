"""The rings: what may not happen in the pure part, and what may not be imported from where."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "otel_cost"
PURE = sorted([*(PACKAGE / "core").rglob("*.py"), PACKAGE / "pipeline.py", PACKAGE / "document.py"])

FORBIDDEN_BUILTINS = {"open", "print", "input", "exec", "eval"}
FORBIDDEN_CALLS = {
    "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter", "time.perf_counter_ns",
    "time.sleep", "datetime.now", "datetime.utcnow", "datetime.today", "date.today", "uuid.uuid1", "uuid.uuid4",
    "os.urandom", "os.getenv",
}  # fmt: skip
FORBIDDEN_MODULES = {"random", "secrets", "threading", "asyncio", "socket", "subprocess", "logging", "multiprocessing"}
FORBIDDEN_METHODS = {"read_text", "read_bytes", "write_text", "write_bytes"}


def impurities(source: str) -> list[str]:
    """Every use of a clock, a file, dice, a thread or the terminal in a module, as `line: what`."""
    found: list[str] = []
    modules: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            names = [node.module]
        else:
            continue
        found += [f"{node.lineno}: import {name}" for name in names if name.partition(".")[0] in FORBIDDEN_MODULES]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_BUILTINS:
            found.append(f"{node.lineno}: {node.func.id}")
        elif isinstance(node, ast.Attribute | ast.Name):
            first, _, rest = ast.unparse(node).partition(".")
            name = ".".join(filter(None, [modules.get(first, first), rest]))
            last_two = ".".join(name.split(".")[-2:])
            if name in FORBIDDEN_CALLS or last_two in FORBIDDEN_CALLS or (rest and rest in FORBIDDEN_METHODS):
                found.append(f"{node.lineno}: {name}")
    return found


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_pure_modules_touch_nothing(path: Path) -> None:
    assert impurities(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time\nnow = time.time()",
        "from time import monotonic as clock\nclock()",
        "from datetime import datetime\ndatetime.now()",
        "import datetime as dt\ndt.datetime.now()",
        "stamp = field(default_factory=time.time_ns)",
        "import random",
        "from threading import Lock",
        "open('x')",
        "path.read_text()",
    ],
)
def test_the_check_sees_impurities(source: str) -> None:
    assert impurities(source)


def test_import_rules_hold() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*.py")
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []
