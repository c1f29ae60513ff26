"""Entry point of the `otel-cost` script and of `python -m otel_cost`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; the result is the exit code."""
    if sys.argv[1:2] == ["hook"] and sys.argv[2:3] not in (["--help"], ["-h"]):
        from otel_cost.hook_client import main as hook  # noqa: PLC0415  # runs before every tool call of an agent

        return hook(sys.argv[2:])
    from otel_cost.cli import run  # noqa: PLC0415  # hooks must not pay for the command line

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
