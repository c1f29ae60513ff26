"""The chart of drift shows every run at its cost, what is normal, what is allowed, and when it was told."""

from __future__ import annotations

import json

import pytest

from otel_cost.core.drift import Drift, Ran
from otel_cost.core.enrich.records import alert_json
from otel_cost.core.rules import load_rules
from otel_cost.document import parse_document
from otel_cost.edge.serve.drift_chart import drift_charts

HOUR = 3600 * 10**9
T0 = 1_790_000_000 * 10**9
CENT = 10**7
RULES = """
version: 1
regressions: [{name: drift, per: [workflow], baseline: {last: 14d, min_runs: 20}, fire: {ratio: 1.5, for: 3 of last 5}}]
"""


class Work:
    """Runs of one workflow, and what was told of them, as the ledger shows it: the last word on each episode."""

    def __init__(self) -> None:
        self.drift = Drift(load_rules([parse_document(RULES, "r.yaml")]).regressions)
        self.alerts: dict[str, dict] = {}
        self.number = 0

    def costs(self, *nano: int) -> None:
        for cost in nano:
            end_ns = T0 + self.number * HOUR
            ran = Ran(
                tenant="default",
                run_id=f"run-{self.number}",
                trace_id=self.number.to_bytes(16, "big"),
                start_ns=end_ns - HOUR // 2,
                end_ns=end_ns,
                nano=cost,
                facts={"workflow": "<fix>"},
            )
            for alert in self.drift.observe(ran, end_ns).alerts:
                told = json.loads(json.dumps(alert_json(alert)))
                self.alerts[f"{told['fingerprint']}-{told['seq']}"] = told
            self.number += 1

    def charts(self):
        return drift_charts(self.drift.standings("default"), self.alerts.values())


@pytest.fixture
def work() -> Work:
    return Work()


def test_runs_stand_at_their_cost_and_time(work) -> None:
    work.costs(50 * CENT)
    assert work.charts() == []  # one run is no chart
    work.costs(100 * CENT, 0)
    (chart,) = work.charts()
    assert [(round(dot.x), round(dot.y)) for dot in chart.dots] == [(8, 82), (500, 14), (992, 150)]
    assert (chart.normal_y, chart.limit_y, chart.fired_x, chart.highest_usd) == (None, None, None, "1")
    assert "nothing is known to be normal yet" in chart.told


def test_what_became_dearer_is_marked_from_where_it_began_and_told(work) -> None:
    work.costs(*[40 * CENT] * 20, *[100 * CENT] * 5)
    (chart,) = work.charts()
    assert [dot.run["dear"] for dot in chart.dots] == [False] * 20 + [True] * 5
    assert chart.normal_y == pytest.approx(150 - 136 * 0.4)
    assert chart.limit_y == pytest.approx(150 - 136 * 0.6)
    (stretch,) = chart.stretches
    assert stretch.x == pytest.approx(chart.dots[20].x)
    assert stretch.x + stretch.width == pytest.approx(chart.dots[-1].x)
    assert not stretch.is_over
    assert chart.fired_x == pytest.approx(chart.dots[22].x)  # the third of the last five
    assert "25 runs, 5 of them dear; normal: 0.4 USD" in chart.told


def test_a_stretch_that_is_over_stays_on_the_chart(work) -> None:
    work.costs(*[40 * CENT] * 20, *[100 * CENT] * 5, *[40 * CENT] * 8)
    (chart,) = work.charts()
    (stretch,) = chart.stretches
    assert stretch.is_over
    assert (chart.fired_x, chart.row["state"]) == (None, "normal")
    assert chart.dots[20].x == pytest.approx(stretch.x)
    assert stretch.x + stretch.width < chart.dots[-1].x


def test_the_page_draws_them(work, host) -> None:
    import httpx

    from otel_cost.edge.serve.api import ApiServer

    work.costs(*[40 * CENT] * 20, *[100 * CENT] * 5)
    host.drift = work.drift.standings
    server = ApiServer(host, ("127.0.0.1", 0))
    port = server.start()
    page = httpx.get(f"http://127.0.0.1:{port}/workflows").text
    server.stop()
    (section,) = [part for part in page.split('<section class="card"') if part.startswith(' id="drift"')]
    assert section.count("<circle") == 25
    assert section.count('<circle class="dear"') == 5
    assert "&lt;fix&gt;" in section
    assert "dearer since" in section
    assert 'href="/runs/run-24"' in section
