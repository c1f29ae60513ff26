"""A regular sender that goes silent is missed once; one that sleeps every night is not."""

from __future__ import annotations

import pytest

from otel_cost.core.senders import Senders

MINUTE = 60 * 10**9
HOUR = 60 * MINUTE


def report(senders: Senders, minutes: range, tenant: str = "a", service: str = "shop") -> list:
    return [alert for at in minutes for alert in senders.heard(tenant, [service], at * MINUTE)]


def test_a_regular_sender_is_missed_once_and_comes_back() -> None:
    senders = Senders(HOUR)
    assert report(senders, range(30)) == []
    assert list(senders.advance(29 * MINUTE + HOUR - 1)) == []
    (missed,) = senders.advance(29 * MINUTE + HOUR)
    assert (missed.state, missed.kind, missed.tenant) == ("firing", "sender_silent", "a")
    assert missed.evidence["service"] == "shop"
    assert list(senders.advance(50 * HOUR)) == []
    (back,) = senders.heard("a", ["shop"], 51 * HOUR)
    assert (back.state, back.id) == ("resolved", f"{missed.id}-resolved")


def test_a_pause_that_was_made_before_is_no_silence() -> None:
    senders = Senders(HOUR)
    report(senders, range(20))
    report(senders, range(12 * 60, 12 * 60 + 20))  # a night between them
    assert list(senders.advance(36 * HOUR)) == []
    assert len(list(senders.advance(12 * HOUR + 20 * MINUTE + 4 * 12 * HOUR))) == 1


@pytest.mark.parametrize("minutes", [range(1), range(4), range(5)])
def test_who_came_only_once_is_not_missed(minutes: range) -> None:
    senders = Senders(HOUR)
    report(senders, minutes)
    assert list(senders.advance(100 * HOUR)) == []


def test_tenants_are_apart_and_zero_is_off() -> None:
    senders = Senders(HOUR)
    report(senders, range(30))
    report(senders, range(90), tenant="b")
    assert [alert.tenant for alert in senders.advance(90 * MINUTE)] == ["a"]
    off = Senders(0)
    report(off, range(30))
    assert list(off.advance(100 * HOUR)) == []


def test_a_restart_goes_on_and_rubbish_begins_anew() -> None:
    senders = Senders(HOUR)
    report(senders, range(30))
    again = Senders(HOUR)
    again.thaw(senders.frozen())
    assert len(list(again.advance(30 * HOUR))) == 1
    third = Senders(HOUR)
    third.thaw(again.frozen())
    assert list(third.advance(31 * HOUR)) == []
    for rubbish in (b"", b"{", b"[[1]]", b'{"a": 1}', b"\xff"):
        again.thaw(rubbish)
        assert list(again.advance(99 * HOUR)) == []
