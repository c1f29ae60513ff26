"""Normalise: an event in any client's dialect becomes a step in the words of the field, or nothing.

A dialect is one file in this folder whose last line is `register(Dialect(...))`;
files starting with an underscore are shared tools. Detection goes by
instrumentation scope and service name first, by attribute keys second, because
keys are borrowed between clients and scopes are not.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from otel_cost.core.model.attributes import ask

if TYPE_CHECKING:
    from otel_cost.core.model.event import LogEvent, MetricPoint, SpanEvent
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
    _named_reader.cache_clear()
    ask(prefixes=dialect.keys)  # shapes that were found before are forgotten with it


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


SpanReader = Callable[["SpanEvent"], "Step | None"]


@lru_cache(maxsize=4096)
def _named_reader(scope: str, service: str) -> SpanReader | None:
    """The dialect that a scope and a service name, where it reads spans."""
    return next((dialect.span for dialect in _by_scope(scope, service) if dialect.span is not None), None)


def _given_away(keys: frozenset[str]) -> SpanReader | None:
    """The dialect that a set of keys gives away."""
    named = [found for key in keys if (found := _by_key(key)) is not None and found.span is not None]
    best = min(named, key=lambda dialect: (dialect.rank, dialect.name), default=None)
    return None if best is None else best.span


def normalise_span(span: SpanEvent) -> Step | None:
    """The step a span tells of, or None for a span that is neither model, tool nor agent work."""
    read = _named_reader(span.scope.name, span.resource.service)
    if read is None:
        read = span.attributes.shape().derived(_given_away)
    return None if read is None else read(span)


def normalise_log(log: LogEvent) -> Step | None:
    """The step a log record tells of, or None."""
    for dialect in _by_scope(log.scope.name, log.resource.service):
        if dialect.log is not None:
            return dialect.log(log)
    found = _by_key(log.name) if log.name else None
    return None if found is None or found.log is None else found.log(log)


def normalise_metric(point: MetricPoint) -> Measure | None:
    """What a data point counts, or None for what is no usage."""
    for dialect in _by_scope(point.scope.name, point.resource.service):
        if dialect.metric is not None:
            return dialect.metric(point)
    found = _by_key(point.name)
    return None if found is None or found.metric is None else found.metric(point)


for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")
