"""Config of the service: the OpenTelemetry Collector's YAML habits, checked to the last key.

Several files merge, later ones win; `--set KEY=VALUE` comes last. `${env:NAME}`,
`${env:NAME:-default}` and `${file:PATH}` are replaced, `$$` is a plain `$`. Paths are
relative to the file that names them.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from otel_cost.core.model.effects import Signal
from otel_cost.core.model.event import DEFAULT_TENANT
from otel_cost.core.redact import Rule
from otel_cost.document import Document, Place, expand, in_file_order, merge, nearest, parse_document, problems_of
from otel_cost.edge.auth import Auth, TenantName
from otel_cost.edge.export import EXPORTERS
from otel_cost.edge.files import BUNDLED, bundled_rules, read_document
from otel_cost.edge.receive.kafka import KafkaReceiver
from otel_cost.edge.rule_files import folder_of, resolver
from otel_cost.edge.tls import ServerTls
from otel_cost.errors import DocumentError, UsageError
from otel_cost.quantities import Duration, Size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from otel_cost.document import Path as KeyPath
    from otel_cost.errors import Problem

SECOND_NS: Final = 10**9
ALL_RULES: Final = ("bundled:starter",)


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """`127.0.0.1:4317`, `[::1]:4317`, `localhost:0` → host (without brackets) and port.

    Raises:
        ValueError: anything else.
    """
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]/\s]*)):(\d{1,5})", endpoint)
    if not found or int(found[3]) > 65535:
        raise ValueError(f"`{endpoint}` is not an endpoint\nwrite host:port, for example `127.0.0.1:4317`")
    return found[1] or found[2] or "0.0.0.0", int(found[3])  # noqa: S104  # `:4317` means every interface, as everywhere


def bound(endpoint: str, port: int) -> str:
    """Where a server listens: its endpoint with the port that it got, which may have been left to the system."""
    return f"{endpoint.rpartition(':')[0]}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_ledger(written: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(written.get_secret_value())
        good = parts.scheme in {"postgresql", "postgres"} and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise ValueError(
            "a ledger is written `postgresql://user@host:5432/database`\nwithout `ledger` it is a file in `data_dir`"
        )
    return written


def _check_endpoint(endpoint: str) -> str:
    split_endpoint(endpoint)
    return endpoint


LedgerUrl = Annotated[SecretStr, AfterValidator(_check_ledger)]
Endpoint = Annotated[str, AfterValidator(_check_endpoint)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class GrpcReceiver(_Part):
    """OTLP over gRPC."""

    endpoint: Endpoint = "127.0.0.1:4317"
    tls: ServerTls | None = None
    max_recv_msg_size_mib: Annotated[int, Field(gt=0, le=1024)] = 64


class HttpReceiver(_Part):
    """OTLP over HTTP."""

    endpoint: Endpoint = "127.0.0.1:4318"
    tls: ServerTls | None = None
    max_request_body_size: Size = 64 * 2**20  # bytes, after decompression


class Protocols(_Part):
    """A protocol that is named, even without settings, is served; one that is not, is not."""

    grpc: GrpcReceiver | None = None
    http: HttpReceiver | None = None

    @field_validator("grpc", "http", mode="before")
    @classmethod
    def _named_is_on(cls, written: object) -> object:
        return {} if written is None else written

    @model_validator(mode="after")
    def _at_least_one(self) -> Protocols:
        if self.grpc is None and self.http is None:
            raise ValueError("a receiver without protocols\nname `grpc`, `http` or both")
        return self


class OtlpReceiver(_Part):
    """Takes OTLP."""

    protocols: Protocols = Protocols(grpc=GrpcReceiver(), http=HttpReceiver())


RECEIVERS: Final[Mapping[str, type[BaseModel]]] = {"otlp": OtlpReceiver, "kafka": KafkaReceiver}


class Pipeline(_Part):
    """Which receivers feed which exporters, for one signal."""

    receivers: Annotated[tuple[str, ...], Field(min_length=1)]
    exporters: tuple[str, ...] = ()


class Pipelines(_Part):
    """One pipeline per signal; a signal without one is not accepted."""

    traces: Pipeline | None = None
    logs: Pipeline | None = None
    metrics: Pipeline | None = None


class LogTelemetry(_Part):
    """What goes to stderr."""

    level: Literal["debug", "info", "warn", "error"] = "info"


class Telemetry(_Part):
    """What the service says about itself."""

    logs: LogTelemetry = LogTelemetry()


class Service(_Part):
    """What is connected to what. Without `pipelines` every receiver feeds every exporter that takes the signal."""

    pipelines: Pipelines | None = None
    telemetry: Telemetry = Telemetry()


class Api(_Part):
    """Page and API."""

    endpoint: Endpoint = "127.0.0.1:8317"
    tls: ServerTls | None = None
    external_url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")] | None = None  # how people reach it, for links


class Journal(_Part):
    """What is kept on disk before a request is acknowledged."""

    fsync: Literal["always", "interval", "never"] = "always"
    max_bytes: Size = 10 * 2**30
    when_full: Literal["refuse"] = "refuse"


class GithubWebhooks(_Part):
    """Webhooks of a repository or organisation, sent to `/v1/outcomes`."""

    secret: Annotated[SecretStr, Field(min_length=1)]
    tenant: Annotated[str, Field(min_length=1)] = DEFAULT_TENANT  # whose runs they are about


class Outcomes(_Part):
    """Who may tell what became of the work."""

    github: GithubWebhooks | None = None


class EngineCaps(_Part):
    """What open runs may take in memory. What is beyond is written down, put to sleep and woken by its next span."""

    open_spans: Annotated[int, Field(gt=0)] = 2_000_000  # that are no steps, of all runs
    open_steps: Annotated[int, Field(gt=0)] = 120_000  # calls, agents and roll-ups of all runs
    run_steps: Annotated[int, Field(gt=0)] = 20_000  # of one run: a larger one sleeps when it is not at work


class EngineConfig(_Part):
    """What the engine's time and memory are."""

    settle: Duration = 2 * SECOND_NS  # how long roots wait for late children
    idle: Duration = 30 * 60 * SECOND_NS  # a run without news for so long is closed
    trace_timeout: Duration = 60 * SECOND_NS  # where `routes` are given: how long a trace waits for its root
    caps: EngineCaps = EngineCaps()
    memory_soft_limit: Size | None = None  # bytes of the process at which new requests wait; three quarters of all


class Retention(_Part):
    """What is deleted by itself: closed runs, dead letters and what is in quarantine. 0s: kept for ever."""

    max_age: Duration = 0
    max_bytes: Size | None = None  # of the ledger; beyond it the oldest runs go


class SenderConfig(_Part):
    """Whoever sends."""

    silent_after: Duration = 3600 * SECOND_NS  # an alert when a regular one has said nothing for so long; 0s: none


class Tenant(_Part):
    """What one tenant may take of the whole."""

    max_bytes_per_second: Size | None = None  # of requests, decompressed; bursts of ten seconds' worth are let through


class Content(_Part):
    """What becomes of prompts, completions, arguments and results before anything is written to disk.

    `default` is for the keys that are known to hold content; `keys` names others, or the
    same ones, by name or pattern (`app.*`), and `body` and `status.message`. Hashes are
    keyed: with `secret`, or with a key that is made in the data directory.
    """

    default: Rule = Rule.KEEP
    keys: dict[str, Rule] = {}
    secret: SecretStr | None = None


def _state_home() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "otel-cost"


class Config(_Part):
    """The whole config; an empty one serves on loopback with the shipped rules and no exporters.

    `receivers` and `exporters` hold each type's own settings model (see `otel_cost/edge/export/`);
    `rules` are absolute paths or `bundled:NAME`, `prices` absolute paths.
    """

    receivers: dict[str, Any] = {"otlp": OtlpReceiver()}
    exporters: dict[str, Any] = {}
    api: Api = Api()
    data_dir: Path = Field(default_factory=_state_home)
    rules: tuple[str, ...] = ALL_RULES
    prices: tuple[Path, ...] = ()
    ledger: LedgerUrl | None = None  # a database that services share; None: a file in `data_dir`
    journal: Journal = Journal()
    engine: EngineConfig = EngineConfig()
    outcomes: Outcomes = Outcomes()
    auth: Auth = Auth()
    tenants: dict[TenantName, Tenant] = {}
    senders: SenderConfig = SenderConfig()
    retention: Retention = Retention()
    content: Content = Content()
    service: Service = Service()

    @field_validator(
        "journal", "engine", "outcomes", "auth", "senders", "retention", "content", "service", "api", mode="before"
    )
    @classmethod
    def _empty_is_default(cls, written: object) -> object:
        return {} if written is None else written

    @property
    def otlp(self) -> dict[str, OtlpReceiver]:
        """Receivers of OTLP."""
        return {name: one for name, one in self.receivers.items() if isinstance(one, OtlpReceiver)}

    @property
    def kafka(self) -> KafkaReceiver | None:
        """The receiver that reads from Kafka."""
        return next((one for one in self.receivers.values() if isinstance(one, KafkaReceiver)), None)

    def pipeline(self, signal: Signal) -> Pipeline | None:
        """The pipeline of a signal; None: the signal is not accepted."""
        if self.service.pipelines is not None:
            pipeline: Pipeline | None = getattr(self.service.pipelines, signal.value)
            return pipeline
        takes = tuple(name for name in self.exporters if signal in EXPORTERS[_type_of(name)].signals)
        return Pipeline(receivers=tuple(self.receivers), exporters=takes)

    def shown(self) -> dict[str, Any]:
        """The effective config as plain values, secrets replaced."""
        plain = self.model_dump(mode="json")
        plain["ledger"] = None if self.ledger is None else _hide_password(self.ledger.get_secret_value())
        for section in ("receivers", "exporters"):
            components: dict[str, BaseModel] = getattr(self, section)
            plain[section] = {name: settings.model_dump(mode="json") for name, settings in components.items()}
        plain["service"]["pipelines"] = {
            signal.value: pipeline.model_dump(mode="json")
            for signal in Signal
            if (pipeline := self.pipeline(signal)) is not None
        }
        hidden: dict[str, Any] = _hide_userinfo(plain)
        return hidden


def _hide_password(url: str) -> str:
    """A database's URL may have its secrets among its parameters, too."""
    return re.sub(r"([?&][^=&]*pass[^=&]*=)[^&]*", r"\1**********", url)


def _hide_userinfo(value: Any) -> Any:  # noqa: ANN401  # any plain value
    """`https://user:password@host` keeps its host."""
    if isinstance(value, dict):
        return {key: _hide_userinfo(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_hide_userinfo(item) for item in value]
    return re.sub(r"://[^/@\s]+@", "://**********@", value) if isinstance(value, str) else value


# --- Loading ---------------------------------------------------------------------------------------------------------


def load_config(
    files: Sequence[Path] = (), sets: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Config:
    """Read, merge, expand and check.

    Raises:
        UsageError: a file cannot be read, or a `--set` is not KEY=VALUE.
        DocumentError: every mistake in the whole, each where it stands.
    """
    environ = os.environ if environ is None else environ
    documents = [read_document(file) for file in files] + [_set_document(item) for item in sets]
    expanded: list[Document] = []
    problems: list[Problem] = []
    for document in documents:
        try:
            expanded.append(expand(document, resolver(environ, folder_of(document.source))))
        except DocumentError as error:
            problems += error.problems
    if problems:
        raise DocumentError(problems)
    return check_config(merge(expanded))


def check_config(document: Document) -> Config:
    """A config from one document that is merged and expanded.

    Raises:
        DocumentError: every mistake at once.
    """
    problems: list[Problem] = []
    config: Config | None = None
    try:
        config = Config.model_validate({} if document.value is None else document.value)
    except ValidationError as error:
        problems += problems_of(error, document, Config)
    kinds = {name: kind.settings for name, kind in EXPORTERS.items()}
    changed: dict[str, Any] = {"exporters": _components(document, "exporters", kinds, problems)}
    if "receivers" in _mapping(document):
        changed["receivers"] = _components(document, "receivers", RECEIVERS, problems)
    problems += _unconnected(document)
    problems += _one_log(document)
    if config is not None:
        config = config.model_copy(update=changed)
        problems += _open_doors(document, config)
        if config.ledger is not None and config.retention.max_bytes is not None:
            path = ("retention", "max_bytes")
            what = "a database does not shrink when rows go, so its size says nothing of how many are left"
            problems.append(document.problem(path, what, "set `max_age`"))
    rules = _entries(document, "rules", problems)
    prices = _entries(document, "prices", problems)
    if problems or config is None:
        raise DocumentError(in_file_order(problems))
    changed = {}
    if "rules" in config.model_fields_set:
        changed["rules"] = rules
    if "prices" in config.model_fields_set:
        changed["prices"] = tuple(Path(entry) for entry in prices)
    changed["api"] = _rebased(config.api, document, ("api",))
    data_dir = config.data_dir.expanduser()
    changed["data_dir"] = (folder_of(document.place(("data_dir",)).source) / data_dir).absolute()
    return config.model_copy(update=changed)


def config_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the config, with the settings of every type of receiver and exporter."""
    schema = Config.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    kinds = {"receivers": RECEIVERS, "exporters": {name: kind.settings for name, kind in EXPORTERS.items()}}
    for section, known in kinds.items():
        patterns: dict[str, Any] = {}
        for name, settings in known.items():
            one = settings.model_json_schema()
            for inner, definition in one.pop("$defs", {}).items():
                definitions.setdefault(inner, definition)
            patterns[f"^{re.escape(name)}(/.+)?$"] = {"anyOf": [one, {"type": "null"}]}
        schema["properties"][section] = {
            "type": "object",
            "patternProperties": patterns,
            "additionalProperties": False,
        }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _set_document(written: str) -> Document:
    key, separator, value = written.partition("=")
    if not separator or not key.strip():
        raise UsageError(f"--set {written}: write KEY=VALUE, for example `--set api.endpoint=127.0.0.1:0`")
    source = f"--set {key}"
    path: KeyPath = tuple(key.strip().split("."))
    inner = parse_document(value, source)
    here = Place(source, 1, 1)
    nested: Any = inner.value
    for part in reversed(path):
        nested = {part: nested}
    steps = [path[:end] for end in range(len(path) + 1)]
    places = dict.fromkeys(steps, here) | {(*path, *below): here for below in inner.places}
    keys = dict.fromkeys(steps[1:], here) | {(*path, *below): here for below in inner.keys}
    return Document(source, nested, places, keys)


def _type_of(component_id: str) -> str:
    return component_id.partition("/")[0]


def _mapping(document: Document, *path: str) -> dict[str, Any]:
    value = document.at(path)
    return value if isinstance(value, dict) else {}


def _wrong_ids(document: Document, section: str, types: set[str]) -> Iterator[Problem]:
    for name in _mapping(document, section):
        if _type_of(name) not in types or name.endswith("/"):
            hint = nearest(_type_of(name), sorted(types))
            yield document.problem((section, name), f"unknown type `{_type_of(name)}`", hint, key=True)


def _components(
    document: Document, section: str, kinds: Mapping[str, type[BaseModel]], problems: list[Problem]
) -> dict[str, BaseModel]:
    """The settings of each component of a section, checked by its own type."""
    problems += _wrong_ids(document, section, set(kinds))
    built: dict[str, BaseModel] = {}
    for name, written in _mapping(document, section).items():
        model = kinds.get(_type_of(name))
        if model is None:
            continue
        path = (section, name)
        try:
            settings = model.model_validate({} if written is None else written)
        except ValidationError as error:
            problems += problems_of(error, document, model, at=path)
            continue
        built[name] = _rebased(settings, document, path)
    return built


def _rebased(model: BaseModel, document: Document, path: KeyPath) -> BaseModel:
    """The same settings with every relative path made relative to the file that names it."""
    changed: dict[str, Any] = {}
    for name in model.model_fields_set:
        value = getattr(model, name)
        if isinstance(value, Path):
            changed[name] = folder_of(document.place((*path, name)).source) / value.expanduser()
        elif isinstance(value, BaseModel):
            changed[name] = _rebased(value, document, (*path, name))
    return model.model_copy(update=changed)


def _open_doors(document: Document, config: Config) -> Iterator[Problem]:
    """Endpoints that other machines reach and nobody guards."""
    if config.auth.allow_anonymous or config.auth.is_on:
        return
    doors: list[tuple[KeyPath, str, ServerTls | None]] = [(("api",), config.api.endpoint, config.api.tls)]
    for name, receiver in config.otlp.items():
        for protocol in ("grpc", "http"):
            door = getattr(receiver.protocols, protocol)
            if door is not None:
                doors.append((("receivers", name, "protocols", protocol), door.endpoint, door.tls))
    for path, endpoint, tls in doors:
        if is_loopback(split_endpoint(endpoint)[0]) or (tls is not None and tls.client_ca_file is not None):
            continue
        yield document.problem(
            (*path, "endpoint"),
            f"`{endpoint}` is open to other machines, and nobody needs a key",
            "configure `auth.keys` (`otel-cost keys new`), or say that it is meant: `auth: {allow_anonymous: true}`",
        )


def _one_log(document: Document) -> Iterator[Problem]:
    """Where Kafka is the journal, it is the only one."""
    receivers = list(_mapping(document, "receivers"))
    kafka = [name for name in receivers if _type_of(name) == "kafka"]
    if kafka and len(receivers) > 1:
        path = ("receivers", next(name for name in receivers if name != kafka[0]))
        hint = "send OTLP to a Collector that writes to Kafka: deploy/collector/kafka.yaml"
        yield document.problem(path, f"`{kafka[0]}` stands alone: no other receiver goes beside it", hint, key=True)


def _unconnected(document: Document) -> Iterator[Problem]:
    """Pipelines that name components which are not there, or do not take the signal."""
    receivers = list(_mapping(document, "receivers") or ["otlp"])
    exporters = list(_mapping(document, "exporters"))
    for signal, pipeline in _mapping(document, "service", "pipelines").items():
        if not isinstance(pipeline, dict):
            continue
        for role, known in (("receivers", receivers), ("exporters", exporters)):
            names = pipeline.get(role)
            for index, name in enumerate(names if isinstance(names, list) else []):
                path = ("service", "pipelines", signal, role, index)
                if name not in known:
                    hint = nearest(str(name), known) if known else f"there are no `{role}`"
                    yield document.problem(path, f"`{name}` is not configured", hint)
                elif role == "receivers" and _type_of(name) == "kafka" and signal == Signal.METRICS:
                    yield document.problem(path, f"`{name}` does not take metrics", "it takes traces, logs")
                elif role == "exporters" and _type_of(name) in EXPORTERS:
                    takes = EXPORTERS[_type_of(name)].signals
                    if signal in {one.value for one in Signal} and Signal(signal) not in takes:
                        listed = ", ".join(sorted(one.value for one in takes))
                        yield document.problem(path, f"`{name}` does not take {signal}", f"it takes {listed}")


def _entries(document: Document, section: str, problems: list[Problem]) -> tuple[str, ...]:
    """Files and folders of a list, made absolute; what does not exist is a mistake where it is named."""
    entries: list[str] = []
    written = document.at((section,))
    for index, entry in enumerate(written if isinstance(written, list) else []):
        if not isinstance(entry, str):
            continue
        path = (section, index)
        if section == "rules" and entry.startswith(BUNDLED):
            entries.append(entry)
            shipped = [f"{BUNDLED}{name}" for name in bundled_rules()]
            if entry not in shipped:
                problems.append(document.problem(path, f"`{entry}` is not shipped", nearest(entry, shipped)))
            continue
        file = (folder_of(document.place(path).source) / Path(entry).expanduser()).absolute()
        entries.append(str(file))
        if not file.exists():
            problems.append(document.problem(path, f"`{entry}` does not exist", "paths are relative to this file"))
    return tuple(entries)
