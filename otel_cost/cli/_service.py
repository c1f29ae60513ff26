"""Ask the running service to do something: its address and the key of this machine are in the data directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import urllib3

from otel_cost.edge.config import load_config
from otel_cost.edge.serve import discovery
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pydantic import SecretStr


def data_folder(config: Sequence[Path] | None, data_dir: Path | None) -> Path:
    """Where the service keeps its data."""
    return data_dir.expanduser().absolute() if data_dir is not None else load_config(config or []).data_dir


def place_of(config: Sequence[Path] | None, data_dir: Path | None) -> tuple[Path, SecretStr | None]:
    """Where the service keeps its data, and the database that its ledger is, if it is one."""
    loaded = load_config(config or [])
    return loaded.data_dir if data_dir is None else data_dir.expanduser().absolute(), loaded.ledger


def ask_service(folder: Path, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
    """The service's answer.

    Raises:
        UsageError: none runs on this folder, it does not answer, or it refuses; the text says why.
    """
    url = discovery.find(folder)
    if url is None:
        raise UsageError(
            f"no service runs on {folder}\n    start `otel-cost serve`, or name its folder with --data-dir"
        )
    key = discovery.local_key(folder)
    headers = None if key is None else {"authorization": f"Bearer {key}"}
    http = urllib3.PoolManager(headers=headers, retries=False, timeout=urllib3.Timeout(connect=2.0, read=30.0))
    try:
        answer = http.request(method, f"{url}{path}", json=body)
        told: dict[str, Any] = answer.json()
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise UsageError(f"the service at {url} does not answer: {error}") from error
    if answer.status >= 400:
        raise UsageError(str(told.get("error", f"{url}{path}: HTTP {answer.status}")))
    return told
