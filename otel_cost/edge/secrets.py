"""Secrets of a data directory: made once, readable by its owner alone, printed nowhere."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from otel_cost.core.redact import Redactor
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from otel_cost.edge.config import Content


def build_redactor(content: Content, data_dir: Path) -> Redactor:
    """What the config says of content; without a secret in it, hashes use one that lives in the data directory.

    Raises:
        UsageError: the secret cannot be read or made.
    """
    secret = b"" if content.secret is None else content.secret.get_secret_value().encode()
    return Redactor(content.default, content.keys, secret or kept_secret(data_dir / "content.key"))


def kept_secret(path: Path) -> bytes:
    """32 random bytes, the same at every start.

    Raises:
        UsageError: the file cannot be read or made.
    """
    try:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return path.read_bytes()
        made = secrets.token_bytes(32)
        with os.fdopen(fd, "wb") as file:
            file.write(made)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(f"data_dir: {path} cannot be used: {error.strerror}") from error
    return made
