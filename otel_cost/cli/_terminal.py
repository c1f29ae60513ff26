"""Terminal: one console for all tables; piped output is plain and never cut."""

from __future__ import annotations

import sys

from rich.console import Console

_PIPED_WIDTH = 240


def console() -> Console:
    """For stdout as it is now."""
    return Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
