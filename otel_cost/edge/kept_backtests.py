"""Kept backtests: their reports in the data directory, where the page finds them."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FOLDER: Final = "backtests"  # in the data directory
KEPT: Final = 200  # reports; the oldest goes
_ID: Final = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_SHOWN: Final = frozenset(
    ("made_at", "about", "total", "rules", "money_bars", "harm_bars", "fires", "alerts", "more")
)  # `backtest_page.report_of`


def keep_report(folder: Path, report: Mapping[str, Any]) -> str:
    """Keep a report, for the owner of the folder only; its id.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps(report)
    made = re.sub(r"[-:]", "", str(report["made_at"])[:19])
    report_id = f"{made}Z-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = folder / f"{report_id}.new"
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.replace(folder / f"{report_id}.json")
    for old in _files(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return report_id


def kept_reports(folder: Path) -> list[dict[str, Any]]:
    """`id`, `made_at`, `about`, `total` of each kept report, the newest first; what cannot be read is left out."""
    found = ((file.stem, _read(file)) for file in _files(folder))
    return [
        {"id": stem, **{name: report[name] for name in ("made_at", "about", "total")}}
        for stem, report in found
        if report is not None
    ]


def kept_report(folder: Path, report_id: str) -> dict[str, Any] | None:
    """One kept report; None: there is none of this id."""
    return _read(folder / f"{report_id}.json") if _ID.fullmatch(report_id) else None


def _files(folder: Path) -> list[Path]:
    return sorted((file for file in folder.glob("*.json") if _ID.fullmatch(file.stem)), reverse=True)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        report = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and report.keys() >= _SHOWN else None
