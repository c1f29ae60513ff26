"""What is shipped to run the service elsewhere: every config loads, every manifest is what its own tool takes.

No container is run here: images cannot be pulled. The steps of the Dockerfile are carried out one by one instead, and
what they make runs on a read-only file system.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from needs import missing, need_program
from otel_cost.edge.config import Config, load_config

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = ROOT / ".venv-deploy" / "bin"
KUBERNETES = "1.37"
ENVIRON = {
    "OTEL_COST_INGEST_KEY": "ingest-key-of-16-or-more",
    "OTEL_COST_OPERATOR_KEY": "operator-key-of-16-or-more",
    "POSTGRES_PASSWORD": "p4ss",
    "LEDGER_URL": "postgresql://otel_cost@postgres:5432/otel_cost",
    "HOSTNAME": "worker-0",
}
CONFIGS = sorted(DEPLOY.rglob("otel-cost.yaml"))


def tool(name: str) -> str:
    """A program of `tests/deploy/install`."""
    # The program itself: its wrapper swallows the exit code.
    inside = list(TOOLS.parent.glob(f"lib/python*/site-packages/compose/{name}"))
    program = inside[0] if inside else TOOLS / name
    return str(program) if program.exists() else missing("deploy-tools", "bash tests/deploy/install")


def run(*command: object, **more: Any) -> subprocess.CompletedProcess[str]:
    given = [str(part) for part in command]
    return subprocess.run(given, capture_output=True, text=True, timeout=110, check=False, **more)


# --- configs ---------------------------------------------------------------------------------------------------------


def test_there_is_a_config_for_each_way_to_run_it() -> None:
    assert {file.parent.name for file in CONFIGS} == {"collector", "base", "fleet", "systemd"}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.parent.name)
def test_a_shipped_config_has_only_keys_that_there_are(file: Path) -> None:
    if "ledger:" in file.read_text() and "ledger" not in Config.model_fields:
        pytest.skip("no ledger is shared yet")
    config = load_config([file], environ=ENVIRON)
    assert config.rules == ("bundled:starter",)
    shown = json.dumps(config.shown())
    assert not any(secret in shown for secret in ("ingest-key-of", "operator-key-of", "p4ss"))
    beyond = [one for one in (config.api.endpoint,) if one.startswith("0.0.0.0")]
    assert not beyond or config.auth.is_on  # whoever is not on this machine shows a key
    if file.parent.name in {"base", "fleet"}:
        scopes = {key.name: set(key.scopes) for key in config.auth.keys}
        assert scopes == {"ingest": {"ingest"}, "operator": {"read", "admin"}}


@pytest.mark.parametrize("name", ["OTEL_COST_INGEST_KEY", "OTEL_COST_OPERATOR_KEY"])
def test_a_key_that_was_forgotten_is_named(name: str) -> None:
    environ = {key: value for key, value in ENVIRON.items() if key != name}
    with pytest.raises(Exception, match=name):
        load_config([DEPLOY / "kubernetes" / "base" / "otel-cost.yaml"], environ=environ)


# --- the image -------------------------------------------------------------------------------------------------------

DOCKERFILE = DEPLOY / "docker" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in text.splitlines() if line.strip()]


def of(name: str) -> list[str]:
    return [rest for one, rest in instructions() if one == name]


def test_hadolint_finds_nothing() -> None:
    found = run(tool("hadolint"), DOCKERFILE)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_image_is_small_and_runs_as_nobody_in_particular() -> None:
    stages = of("FROM")
    assert [stage.endswith("AS build") for stage in stages] == [True, False]
    assert "slim" in stages[-1]
    assert all(re.search(r":\d+\.\d+-", stage) for stage in stages)  # no `latest`
    assert of("USER") == ["10001:10001"]
    assert of("ENTRYPOINT") == ['["otel-cost"]']
    assert of("STOPSIGNAL") == ["SIGTERM"]
    assert of("HEALTHCHECK")
    names = [name for name, _ in instructions()]
    assert names.index("USER") > max(at for at, name in enumerate(names) if name in {"RUN", "COPY"})


def context(folder: Path) -> None:
    """What `docker build` would send: the rules of `.dockerignore`, last match wins."""
    rules = [
        line
        for line in (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    tracked = run("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines()
    for name in tracked:
        parents = ["/".join(name.split("/")[:depth]) for depth in range(1, name.count("/") + 2)]
        ignored = False
        for rule in rules:
            pattern = rule.removeprefix("!")
            matched = name.split("/") if pattern.startswith("**/") else parents
            if any(fnmatch.fnmatchcase(part, pattern.removeprefix("**/")) for part in matched):
                ignored = not rule.startswith("!")
        if not ignored and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`/opt/otel-cost` of the image, made by the commands of its first stage from what reaches the builder."""
    sent, work, made = (tmp_path_factory.mktemp(name) for name in ("context", "src", "opt"))
    context(sent)
    assert not (sent / "tests").exists()
    for copied in of("COPY"):
        if copied.startswith("--from"):
            continue
        *sources, target = copied.split()
        for source in sources:
            assert (sent / source).exists(), f"{source} does not reach the builder"
            if not target.startswith("/"):
                to = work / target / (Path(source).name if target.endswith("/") else "")
                (shutil.copytree if (sent / source).is_dir() else shutil.copy)(sent / source, to)
    build = of("RUN")[0].replace("/opt/otel-cost", str(made / "otel-cost"))
    build = re.sub(r"\bpython -m", f"{shlex.quote(sys.executable)} -m", build)
    done = subprocess.run(["sh", "-ec", build], cwd=work, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return made / "otel-cost"


@pytest.fixture
def running(image: Path, tmp_path: Path) -> Iterator[str]:
    """The URL of its API: run as the image runs it, with everything read-only but the volume and /tmp."""
    bwrap = need_program("bwrap", "apt-get install bubblewrap")
    data = tmp_path / "data"
    data.mkdir()
    config = DEPLOY / "kubernetes" / "base" / "otel-cost.yaml"
    endpoints = ("receivers.otlp.protocols.grpc.endpoint", "receivers.otlp.protocols.http.endpoint", "api.endpoint")
    sets = [part for key in endpoints for part in ("--set", f"{key}=0.0.0.0:0")]
    process = subprocess.Popen(
        [bwrap, "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--ro-bind", image, image,
         "--ro-bind", str(config), str(config), "--bind", str(data), "/mnt", "--die-with-parent",
         str(image / "bin" / "otel-cost"), "serve", "-c", str(config), *sets],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "OTEL_COST_DATA_DIR": "/mnt", **ENVIRON},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    ready = re.search(r"api=(\S+)", process.stdout.readline())
    if ready is None:
        process.kill()
        pytest.fail(process.stderr.read()[-3000:])
    yield ready[1].replace("0.0.0.0", "127.0.0.1")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert (data / "ledger.duckdb").exists()


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_what_the_image_holds_runs_on_a_read_only_file_system(image: Path, running: str) -> None:
    assert not list((image / "bin").glob("pip*"))
    check = json.loads(of("HEALTHCHECK")[0].partition("CMD ")[2])
    port = running.rpartition(":")[2]

    def healthy(at: str) -> int:
        command = [part.replace("8317", at) for part in check]
        return run(image / "bin" / "python", *command[1:]).returncode

    assert healthy(port) == 0
    assert healthy("9") != 0
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{running}/readyz", timeout=5).close()
            break
        except urllib.error.HTTPError:
            time.sleep(0.2)
    keys = (None, ENVIRON["OTEL_COST_INGEST_KEY"], ENVIRON["OTEL_COST_OPERATOR_KEY"])
    assert [status_of(f"{running}/v1/report", key) for key in keys] == [401, 403, 200]


def status_of(url: str, key: str | None) -> int:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


# --- Compose ---------------------------------------------------------------------------------------------------------

COMPOSE = sorted((DEPLOY / "compose").glob("*.yaml"))


def composed(file: Path) -> dict[str, Any]:
    shown = run(tool("docker-compose"), "-f", file, "config", "--format", "json", env=os.environ | ENVIRON)
    assert shown.returncode == 0, shown.stderr
    assert "level=warning" not in shown.stderr
    told: dict[str, Any] = json.loads(shown.stdout)
    return told


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.stem)
def test_compose_takes_it_and_our_services_are_locked_down(file: Path) -> None:
    services = composed(file)["services"]
    ours = {name: one for name, one in services.items() if one["image"].startswith("otel-cost:")}
    assert ours
    for name, one in ours.items():
        assert (one["user"], one["read_only"], one["cap_drop"]) == ("10001:10001", True, ["ALL"]), name
        assert one["security_opt"] == ["no-new-privileges:true"]
        assert int(re.fullmatch(r"(\d+)m?[s0]*", one["stop_grace_period"])[1]) >= 1  # type: ignore[index]
        assert all(port["host_ip"] == "127.0.0.1" for port in one["ports"])
        (data,) = [volume for volume in one["volumes"] if volume["target"] == "/var/lib/otel-cost"]
        assert data["type"] == "volume"
    folders = [v["source"] for one in ours.values() for v in one["volumes"] if v["target"] == "/var/lib/otel-cost"]
    assert len(set(folders)) == len(folders)  # no two workers in one folder
    for one in services.values():
        for volume in one.get("volumes", ()):
            assert volume["type"] == "volume" or Path(volume["source"]).is_file(), volume
        assert not one["image"].endswith(":latest")
        assert ":" in one["image"]


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.stem)
def test_compose_asks_for_keys_that_were_forgotten(file: Path) -> None:
    bare = {key: value for key, value in os.environ.items() if key not in ENVIRON}
    refused = run(tool("docker-compose"), "-f", file, "config", "-q", env=bare)
    assert refused.returncode != 0
    assert any(f"required variable {name} is missing" in refused.stderr for name in ENVIRON)


def test_the_fleet_has_the_topics_and_the_environment_that_its_config_names() -> None:
    services = composed(DEPLOY / "compose" / "fleet.yaml")["services"]
    config = yaml.safe_load((DEPLOY / "kubernetes" / "fleet" / "otel-cost.yaml").read_text())
    kafka = config["receivers"]["kafka"]
    made = re.findall(r"for topic in (.*);", "\n".join(services["topics"]["command"]))[0].split()
    assert set(made) == {kafka[name]["topic"] for name in ("traces", "logs", "steps", "dead_letter")}
    collector = yaml.safe_load((DEPLOY / "collector" / "kafka.yaml").read_text())["exporters"]["kafka"]
    assert {collector[name]["topic"] for name in ("traces", "logs")} <= set(made)
    names = set(re.findall(r"\$\{env:(\w+)", (DEPLOY / "kubernetes" / "fleet" / "otel-cost.yaml").read_text()))
    given = set(services["worker-0"]["environment"]) | {"HOSTNAME"}
    assert names - given <= {"OTEL_COST_DATA_DIR", "OTEL_COST_RULES"}  # these have defaults
    assert {services[f"worker-{n}"]["hostname"] for n in (0, 1)} == {"worker-0", "worker-1"}


# --- Kubernetes ------------------------------------------------------------------------------------------------------


def built(overlay: str) -> tuple[str, dict[str, dict[str, Any]]]:
    kubectl = need_program("kubectl", "apt-get install kubernetes-client")
    shown = run(kubectl, "kustomize", DEPLOY / "kubernetes" / overlay)
    assert shown.returncode == 0, shown.stderr
    documents = list(yaml.safe_load_all(shown.stdout))
    return shown.stdout, {f"{one['kind']}/{one['metadata']['name']}": one for one in documents}


@pytest.mark.parametrize("overlay", ["base", "fleet"])
def test_the_manifests_fit_the_schemas_of_kubernetes(overlay: str, tmp_path: Path) -> None:
    text, documents = built(overlay)
    (tmp_path / "all.yaml").write_text(text)
    checked = run(tool("kubernetes-validate"), "--strict", "-k", KUBERNETES, tmp_path / "all.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert (checked.stdout + checked.stderr).count(" passed ") == len(documents)
    (tmp_path / "wrong.yaml").write_text(text.replace("readinessProbe:", "readynessProbe:", 1))
    assert run(tool("kubernetes-validate"), "--strict", "-k", KUBERNETES, tmp_path / "wrong.yaml").returncode != 0


@pytest.mark.parametrize("overlay", ["base", "fleet"])
def test_pods_are_probed_locked_down_and_find_what_they_name(overlay: str) -> None:
    _, documents = built(overlay)
    pods = documents["StatefulSet/otel-cost"]["spec"]["template"]["spec"]
    (container,) = pods["containers"]
    assert pods["securityContext"]["runAsNonRoot"] is True
    assert pods["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pods["terminationGracePeriodSeconds"] >= 60
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "api"}
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for name, one in documents.items():
        if name.startswith("Service/"):
            assert {port["targetPort"] for port in one["spec"]["ports"]} <= set(ports), name
    file = DEPLOY / "kubernetes" / overlay / "otel-cost.yaml"
    wanted = set(re.findall(r"\$\{env:(\w+)\}", file.read_text()))
    assert wanted <= {one["name"] for one in container["env"]}
    config = next(one for name, one in documents.items() if name.startswith("ConfigMap/otel-cost-"))
    assert config["data"]["otel-cost.yaml"] == file.read_text()
    assert {"configMap": {"name": config["metadata"]["name"]}, "name": "config"} in pods["volumes"]
    (claim,) = documents["StatefulSet/otel-cost"]["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    labels = documents["StatefulSet/otel-cost"]["spec"]["template"]["metadata"]["labels"]
    for name in ("PodDisruptionBudget/otel-cost", "NetworkPolicy/otel-cost"):
        spec = documents[name]["spec"]
        assert (spec.get("selector") or spec["podSelector"])["matchLabels"].items() <= labels.items()


def test_a_fleet_grows_with_what_waits_in_kafka() -> None:
    _, documents = built("fleet")
    scaler = documents["HorizontalPodAutoscaler/otel-cost"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == "otel-cost"
    (metric,) = scaler["metrics"]
    adapter = yaml.safe_load((DEPLOY / "kubernetes" / "fleet" / "prometheus-adapter.yaml").read_text())
    (rule,) = adapter["rules"]["external"]
    assert rule["name"]["as"] == metric["external"]["metric"]["name"]
    source = (ROOT / "otel_cost" / "edge" / "receive" / "kafka.py").read_text()
    assert f'"{rule["seriesQuery"]}"' in source  # the metric that workers tell
    config = yaml.safe_load((DEPLOY / "kubernetes" / "fleet" / "otel-cost.yaml").read_text())
    assert f'topic="{config["receivers"]["kafka"]["steps"]["topic"]}"' in rule["metricsQuery"]
    topics = composed(DEPLOY / "compose" / "fleet.yaml")["services"]["topics"]["command"]
    assert scaler["maxReplicas"] <= int(re.findall(r"--partitions (\d+)", "\n".join(topics))[0])


# --- systemd ---------------------------------------------------------------------------------------------------------


def test_systemd_takes_the_unit_and_finds_it_safe(tmp_path: Path) -> None:
    analyze = need_program("systemd-analyze", "apt-get install systemd")
    text = (DEPLOY / "systemd" / "otel-cost.service").read_text()
    command = "/opt/otel-cost/bin/otel-cost"
    assert text.count(f"ExecStart={command} ") == 1
    unit = tmp_path / "otel-cost.service"
    unit.write_text(text.replace(f"ExecStart={command}", f"ExecStart={Path(sys.executable).parent / 'otel-cost'}"))
    verified = run(analyze, "verify", unit)
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = run(analyze, "security", "--offline=yes", unit)
    exposure = re.search(r"exposure level for otel-cost\.service: ([\d.]+)", rated.stdout)
    assert exposure is not None, rated.stderr
    assert float(exposure[1]) < 2
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSystem=very"))
    assert run(analyze, "verify", unit).stderr != ""
