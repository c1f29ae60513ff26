"""Discovery: how a command finds the service that runs on its data dir.

The service writes where its API is next to its data and takes the note away when
it stops. A note left by a crash names a process that is gone, or answers nothing: it counts as absent.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

NOTE: Final = "api.json"


def announce(data_dir: Path, url: str, key: str | None = None) -> None:
    """Say that the API of this process is at `url` (such as `http://127.0.0.1:8317`), and with which key.

    Who may read the data directory may read the data: the note is for its owner only.
    """
    fresh = data_dir / f"{NOTE}.new"
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps({"url": url, "pid": os.getpid(), **({} if key is None else {"key": key})}))
    fresh.replace(data_dir / NOTE)


def local_key(data_dir: Path) -> str | None:
    """The key for the service on `data_dir`: from `OTEL_COST_API_KEY`, else the one in its note."""
    given = os.environ.get("OTEL_COST_API_KEY")
    if given:
        return given
    try:
        key = json.loads((data_dir / NOTE).read_text()).get("key")
    except (OSError, ValueError, AttributeError):
        return None
    return key if isinstance(key, str) else None


def withdraw(data_dir: Path) -> None:
    """Take our own note away; another process's stays."""
    note = _read(data_dir)
    if note is not None and note[1] == os.getpid():
        (data_dir / NOTE).unlink(missing_ok=True)


def find(data_dir: Path) -> str | None:
    """URL of the API that runs on `data_dir`; None: none does."""
    note = _read(data_dir)
    if note is None:
        return None
    url, pid = note
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it lives, under another user
    return url


def _read(data_dir: Path) -> tuple[str, int] | None:
    try:
        note = json.loads((data_dir / NOTE).read_text())
        return str(note["url"]), int(note["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
