"""Notify: alerts to people and machines, the same facts to every sink.

A sink is one file in this folder whose last line is `register(SinkKind(...))`;
files starting with an underscore are shared tools.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from otel_cost.edge.notify._contract import Remembering
from otel_cost.edge.notify._notifier import Telling
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from otel_cost.core.rules import RuleSet
    from otel_cost.edge.notify._contract import Sink, SinkKind

SINKS: dict[str, SinkKind] = {}


def register(kind: SinkKind) -> None:
    """Make a type of sink known; a second one of the same name is a programming error."""
    if kind.name in SINKS:
        raise ValueError(f"sink {kind.name!r} is registered twice")
    SINKS[kind.name] = kind


def build_sink(name: str, given: BaseModel | Mapping[str, Any] | None) -> Sink:
    """A sink of type `name`; `given` is its settings or what they are validated from.

    Raises:
        UsageError: there is no such type.
        pydantic.ValidationError: settings that do not fit the type.
    """
    kind = SINKS.get(name)
    if kind is None:
        raise UsageError(f"contacts: {name!r} is no known sink; known are {', '.join(sorted(SINKS))}")
    return kind.build(given if isinstance(given, BaseModel) else kind.settings.model_validate(given or {}))


def build_telling(rules: RuleSet, folder: Path | None = None) -> Telling:
    """What the rules say of people, with a sink for each contact. `folder`: where sinks that keep notes keep them."""
    contacts = {
        contact.name: (contact, build_sink(contact.way, contact.settings), SINKS[contact.way].takes_groups)
        for contact in rules.contacts
    }
    for name, (_, sink, _) in contacts.items():
        if folder is not None and isinstance(sink, Remembering):
            sink.remember_in(folder / f"{name}.json")
    return Telling(contacts, rules.told, rules.inhibitions)


for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")
