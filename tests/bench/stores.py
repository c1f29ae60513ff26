"""What a span costs systems that keep traces to look at: Phoenix and MLflow, beside otel-cost in the same run.

    python tests/bench/stores.py [--phoenix PROGRAM] [--mlflow PROGRAM] [--spans 60000] [--stored 4000] [--rounds 3]

`tests/flow/phoenix/install` makes a Phoenix and prints its program; MLflow is `pip install mlflow` in an environment of
its own. Each has a fresh SQLite database, gets `--stored` spans and is measured until they are in it: CPU of the
process tree from ready to then. otel-cost does its whole job with `--spans`, from ready to gone. They are other
products, with other aims; what is compared is what it takes to have a price on every call.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

from compare import _round
from load import TURN, Load, make_load
from report import markdown_table
from subjects import Running, _free_port, start_otel_cost, tree_cpu_s

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 600
# A store is sent a span of its own first: what it makes ready only then is not the price of a span.
FIRST = make_load(50, 50, seed=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--phoenix", default="")
    parser.add_argument("--mlflow", default="")
    parser.add_argument("--spans", type=int, default=60_000)
    parser.add_argument("--stored", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turn", type=int, default=TURN)
    options = parser.parse_args()
    options.protocol, options.gzip, options.connections = "grpc", False, 8
    stores: dict[str, Callable[[Load, Path], tuple[float, float]]] = {}
    if options.phoenix:
        stores["Phoenix"] = partial(_phoenix, options.phoenix)
    if options.mlflow:
        stores["MLflow"] = partial(_mlflow, options.mlflow)
    if not stores:
        print(
            "nothing to measure: give --phoenix PROGRAM (bash tests/flow/phoenix/install prints it) or --mlflow PROGRAM"
        )
        return
    many, few = (make_load(spans, 500, turn=options.turn) for spans in (options.spans, options.stored))
    print(f"{many}; stores: {few.spans:,} spans", flush=True)
    told: dict[str, list[tuple[float, float]]] = {"otel-cost": [], **{name: [] for name in stores}}
    for number in range(options.rounds):
        ours = _round(start_otel_cost, many, options)
        told["otel-cost"].append((ours["CPU-ms per 1,000 spans"], ours["delivered spans/s"]))
        for name, measure in stores.items():
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                told[name].append(measure(few, Path(folder)))
        print(
            f"round {number + 1}: " + ", ".join(f"{name} {of[-1][0]:,.0f} ms" for name, of in told.items()), flush=True
        )
    medians = {name: [statistics.median(part) for part in zip(*of, strict=True)] for name, of in told.items()}
    ours_ms = medians["otel-cost"][0]
    header = ["system", "CPU-ms per 1,000 spans", "spans/s delivered or stored", "times otel-cost's CPU"]
    rows = [[name, f"{ms:,.0f}", f"{pace:,.0f}", f"{ms / ours_ms:,.0f}"] for name, (ms, pace) in medians.items()]
    print("\n".join(markdown_table(header, rows)))


def _phoenix(program: str, load: Load, folder: Path) -> tuple[float, float]:
    port = _free_port()
    environment = {
        "PHOENIX_PORT": str(port),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_GRPC_PORT": str(_free_port()),
        "PHOENIX_WORKING_DIR": str(folder),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    return _stored([program, "serve"], environment, port, load, folder / "phoenix.db", {})


def _mlflow(program: str, load: Load, folder: Path) -> tuple[float, float]:
    port, database = _free_port(), folder / "mlflow.db"
    command = [program, "server", "--backend-store-uri", f"sqlite:///{database}", "--port", str(port), "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    return _stored(command, {}, port, load, database, {"x-mlflow-experiment-id": "0"})


def _stored(
    command: list[str], environment: dict[str, str], port: int, load: Load, database: Path, headers: dict[str, str]
) -> tuple[float, float]:
    """CPU-ms per 1,000 spans until all are in the database, and how many a second were stored."""
    with (database.parent / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=log, stderr=log, cwd=database.parent, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _until(lambda: urllib.request.urlopen(url, timeout=2).status == 200)  # our own loopback port
        _send(url, FIRST.bodies[0], headers)
        _until(lambda: _count(database) == FIRST.spans)
        time.sleep(3)  # what it still does because of the first is not measured
        running = Running(process, "", url)  # type: ignore[arg-type]  # nothing is read of its output
        running.begin()
        began = time.monotonic()
        for body in load.bodies:
            _send(url, body, headers)
        _until(lambda: _count(database) >= FIRST.spans + load.spans)
        took_s = time.monotonic() - began
        busy_s = tree_cpu_s(process.pid) - running.idle_s
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        shutil.rmtree(database.parent, ignore_errors=True)
    return busy_s * 1e6 / load.spans, load.spans / took_s


def _send(url: str, body: bytes, headers: dict[str, str]) -> None:
    told = {"Content-Type": "application/x-protobuf", **headers}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/traces", body, told), timeout=120):
        pass


def _count(database: Path) -> int:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)
    try:
        return int(connection.execute("SELECT count(*) FROM spans").fetchone()[0])
    finally:
        connection.close()


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if holds():
                return
        except (OSError, sqlite3.Error):
            pass
        if time.monotonic() > deadline:
            raise RuntimeError("it did not come to it in time")
        time.sleep(0.25)


if __name__ == "__main__":
    main()
