"""Components that a test needs and a machine may lack: skipped with the reason and the install command.

`OTEL_COST_REQUIRE` names those that must be there (comma-separated, or `all`), as `.ci/run` does after installing
them: what is missing then fails.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def need_program(program: str, install: str) -> str:
    """The path of a program on PATH; `install`: the command that brings it."""
    return shutil.which(program) or missing(program, install)


def missing(component: str, install: str) -> NoReturn:
    """Skip this test, or fail it where the component is required."""
    required = os.environ.get("OTEL_COST_REQUIRE", "").split(",")
    said = f"{component} is missing; install: {install}"
    if component in required or "all" in required:
        pytest.fail(said)
    pytest.skip(said, allow_module_level=True)
