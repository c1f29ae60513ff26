"""When: instants as people write them in `since` and `until`: `30d` ago, a date, or an RFC 3339 instant."""

from __future__ import annotations

from datetime import UTC, datetime

from otel_cost.errors import UsageError
from otel_cost.quantities import duration_ns


def instant_ns(written: str, now_ns: int) -> int:
    """Nanoseconds since the epoch. A duration counts back from now; a time without a zone is UTC.

    Raises:
        UsageError: neither of these.
    """
    try:
        return now_ns - duration_ns(written)
    except ValueError:
        pass
    try:
        # A plus sign that was not escaped reaches us as a blank.
        instant = datetime.fromisoformat(written.strip().replace(" 0", "+0") if "T" in written else written.strip())
    except ValueError as error:
        message = f"`{written}` is no time: write `30d` (ago), `2026-11-01` or `2026-11-01T09:00:00Z`"
        raise UsageError(message) from error
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    since = instant - datetime(1970, 1, 1, tzinfo=UTC)
    return ((since.days * 86_400 + since.seconds) * 10**6 + since.microseconds) * 1000
