"""Alerts about the service's own surroundings: not about a run, no rule of the user's; on the way of all others."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from otel_cost.core.model.finding import Alert
from otel_cost.core.model.vocabulary import Category, Severity

if TYPE_CHECKING:
    from collections.abc import Mapping


def own_alert(
    kind: str,
    *,
    tenant: str,
    subject: str,
    seq: int,
    firing: bool,
    at_ns: int,
    summary: str,
    evidence: Mapping[str, object],
) -> Alert:
    """`subject`: what the alert is about; with `kind` and tenant it makes the fingerprint, with `seq` the id."""
    rule = kind.replace("_", "-")
    fingerprint = blake2b(f"{tenant}\0{rule}\0{subject}".encode(), digest_size=8).hexdigest()
    return Alert(
        id=f"{fingerprint}-{seq}" if firing else f"{fingerprint}-{seq}-resolved",
        tenant=tenant,
        run_id="",
        trace_id=b"",
        rule=rule,
        category=Category.POLICY,
        kind=kind,
        state="firing" if firing else "resolved",
        seq=seq,
        severity=Severity.WARNING,
        span_ids=(),
        onset_span_id=b"",
        at_span_id=b"",
        at_ns=at_ns,
        wasted_nano=None,
        action="",
        summary=summary,
        fingerprint=fingerprint,
        evidence=dict(evidence),
    )
