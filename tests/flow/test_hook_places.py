"""A call that was answered in the middle of a request is taken in at the same place when the journal is read again."""

from __future__ import annotations

import shutil
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

from load import export_requests
from running import until

from otel_cost.core.hooks import read_hook
from otel_cost.core.model.effects import Signal
from otel_cost.edge.config import load_config
from otel_cost.edge.kept_hooks import read_kept
from otel_cost.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_cost.core.model.event import HookEvent

ANY_PORT = ["receivers.otlp.protocols.grpc.endpoint", "receivers.otlp.protocols.http.endpoint", "api.endpoint"]


def service(folder: Path) -> Service:
    (folder / "config.yaml").write_text(f"data_dir: {folder / 'data'}\n")
    sets = [f"{key}=127.0.0.1:0" for key in ANY_PORT]
    return Service(load_config([folder / "config.yaml"], sets, {}))


def hook(number: int) -> HookEvent:
    body = (
        '{"session_id": "asks", "hook_event_name": "PostToolUseFailure", "tool_name": "Bash",'
        f' "tool_use_id": "t{number}", "tool_input": {{"command": "make"}}, "error": "it broke"}}'
    )
    return read_hook("claude", body.encode(), 1_793_620_800 * 10**9 + number)


def test_each_call_is_read_again_where_it_was(tmp_path: Path) -> None:
    for name in ("live", "again"):
        (tmp_path / name).mkdir()
    live = service(tmp_path / "live")
    number = 0
    feeding = live.engine.feeding

    def asked_in_between(*arguments: Any) -> Iterator[None]:
        nonlocal number
        for step, _ in enumerate(feeding(*arguments)):
            if step in {3, 4, 17}:
                live._backlog.put_hook(hook(number), Future())
                number += 1
            yield

    live.engine.feeding = asked_in_between  # type: ignore[method-assign]
    live.start()
    order: list[tuple[int, int]] = []
    try:
        for request, body in enumerate(export_requests(60, 20)):
            live._intake.accept(Signal.TRACES, body, tenant="default", transport="grpc")
            live.decide(hook(100 + request)).result(20)
        until(lambda: number == 9)
        until(lambda: sum(read_kept(record) is not None for record in live.journal.read()) == 12)
        kept = [one for record in live.journal.read() if (one := read_kept(record)) is not None]
        order = [(one.place.slices, one.event.received_ns) for one in sorted(kept)]
        shutil.copytree(tmp_path / "live" / "data" / "journal", tmp_path / "again" / "data" / "journal")
    finally:
        live.stop()
    assert {4, 5, 18} <= {slices for slices, _ in order}  # and wherever the three were that nothing held back

    again = service(tmp_path / "again")
    seen: list[int] = []
    take = again.engine.hook

    def noted(event: HookEvent, *arguments: Any) -> Any:
        seen.append(event.received_ns)
        return take(event, *arguments)

    again.engine.hook = noted  # type: ignore[method-assign]
    again.start()
    try:
        assert seen == [at for _, at in order]
        tools = [line for line in again.run_lines() if line["type"] == "call" and line["session"] == "asks"]
        assert len(tools) == 12
    finally:
        again.stop()
