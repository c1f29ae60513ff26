"""Reports of a large ledger are remembered, and found anew while the last one is shown."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from otel_cost.edge.ledger import LedgerUnavailableError
from otel_cost.edge.ledger.duckdb import DuckDbLedger
from otel_cost.edge.serve import views
from otel_cost.edge.serve.pages import Pages
from otel_cost.edge.serve.views import Views


class Slow:
    """A ledger whose reports take some time of a clock that it turns, and count themselves."""

    def __init__(self) -> None:
        self.now_s, self.takes_s, self.asked = 0.0, 0.5, 0
        self.broken = False
        self.done = threading.Event()

    def reports(self, _asked, _since_ns, tenant):
        self.asked += 1
        self.now_s += self.takes_s
        try:
            if self.broken:
                raise LedgerUnavailableError("gone")
            return [[{"number": self.asked, "tenant": tenant}]]
        finally:
            self.done.set()


@pytest.fixture
def ledger(monkeypatch) -> Slow:
    made = Slow()
    monkeypatch.setattr(views, "time", SimpleNamespace(monotonic=lambda: made.now_s))
    return made


def asked(of: Views, window: str = "24h", tenant: str | None = None) -> object:
    return of.reports([[]], window, 0, tenant)[0][0]["number"]


def renewed(of: Views, ledger: Slow, number: int) -> None:
    assert ledger.done.wait(5)
    for _ in range(500):
        if of._answers and next(iter(of._answers.values())).found[0][0]["number"] == number:
            return
        threading.Event().wait(0.01)
    pytest.fail("nobody has asked anew")


def test_a_slow_report_is_shown_once_more_while_another_is_found(ledger) -> None:
    of = Views(SimpleNamespace(ledger=ledger))
    assert (asked(of), asked(of), ledger.asked) == (1, 1, 1)
    assert (asked(of, "7d"), asked(of, tenant="t"), ledger.asked) == (2, 3, 3)
    of._answers = {key: one for key, one in of._answers.items() if key[-2:] == ("24h", None)}
    ledger.now_s += 4
    ledger.done.clear()
    assert asked(of) == 1  # older than ten times what it took
    renewed(of, ledger, 4)
    assert asked(of) == 4
    ledger.now_s += 601
    assert asked(of) == 5  # so old a one is shown to nobody


def test_a_quick_report_is_always_found_before_it_is_shown(ledger) -> None:
    ledger.takes_s = 0.01
    of = Views(SimpleNamespace(ledger=ledger))
    assert asked(of) == 1
    ledger.now_s += 0.2
    assert asked(of) == 2


def test_a_ledger_that_fails_behind_the_page_fails_before_the_next(ledger) -> None:
    of = Views(SimpleNamespace(ledger=ledger))
    assert asked(of) == 1
    ledger.now_s, ledger.broken = 20, True
    ledger.done.clear()
    assert asked(of) == 1
    assert ledger.done.wait(5)
    for _ in range(500):
        if not of._answers:
            break
        threading.Event().wait(0.01)
    with pytest.raises(LedgerUnavailableError):
        asked(of)


def test_a_start_makes_pages_ready_unless_there_is_nothing_to_show(host, tmp_path) -> None:
    asked: list[str] = []

    class Watched(Pages):
        def overview(self, since, tenant):
            asked.append(f"overview {since}")
            return super().overview(since, tenant)

    Watched(Views(host)).warm()
    assert asked[:2] == ["overview None", "overview all"]

    host.ledger.close()
    host.ledger = DuckDbLedger(tmp_path / "empty.duckdb")
    asked.clear()
    Watched(Views(host)).warm()
    assert asked == []
