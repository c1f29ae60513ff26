"""Which ledger it is: the file in the data directory, or the database that the config names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from otel_cost.edge.ledger import FILE, Shared
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import SecretStr

    from otel_cost.edge.ledger import Ledger

_NODE: Final = "node"  # in the data dir: who writes from here to a ledger that is shared


def open_ledger(url: SecretStr | None, data_dir: Path) -> Ledger:
    """The ledger of a data directory, to write to; made where it is not there.

    Raises:
        UsageError: it cannot be used.
    """
    if url is None:
        from otel_cost.edge.ledger.duckdb import DuckDbLedger  # noqa: PLC0415  # heavy, and not always needed

        return DuckDbLedger(data_dir / FILE)
    return _shared(url, _node(data_dir))


def shared_by_services(ledger: Ledger) -> Shared | None:
    """The same ledger, where several services write to it."""
    return ledger if isinstance(ledger, Shared) else None


def read_ledger(url: SecretStr | None, data_dir: Path) -> Ledger:
    """The same, only to be read.

    Raises:
        UsageError: it cannot be used, or nothing has been recorded.
    """
    if url is None:
        from otel_cost.edge.ledger.duckdb import DuckDbLedger  # noqa: PLC0415  # heavy, and not always needed

        need_records(url, data_dir)
        return DuckDbLedger(data_dir / FILE, read_only=True)
    return _shared(url, None)


def need_records(url: SecretStr | None, data_dir: Path) -> None:
    """Refuse to make a new ledger where one is expected.

    Raises:
        UsageError: nothing has been recorded.
    """
    if url is None and not (data_dir / FILE).exists():
        raise UsageError(
            f"nothing has been recorded in {data_dir}\n"
            "    start `otel-cost serve`, or name its folder with --data-dir or its config with -c"
        )


def _shared(url: SecretStr, node: str | None) -> Ledger:
    try:
        from otel_cost.edge.ledger.postgres import PostgresLedger  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise UsageError(f"ledger: {error}\n    pip install 'otel-cost[postgres]'") from error
    return PostgresLedger(url.get_secret_value(), node)


def _node(data_dir: Path) -> str:
    """A name that this data directory alone has."""
    path = data_dir / _NODE
    try:
        if not path.exists():
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.write_text(os.urandom(8).hex())
        return path.read_text()
    except OSError as error:
        raise UsageError(f"data_dir: {path} cannot be used: {error.strerror}") from error
