"""Harness configs: installing our hooks where each harness looks for them, and taking them out again.

A harness is one file in this folder whose last line is `register(Harness(...))`;
files starting with an underscore are shared tools. An edit is a function from
text to text; reading, backing up and writing are done here, once.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import re
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8317"
DEFAULT_LIMIT_MS: Final = 300
BACKUP: Final = ".before-otel-cost"
_OURS: Final = re.compile(r"otel[-_]cost\S* hook (\w+)")


@dataclass(frozen=True, slots=True)
class Setup:
    """What is to be installed, and where the harness's config stands."""

    path: Path
    url: str = DEFAULT_URL  # of the service's API
    command: str = "otel-cost hook"  # without the dialect
    limit_ms: int = DEFAULT_LIMIT_MS  # after which the harness goes on without an answer
    live_usage: bool = False  # hear of tokens at once where that costs a call per chunk
    by_client: bool = False  # nothing over HTTP

    def client(self, dialect: str) -> str:
        """The command that asks for a harness. A service at its usual place is found without being named."""
        where = "" if self.url == DEFAULT_URL else f" --url {shlex.quote(self.url)}"
        limit = "" if self.limit_ms == DEFAULT_LIMIT_MS else f" --limit-ms {self.limit_ms}"
        return f"{self.command} {dialect}{where}{limit}"

    @property
    def limit_s(self) -> int:
        """For harnesses that are told whole seconds; the client itself gives up in time."""
        return max(1, -(-self.limit_ms // 1000))


@dataclass(frozen=True, slots=True)
class State:
    """What is installed. `events`: those that reach us; `notes`: what the user should know."""

    installed: bool
    complete: bool = False
    events: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Harness:
    """One harness.

    `path(environ)` is its config file. `install` gives the file's new text (the old
    one is "" where there is no file), `uninstall` the text without ours, or None where
    nothing of the user's is left: the file goes. Both leave everything else as it is.
    """

    name: str
    title: str
    path: Callable[[Mapping[str, str]], Path]
    install: Callable[[str, Setup], str]
    uninstall: Callable[[str, Setup], str | None]
    state: Callable[[str, Setup], State]
    advice: str = ""  # said after installing


HARNESSES: dict[str, Harness] = {}


def register(harness: Harness) -> None:
    """Make a harness known; a second one of the same name is a programming error."""
    if harness.name in HARNESSES:
        raise ValueError(f"harness {harness.name!r} is registered twice")
    HARNESSES[harness.name] = harness


@dataclass(frozen=True, slots=True)
class Edit:
    """A change to one file, not yet made. `after` None: the file goes."""

    path: Path
    before: str | None
    after: str | None

    @property
    def changes(self) -> bool:
        return self.before != self.after

    def diff(self) -> str:
        """Unified diff, "" without a change."""
        name = str(self.path)
        lines = difflib.unified_diff(
            (self.before or "").splitlines(keepends=True),
            (self.after or "").splitlines(keepends=True),
            name if self.before is not None else "/dev/null",
            name if self.after is not None else "/dev/null",
        )
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)

    def carry_out(self) -> Path | None:
        """Make the change in one step, keeping the file's mode; returns the backup, if one was made.

        Raises:
            UsageError: the file cannot be written.
        """
        if not self.changes:
            return None
        backup = self.path.with_name(self.path.name + BACKUP)
        target = self.path.resolve()  # a link to a dotfile repository stays a link
        made: Path | None = None
        try:
            if self.after is None:
                self.path.unlink()
                backup.unlink(missing_ok=True)
                return None
            target.parent.mkdir(parents=True, exist_ok=True)
            if self.before is not None and not backup.exists():
                shutil.copy2(target, backup)
                made = backup
            _replace(target, self.after)
        except OSError as error:
            raise UsageError(f"{self.path}: {error.strerror or error}") from error
        return made


def plan_install(harness: Harness, setup: Setup) -> Edit:
    """The edit that installs; without a change where all is in place.

    Raises:
        UsageError: the config cannot be read or is not what the harness reads.
    """
    before = _read(setup.path)
    return Edit(setup.path, before, _named(setup, lambda: harness.install(before or "", setup)))


def plan_uninstall(harness: Harness, setup: Setup) -> Edit:
    """The edit that takes ours out. Where nothing else was changed since, the file is again what it was, byte by byte.

    Raises:
        UsageError: as with `plan_install`.
    """
    before = _read(setup.path)
    if before is None or not harness.state(before, setup).installed:
        return Edit(setup.path, before, before)
    backup = _read(setup.path.with_name(setup.path.name + BACKUP))
    if backup is not None and _named(setup, lambda: harness.install(backup, setup)) == before:
        return Edit(setup.path, before, backup)
    return Edit(setup.path, before, _named(setup, lambda: harness.uninstall(before, setup)))


def look(harness: Harness, setup: Setup) -> State:
    """What is installed now.

    Raises:
        UsageError: as with `plan_install`.
    """
    text = _read(setup.path)
    return State(installed=False) if text is None else _named(setup, lambda: harness.state(text, setup))


def drop_backup(setup: Setup) -> None:
    """After an uninstall the backup has done its work."""
    setup.path.with_name(setup.path.name + BACKUP).unlink(missing_ok=True)


def client_command() -> str:
    """How a harness starts our client: by name where its shell finds it, else with this very interpreter."""
    if shutil.which("otel-cost"):
        return "otel-cost hook"
    return f"{shlex.quote(sys.executable)} -m otel_cost hook"


def is_ours(command: object, dialect: str) -> bool:
    """Is this hook command our client, however it is started?"""
    found = _OURS.search(command) if isinstance(command, str) else None
    return found is not None and found[1] == dialect


def home(environ: Mapping[str, str], variable: str, *default: str) -> Path:
    """A harness's folder: as its own variable says, else below the home folder."""
    told = environ.get(variable)
    return Path(told).expanduser() if told else Path(environ.get("HOME") or Path.home(), *default)


def _named(setup: Setup, work: Callable[[], T]) -> T:
    try:
        return work()
    except UsageError as error:
        raise UsageError(f"{setup.path}: {error}; nothing was changed") from error


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8; nothing was changed") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    fresh = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
        if path.exists():
            shutil.copymode(path, fresh)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")
