"""Normalise: an event in any client's dialect becomes a step in the words of the field, or nothing.

A dialect is one file in this folder whose last line is `register(Dialect(...))`;
files starting with an underscore are shared tools. Detection goes by
instrumentation scope and service name first, by attribute keys second, because
keys are borrowed between clients and scopes are not.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from otel_cost.core.model.attributes import ask, text

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_cost.core.model.event import LogEvent, MetricPoint, Resource, SpanEvent
    from otel_cost.core.model.measure import Measure
    from otel_cost.core.model.step import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one client (or family of clients) talks.

    `scopes` and `services` are prefixes of instrumentation scope names and
    `service.name`s; `keys` are prefixes of attribute keys (spans) or of event
    names (logs) that give it away where the scope does not. `rank` orders
    dialects that match alike: lower is asked first; the plain conventions come last.
    A reader returns None for what is not a step of its own (it stays in the tree as a plain span).
    """

    name: str
    scopes: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    rank: int = 50
    span: Callable[[SpanEvent], Step | None] | None = None
    log: Callable[[LogEvent], Step | None] | None = None
    metric: Callable[[MetricPoint], Measure | None] | None = None


DIALECTS: dict[str, Dialect] = {}


def register(dialect: Dialect) -> None:
    """Make a dialect known; a second one of the same name is a programming error."""
    if dialect.name in DIALECTS:
        raise ValueError(f"dialect {dialect.name!r} is registered twice")
    DIALECTS[dialect.name] = dialect
    _by_scope.cache_clear()
    _by_key.cache_clear()
    _BY_KEYS.clear()
    ask(prefixes=dialect.keys)


@lru_cache(maxsize=4096)
def _by_scope(scope: str, service: str) -> tuple[Dialect, ...]:
    named = [
        dialect
        for dialect in DIALECTS.values()
        if scope.startswith(dialect.scopes or ("\0",)) or service.startswith(dialect.services or ("\0",))
    ]
    return tuple(sorted(named, key=lambda dialect: dialect.rank))


@lru_cache(maxsize=1024)
def _by_key(key: str) -> Dialect | None:
    named = [dialect for dialect in DIALECTS.values() if key.startswith(dialect.keys or ("\0",))]
    return min(named, key=lambda dialect: dialect.rank, default=None)


# Which dialect a set of keys gives away. Senders choose keys, so it is bounded.
_BY_KEYS: dict[tuple[str, ...], Dialect | None] = {}
_MOST_SETS = 8_192
_UNSEEN = Dialect(name="")


def _look_up(keys: tuple[str, ...]) -> Dialect | None:
    if len(_BY_KEYS) >= _MOST_SETS:
        _BY_KEYS.clear()
    named = [found for key in keys if (found := _by_key(key)) is not None and found.span is not None]
    best = _BY_KEYS[keys] = min(named, key=lambda dialect: (dialect.rank, dialect.name), default=None)
    return best


def normalise_span(span: SpanEvent) -> Step | None:
    """The step a span tells of, or None for a span that is neither model, tool nor agent work."""
    for dialect in _by_scope(span.scope.name, _service(span.resource)):
        if dialect.span is not None:
            return dialect.span(span)
    told = span.attributes.told()
    if not told:
        return None
    keys = tuple(told)
    best = _BY_KEYS.get(keys, _UNSEEN)
    if best is _UNSEEN:
        best = _look_up(keys)
    return None if best is None or best.span is None else best.span(span)


def normalise_log(log: LogEvent) -> Step | None:
    """The step a log record tells of, or None."""
    for dialect in _by_scope(log.scope.name, _service(log.resource)):
        if dialect.log is not None:
            return dialect.log(log)
    found = _by_key(log.name) if log.name else None
    return None if found is None or found.log is None else found.log(log)


def normalise_metric(point: MetricPoint) -> Measure | None:
    """What a data point counts, or None for what is no usage."""
    for dialect in _by_scope(point.scope.name, _service(point.resource)):
        if dialect.metric is not None:
            return dialect.metric(point)
    found = _by_key(point.name)
    return None if found is None or found.metric is None else found.metric(point)


def _service(resource: Resource) -> str:
    return text(resource.attributes, "service.name") or ""


for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")
