"""Exemptions: exceptions from rules that know no money. Whom they cover is left alone, and every use is told.

What exceptions give to budgets is counted there (`core/budget`).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from otel_cost.core.model.finding import Alert
from otel_cost.core.model.vocabulary import Category, Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_cost.core.rules.kinds.exceptions import Exception_

_MOST_TOLD: Final = 20_000


class Exemptions:
    """The exemptions of one rule set. Not thread-safe: it belongs to the engine."""

    def __init__(self, exceptions: Iterable[Exception_]) -> None:
        """Those of `exceptions` that exempt; a budget among what they apply to never asks here."""
        self._of: dict[str, list[Exception_]] = {}
        for one in exceptions:
            for name in one.applies_to:
                if one.exempts:
                    self._of.setdefault(name, []).append(one)
        self._told: set[tuple[str, str, str, str]] = set()
        self.news: list[Alert] = []  # uses that are to be told; whoever takes them empties it

    def go_on_from(self, old: Exemptions) -> None:
        """Uses that were told are not told again."""
        self._told, self.news = old._told, old.news

    def covers(self, rule: str, get: Callable[[str], object], at_ns: int) -> Exception_ | None:
        """The exception that keeps a rule from acting at a moment; None: there is none."""
        for one in self._of.get(rule, ()):
            if one.relief.since_ns <= at_ns <= one.relief.until_ns and one.relief.match(get):
                return one
        return None

    def use(self, one: Exception_, rule: str, alert: Alert) -> None:
        """Write down that an exception was used in place of a rule's alert: once for each run."""
        key = (alert.tenant, one.name, rule, alert.run_id)
        if key in self._told:
            return
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told.add(key)
        fingerprint = hashlib.blake2b("\0".join(key).encode(), digest_size=8).hexdigest()
        self.news.append(
            Alert(
                id=f"{fingerprint}-1",
                tenant=alert.tenant,
                run_id=alert.run_id,
                trace_id=alert.trace_id,
                rule=one.name,
                category=Category.POLICY,
                kind="exception_used",
                state="firing",
                seq=1,
                severity=Severity.NOTICE,
                span_ids=alert.span_ids,
                onset_span_id=alert.onset_span_id,
                at_span_id=alert.at_span_id,
                at_ns=alert.at_ns,
                wasted_nano=0,
                action="",
                summary=f"{alert.summary}; exception {one.name} keeps {rule} from acting",
                fingerprint=fingerprint,
                evidence={
                    **alert.evidence,
                    "name": one.name,
                    "exempted_rule": rule,
                    "expires": one.expires,
                    "owner": one.owner,
                    "reason": one.reason,
                },
            )
        )
