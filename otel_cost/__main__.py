"""Entry point of the `otel-cost` script and of `python -m otel_cost`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; the result is the exit code."""
    from otel_cost.cli import run  # noqa: PLC0415  # a quick path for hooks must not pay for the command line

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
