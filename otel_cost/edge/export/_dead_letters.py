"""Dead letters: requests that a destination will never take, kept as files that `otel-cost replay` reads."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from pathlib import Path

    from otel_cost.core.model.effects import Signal

DEFAULT_MAX_BYTES: Final = 256 << 20

_log = structlog.get_logger(__name__)


class DeadLetters:
    """A folder of `TIME-N.REASON.SIGNAL.pb` files, one export request each, exactly as it was sent."""

    def __init__(self, folder: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._lock = threading.Lock()
        self._number = 0
        self._bytes = sum(file.stat().st_size for file in folder.glob("*.pb")) if folder.is_dir() else 0

    def put(self, signal: Signal, reason: str, payload: bytes) -> bool:
        """Keep a request, durably; False where it could not be kept (folder full, disk failing)."""
        with self._lock:
            if self._bytes + len(payload) > self._max_bytes:
                return False
            self._bytes += len(payload)
            self._number += 1
            number = self._number
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        # The process id keeps names apart over a restart within one second.
        path = self._folder / f"{stamp}-{os.getpid()}-{number:06d}.{reason}.{signal.value}.pb"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # spans can hold prompts
            with open(descriptor, "wb") as file:  # a descriptor, for the mode  # noqa: PTH123
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            _log.error("dead letter not kept", folder=str(self._folder), error=str(error))
            return False
        return True
