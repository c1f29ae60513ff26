"""Upkeep: what is old or unwanted goes, what is there can be copied while it is in use, and laid down again.

A backup is of one moment: the ledger and the journal from its cursor on. What was sent
on after it is sent again after a restore, with the same ids.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

import structlog

from otel_cost.edge.ledger import LedgerUnavailableError, Selection
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path
    from threading import Event

    from otel_cost.edge.config import Retention
    from otel_cost.edge.ledger import Ledger

EVERY_S: Final = 600.0
_SHARE: Final = 0.05  # of the runs, the oldest, at a time, while the ledger is too large
_ASIDE: Final = ("dead-letters", "quarantine", "journal/quarantine")
_MADE_ANEW: Final = frozenset({"api.json", "lock"})
_COMPLETE: Final = "backup-complete"

_log = structlog.get_logger(__name__)


def keep_house(ledger: Ledger, data_dir: Path, retention: Retention, stop: Event) -> None:
    """Do what `retention` says, now and every ten minutes, until told to stop."""
    while True:
        try:
            clean(ledger, data_dir, retention, time.time_ns())
        except (LedgerUnavailableError, OSError) as error:
            _log.warning("what is too old could not be deleted yet", problem=str(error))
        if stop.wait(EVERY_S):
            return


def clean(ledger: Ledger, data_dir: Path, retention: Retention, now_ns: int) -> int:
    """Delete what is older or more than `retention` allows; the number of runs.

    Raises:
        LedgerUnavailableError: not now.
    """
    gone = 0
    if retention.max_age:
        before_ns = now_ns - retention.max_age
        gone += ledger.forget(Selection(before_ns=before_ns))
        for folder in _ASIDE:
            for file in (data_dir / folder).rglob("*"):
                with suppress(OSError):
                    if file.is_file() and file.stat().st_mtime_ns < before_ns:
                        file.unlink()
    if retention.max_bytes is not None:
        while ledger.used_bytes() > retention.max_bytes and (some := ledger.forget_oldest(_SHARE)):
            gone += some
    if gone:
        _log.info("old runs deleted", runs=gone)
    return gone


def back_up(ledger: Ledger, data_dir: Path, target: Path) -> int:
    """Copy a data directory that is in use to a new folder; its size in bytes.

    Raises:
        UsageError: the folder is there already, or cannot be written.
    """
    if not target.is_absolute():
        raise UsageError(f"{target}: write the whole path of the new folder")
    try:
        target.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise UsageError(f"{target} is there already: a backup goes into a new folder") from None
    except OSError as error:
        raise UsageError(f"{target}: {error.strerror}") from error

    def beside() -> None:
        for file in sorted(data_dir.rglob("*")):
            name = file.relative_to(data_dir)
            if file.is_dir() or name.name in _MADE_ANEW or name.name.startswith("ledger.duckdb"):
                continue
            to = target / name
            to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if name.name.startswith("outbox.sqlite"):
                if name.suffix == ".sqlite":
                    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(to)) as copy:
                        source.backup(copy)
                continue
            with suppress(FileNotFoundError):  # released or replaced meanwhile
                shutil.copyfile(file, to)
                to.chmod(0o600)

    try:
        ledger.back_up(target, beside)
        (target / _COMPLETE).touch(mode=0o600)
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise UsageError(f"{target}: {error.strerror}") from error
    except UsageError:
        shutil.rmtree(target, ignore_errors=True)
        raise
    os.sync()
    return sum(file.stat().st_size for file in target.rglob("*") if file.is_file())


def restore(backup: Path, data_dir: Path) -> None:
    """Lay a backup down as a data directory that is empty or not there.

    Raises:
        UsageError: it is no whole backup, or something is in the way.
    """
    if not (backup / _COMPLETE).exists():
        raise UsageError(f"{backup} is no backup, or one that was not finished")
    if data_dir.exists() and any(data_dir.iterdir()):
        raise UsageError(f"{data_dir} is not empty: give an empty --data-dir")
    try:
        shutil.copytree(backup, data_dir, dirs_exist_ok=True, ignore=shutil.ignore_patterns(_COMPLETE))
        data_dir.chmod(0o700)
    except OSError as error:
        raise UsageError(f"{data_dir}: {error}") from error
