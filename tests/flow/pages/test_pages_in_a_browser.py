"""Every page in a real Chromium: nothing on the console, nothing from elsewhere, and what people do there counts.

`OTEL_COST_SCREENSHOTS` names a folder that gets a picture of each page, light and dark.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from running import until

from needs import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page
    from running import Process

SAMPLES = Path(__file__).resolve().parents[3] / "samples"
RULES = """
version: 1
identity:
  workflow: [otel_cost.workflow, gen_ai.workflow.name, service.name]
budgets:
  - {name: all-day, limit: {usd: 1, window: 1d}, warn: [{at: 50%}], at_limit: {do: [{ask: {}}, {alert: }]}}
  - {name: run-cap, per: [run], limit: {usd: 100}}
loops:
  - {name: same-error-3x, detect: repeated_error, do: [{deny: {scope: same_call}}, {alert: }]}
  - {name: context-growth, detect: growing_context, do: [{warn: {}}, {alert: }]}
"""
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        missing("chromium", "apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=program, args=list(FLAGS))
        yield opened
        opened.close()


def moved(value: Any, by_ns: int) -> Any:
    if isinstance(value, dict):
        return {k: str(int(v) + by_ns) if k.endswith("UnixNano") else moved(v, by_ns) for k, v in value.items()}
    return [moved(item, by_ns) for item in value] if isinstance(value, list) else value


def latest(value: Any) -> int:
    if isinstance(value, dict):
        return max([0, *(int(v) if k.endswith("UnixNano") else latest(v) for k, v in value.items())])
    return max([0, *map(latest, value)]) if isinstance(value, list) else 0


def post(url: str, body: object) -> Any:
    call = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(call, timeout=20) as answer:
        return json.loads(answer.read() or b"{}")


@pytest.fixture
def service(serve: Callable[..., Process], tmp_path: Path) -> Process:
    import time

    (tmp_path / "rules.yaml").write_text(RULES)
    started = serve("rules: [rules.yaml]\nengine: {settle: 200ms}")
    for file in sorted(SAMPLES.glob("*.jsonl")):
        lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        by = time.time_ns() - max(map(latest, lines))
        for line in lines:
            signal = "logs" if "resourceLogs" in line else "metrics" if "resourceMetrics" in line else "traces"
            post(f"http://{started.http}/v1/{signal}", moved(line, by))
    until(lambda: len(started.get("/v1/runs?top=100")["runs"]) >= 5)
    until(lambda: {"budget", "loop", "waste"} <= {one["category"] for one in started.get("/v1/alerts")["alerts"]})
    dearest = started.get("/v1/runs?top=1")["runs"][0]["run_id"]
    post(started.api + "/v1/outcomes", {"name": "merged_pr", "value": "success", "run_id": dearest})
    return started


def kept_backtest(service: Process) -> str:
    """The id of a report that the command has kept."""
    asked = ["--rules", "bundled:strict", "--against", str(SAMPLES), "--data-dir", str(service.data)]
    made = subprocess.run(
        [sys.executable, "-m", "otel_cost", "backtest", *asked], capture_output=True, text=True, timeout=60, check=True
    )
    return made.stderr.rpartition("/backtests/")[2].strip()


def looked_at(browser: Browser, url: str, name: str, *, dark: bool = False) -> tuple[Page, list[str]]:
    """The page, and everything that went wrong while it opened."""
    page = browser.new_page(color_scheme="dark" if dark else "light", viewport={"width": 1280, "height": 900})
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith(url.split("/", 3)[0]) else wrong.append(request.url)
    )
    answer = page.goto(url)
    assert answer is not None
    assert answer.ok, url
    folder = os.environ.get("OTEL_COST_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{folder}/{name}{'-dark' if dark else ''}.png", full_page=True)
    return page, wrong


@pytest.mark.slow
def test_every_page_opens_and_what_people_do_there_counts(browser: Browser, service: Process) -> None:
    runs = {one["run_id"]: one for one in service.get("/v1/runs?top=100")["runs"]}
    looping = next(a for a in service.get("/v1/alerts")["alerts"] if a["rule"] == "same-error-3x")
    pages = {"overview": "/", "budgets": "/budgets", "alerts": "/alerts", "workflows": "/workflows?since=all"}
    pages |= {"backtests": "/backtests", "backtest": f"/backtests/{kept_backtest(service)}"}
    pages |= {"run": f"/runs/{looping['run_id']}", "dearest": f"/runs/{next(iter(runs))}"}
    for name, path in pages.items():
        for dark in (False, True):
            page, wrong = looked_at(browser, service.api + path, name, dark=dark)
            assert wrong == [], name
            assert page.locator("main h1, main h2").count() > 0
            assert page.locator("html").get_attribute("lang") == "en"
            # Every control has a name that a screen reader can say.
            for control in page.locator("button, input, select, a[href]").all():
                named = control.text_content() or control.get_attribute("aria-label") or ""
                label = control.locator("xpath=ancestor::label").count()
                assert named.strip() or label, control.evaluate("e => e.outerHTML")
            page.close()

    page, wrong = looked_at(browser, service.api + "/budgets", "budgets")
    assert "all-day" in page.inner_text("main")
    page.close()

    # The rounds of the loop are one line, and open on demand, by keyboard.
    page, wrong = looked_at(browser, f"{service.api}/runs/{looping['run_id']}", "run")
    fold = page.locator("button.fold[aria-expanded=false]").first
    assert fold.count()
    assert re.search(r"× \d", fold.locator("xpath=ancestor::tr").inner_text())
    before = page.locator("tr[hidden]").count()
    fold.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("before => document.querySelectorAll('tr[hidden]').length < before", arg=before)
    assert "same-error-3x" in page.inner_text("main")
    page.close()

    # Acknowledge, silence and end the silence, relax.
    page, wrong = looked_at(browser, service.api + "/alerts", "alerts")
    row = page.locator("tr", has=page.locator("b", has_text="same-error-3x")).first
    row.get_by_text("Acknowledge").click()
    row.locator("form[data-post$='/ack'] input[name=who]").fill("ann")
    with page.expect_navigation():
        row.get_by_text("It is in my hands").click()
    assert "in the hands of ann" in page.inner_text("main")
    row = page.locator("tr", has=page.locator("b", has_text="same-error-3x")).first
    row.get_by_text("Silence", exact=True).click()
    form = row.locator("form[data-post='/v1/silences']")
    form.locator("input[name=who]").fill("ann")
    form.locator("input[name=reason]").fill("known")
    with page.expect_navigation():
        form.locator("button").click()
    (silence,) = service.get("/v1/silences")["silences"]
    assert silence["matchers"]["rule"] == "same-error-3x"
    with page.expect_navigation():
        page.get_by_text("End it").click()
    assert service.get("/v1/silences")["silences"] == []
    row = page.locator("tr", has=page.locator("b", has_text="all-day")).first
    row.get_by_text("Relax the rule").click()
    form = row.locator("form[data-post='/v1/exceptions']")
    form.locator("input[name=owner]").fill("ann")
    form.locator("input[name=reason]").fill("release day")
    form.locator("input[name=usd]").fill("5")
    with page.expect_navigation():
        form.locator("button").click()
    assert wrong == []
    until(lambda: any(row["exceptions"] for row in service.get("/v1/budgets")["budgets"]))
    page.close()


def called(trace: str, tokens: int) -> dict[str, object]:
    """One export request: a call that ended just now."""
    import time

    values = {
        "gen_ai.operation.name": {"stringValue": "chat"},
        "gen_ai.provider.name": {"stringValue": "openai"},
        "gen_ai.request.model": {"stringValue": "gpt-4o"},
        "gen_ai.usage.input_tokens": {"intValue": str(tokens)},
        "gen_ai.usage.output_tokens": {"intValue": "0"},
    }
    span = {
        "traceId": trace * 16,
        "spanId": trace * 8,
        "name": "chat",
        "startTimeUnixNano": str(time.time_ns() - 10**9),
        "endTimeUnixNano": str(time.time_ns()),
        "attributes": [{"key": key, "value": value} for key, value in values.items()],
    }
    return {"resourceSpans": [{"scopeSpans": [{"scope": {"name": "x"}, "spans": [span]}]}]}


@pytest.mark.slow
def test_the_overview_shows_new_spending_without_asking_again(browser: Browser, serve: Callable[..., Process]) -> None:
    started = serve("rules: []\nengine: {settle: 200ms}")
    asked: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url.removeprefix(started.api)))
    page.goto(started.api + "/?since=24h")
    page.get_by_text("Nothing here yet").wait_for()
    for trace, said in (("a1", "$2.50"), ("b2", "$5.00")):
        post(f"http://{started.http}/v1/traces", called(trace, 1_000_000))
        page.locator(".tile", has_text="Spent").get_by_text(said).wait_for(timeout=20_000)
    assert [url for url in asked if not url.startswith("/static")] == ["/?since=24h", "/live?since=24h&page=%2F"]
    # What somebody has open stays as it is until they let go of it.
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.tile'))")
    post(f"http://{started.http}/v1/traces", called("c3", 1_000_000))
    until(lambda: started.get("/v1/report")["rows"][0]["cost_usd"] == "7.5")
    page.wait_for_timeout(2500)
    assert "$5.00" in page.locator(".tile", has_text="Spent").inner_text()
    page.evaluate("getSelection().removeAllRanges()")
    page.locator(".tile", has_text="Spent").get_by_text("$7.50").wait_for(timeout=10_000)
    page.close()

    # Without JavaScript the page loads itself again.
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(started.api + "/")
    with page.expect_navigation(timeout=20_000):
        pass
    assert "$7.50" in page.inner_text("main")
    context.close()
