"""Config: what is in effect, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from otel_cost.core.model.effects import Signal
from otel_cost.edge.config import config_schema, load_config, split_endpoint
from otel_cost.edge.rule_files import read_rules
from otel_cost.errors import DocumentError, UsageError
from otel_cost.quantities import duration_ns, duration_text, size_bytes


def written(folder: Path, text: str, name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refusal(file: Path, *sets: str) -> str:
    with pytest.raises(DocumentError) as raised:
        load_config([file], sets, environ={})
    return str(raised.value)


def test_without_config_it_listens_on_loopback_and_exports_nothing() -> None:
    config = load_config()
    protocols = config.receivers["otlp"].protocols
    assert protocols.grpc is not None
    assert protocols.http is not None
    assert (protocols.grpc.endpoint, protocols.http.endpoint) == ("127.0.0.1:4317", "127.0.0.1:4318")
    assert config.api.endpoint == "127.0.0.1:8317"
    assert config.rules == ("bundled:starter",)
    assert config.exporters == {}
    assert all(config.pipeline(signal) is not None for signal in Signal)
    assert {rule.name for rule in read_rules(config.rules).loops} >= {"same-error-3x", "context-growth"}


def test_a_protocol_that_is_not_named_is_not_served(tmp_path: Path) -> None:
    config = load_config([written(tmp_path, "receivers: {otlp: {protocols: {grpc: }}}")])
    assert config.receivers["otlp"].protocols.grpc is not None
    assert config.receivers["otlp"].protocols.http is None


def test_a_signal_without_pipeline_is_not_accepted_once_pipelines_are_given(tmp_path: Path) -> None:
    text = "exporters: {otlp_http/a: {endpoint: 'http://localhost:1'}}\n"
    everywhere = load_config([written(tmp_path, text)])
    assert everywhere.pipeline(Signal.LOGS).exporters == ("otlp_http/a",)
    given = load_config([written(tmp_path, text + "service: {pipelines: {traces: {receivers: [otlp]}}}")])
    assert given.pipeline(Signal.TRACES).exporters == ()
    assert given.pipeline(Signal.LOGS) is None


def test_files_merge_and_set_comes_last(tmp_path: Path) -> None:
    one = written(tmp_path, "api: {endpoint: '127.0.0.1:1'}\nengine: {settle: 5s, idle: 1h}", "one.yaml")
    two = written(tmp_path, "engine: {settle: 200ms}", "two.yaml")
    config = load_config([one, two], ["api.endpoint=127.0.0.1:0", "exporters.otlp_http/x={endpoint: 'http://h:1'}"])
    assert (config.engine.settle, config.engine.idle) == (200 * 10**6, 3600 * 10**9)
    assert config.api.endpoint == "127.0.0.1:0"
    assert list(config.exporters) == ["otlp_http/x"]


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "conf" / "rules").mkdir(parents=True)
    written(tmp_path / "conf" / "rules", "version: 1\nloops: [{name: mine, detect: repeated_error}]", "r.yaml")
    file = written(tmp_path / "conf", "rules: [rules/, bundled:starter]\ndata_dir: data")
    config = load_config([file])
    assert config.data_dir == tmp_path / "conf" / "data"
    assert [rule.name for rule in read_rules(config.rules).loops][:2] == ["mine", "same-error-3x"]


def test_values_come_from_environment_and_files(tmp_path: Path) -> None:
    written(tmp_path, "s3cret\n", "token")
    file = written(
        tmp_path,
        """
api: {endpoint: "127.0.0.1:${env:PORT:-9}"}
exporters: {otlp_http: {endpoint: "${env:URL}", headers: {authorization: "Bearer ${file:token}", a: "$$x"}}}
engine: {caps: {open_spans: "${env:SPANS}"}}
""",
    )
    config = load_config([file], environ={"URL": "http://localhost:1", "SPANS": "7"})
    assert config.api.endpoint == "127.0.0.1:9"
    assert config.engine.caps.open_spans == 7
    headers = config.exporters["otlp_http"].headers
    assert headers["authorization"].get_secret_value() == "Bearer s3cret"
    assert headers["a"].get_secret_value() == "$x"


def test_what_is_shown_holds_no_secret(tmp_path: Path) -> None:
    text = "exporters: {otlp_http: {endpoint: 'http://me:pw1@localhost:1', headers: {authorization: pw2}}}"
    shown = json.dumps(load_config([written(tmp_path, text)]).shown())
    assert "pw1" not in shown
    assert "pw2" not in shown
    assert "localhost:1" in shown


def test_what_is_shown_is_a_config_again(tmp_path: Path) -> None:
    shown = load_config([], ["engine.settle=1h30m", "journal.max_bytes=1GiB"]).shown()
    again = load_config([written(tmp_path, json.dumps(shown))])
    assert again.shown() == shown
    assert shown["engine"]["settle"] == "90m"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recievers: {}", "config.yaml:1:1: recievers: unknown key `recievers`\n    did you mean `receivers`?"),
        ("receivers: {otlp: {protocols: {grpc: {endpoint: x}}}}", "`x` is not an endpoint"),
        ("receivers: {otlp: {protocols: {}}}", "a receiver without protocols"),
        ("receivers: {zipkin: }", "receivers.zipkin: unknown type `zipkin`"),
        ("exporters: {otlp_htp: {}}", "exporters.otlp_htp: unknown type `otlp_htp`\n    did you mean `otlp_http`?"),
        ("exporters: {otlp_http: {endpoint: 'http://h', heders: {}}}", "did you mean `headers`?"),
        ("engine: {settle: 5}", "engine.settle: `5` is not a duration"),
        ("journal: {max_bytes: 1TBB}", "journal.max_bytes: `1TBB` is not a size"),
        ("api: {endpoint: '${env:NOPE}'}", "environment variable `NOPE` is not set"),
        ("api: {endpoint: '${file:nope}'}", "file `nope` cannot be read"),
        ("api: {endpoint: '${aws:nope}'}", "`${aws:…}` is not known"),
        ("rules: [bundled:startr]", "`bundled:startr` is not shipped\n    did you mean `bundled:starter`?"),
        ("rules: [nope.yaml]", "config.yaml:1:9: rules[0]: `nope.yaml` does not exist"),
        ("service: {pipelines: {traces: {receivers: [otlp], exporters: [x]}}}", "`x` is not configured"),
        ("service: {pipelines: {traces: {receivers: [oltp]}}}", "did you mean `otlp`?"),
        ("service: {pipelines: {trace: {receivers: [otlp]}}}", "did you mean `traces`?"),
        ("[1, 2]", "is not a mapping"),
        ("receivers: {kafka: {}}", "config.yaml:1:20: receivers.kafka: `brokers` is missing"),
        ("receivers: {kafka: {brokers: [here]}}", "receivers.kafka.brokers[0]"),
        ("receivers: {kafka: {brokers: ['h:1'], trace: {topic: x}}}", "did you mean `traces`?"),
        (
            "receivers: {kafka: {brokers: ['h:1']}, otlp: }",
            "config.yaml:1:40: receivers.otlp: `kafka` stands alone: no other receiver goes beside it\n",
        ),
        (
            "{receivers: {kafka: {brokers: ['h:1']}}, service: {pipelines: {metrics: {receivers: [kafka]}}}}",
            "`kafka` does not take metrics",
        ),
    ],
)
def test_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(written(tmp_path, text))


def test_every_mistake_is_named_at_its_own_file(tmp_path: Path) -> None:
    one = written(tmp_path, "api: {endpoint: x}", "one.yaml")
    two = written(tmp_path, "\njournl: {}", "two.yaml")
    with pytest.raises(DocumentError) as raised:
        load_config([one, two], ["engine.idle=soon"])
    places = [(Path(p.source).name, p.line, p.column, p.path) for p in raised.value.problems]
    assert places == [
        ("one.yaml", 1, 17, "api.endpoint"),
        ("--set engine.idle", 1, 1, "engine.idle"),
        ("two.yaml", 2, 1, "journl"),
    ]


def test_unreadable_and_malformed_arguments_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load_config([tmp_path / "nope.yaml"])
    with pytest.raises(UsageError, match="KEY=VALUE"):
        load_config([], ["api.endpoint"])


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("127.0.0.1:4317", ("127.0.0.1", 4317)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        (":4317", ("0.0.0.0", 4317)),
    ],
)
def test_endpoints(text: str, split: tuple[str, int]) -> None:
    assert split_endpoint(text) == split


@pytest.mark.parametrize("text", ["localhost", "h:65536", "::1:4317", "http://h:1", "h:x", ""])
def test_no_endpoints(text: str) -> None:
    with pytest.raises(ValueError, match="is not an endpoint"):
        split_endpoint(text)


@pytest.mark.parametrize(("text", "value"), [("200ms", 200 * 10**6), ("1h30m", 5400 * 10**9), ("1.5s", 1500 * 10**6)])
def test_durations_are_exact_and_written_back(text: str, value: int) -> None:
    assert duration_ns(text) == value
    assert duration_ns(duration_text(value)) == value


def test_sizes() -> None:
    assert [size_bytes(text) for text in ("64MiB", "1GB", "1.5KiB", 7)] == [64 << 20, 10**9, 1536, 7]


def test_the_schema_knows_every_exporter() -> None:
    schema = json.loads(json.dumps(config_schema()))
    assert "^otlp_http(/.+)?$" in schema["properties"]["exporters"]["patternProperties"]
    assert schema["additionalProperties"] is False


OPEN_TO_ALL = [
    "receivers: {otlp: {protocols: {grpc: {endpoint: '0.0.0.0:4317'}}}}",
    "receivers: {otlp: {protocols: {http: {endpoint: ':4318'}}}}",
    "receivers: {otlp: {protocols: {http: {endpoint: '[::]:4318'}}}}",
    "api: {endpoint: '192.168.1.4:8317'}",
    "api: {endpoint: 'otel-cost.example.com:8317'}",
]


@pytest.mark.parametrize("text", OPEN_TO_ALL)
def test_an_endpoint_beyond_this_machine_wants_keys_or_says_that_it_does_not(tmp_path: Path, text: str) -> None:
    said = refusal(written(tmp_path, text))
    assert "open to other machines" in said
    assert "auth.keys" in said
    assert "config.yaml:1:" in said
    load_config([written(tmp_path, f"{text}\nauth: {{allow_anonymous: true}}")], environ={})
    key = "auth: {keys: [{name: a, key: '${env:KEY}'}]}"
    load_config([written(tmp_path, f"{text}\n{key}")], environ={"KEY": "k" * 32})


def test_loopback_needs_no_key(tmp_path: Path) -> None:
    for endpoint in ("127.0.0.1:1", "[::1]:1", "localhost:1", "127.8.9.1:1"):
        load_config([written(tmp_path, f"api: {{endpoint: '{endpoint}'}}")], environ={})


def test_certificates_are_relative_to_the_file_and_keys_are_not_shown(tmp_path: Path) -> None:
    text = """
receivers: {otlp: {protocols: {grpc: {tls: {cert_file: c.pem, key_file: k.pem, client_ca_file: ca.pem}}}}}
api: {endpoint: '127.0.0.1:1', tls: {cert_file: /etc/c.pem, key_file: k.pem}}
auth: {keys: [{name: a, key: '${env:KEY}', scopes: [ingest, read]}]}
content: {default: hash, keys: {app.note: drop}, secret: '${env:KEY}'}
tenants: {team-a: {max_bytes_per_second: 1MiB}}
"""
    config = load_config([written(tmp_path, text)], environ={"KEY": "k-secret" * 4})
    grpc = config.receivers["otlp"].protocols.grpc
    assert grpc is not None
    assert grpc.tls is not None
    assert (grpc.tls.cert_file, grpc.tls.client_ca_file) == (tmp_path / "c.pem", tmp_path / "ca.pem")
    assert config.api.tls is not None
    assert (config.api.tls.cert_file, config.api.tls.key_file) == (Path("/etc/c.pem"), tmp_path / "k.pem")
    assert "k-secret" not in json.dumps(config.shown())
    assert "k-secret" not in repr(config)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("auth: {keys: [{name: a}]}", "auth.keys[0]"),
        ("auth: {keys: [{name: a, hash: md5}]}", "auth.keys[0].hash"),
        ("auth: {keys: [{name: a, key: short}]}", "auth.keys[0]"),
        ("auth: {keys: [{name: a, key: kkkkkkkkkkkkkkkkkkkk, tenant: ../x}]}", "auth.keys[0].tenant"),
        ("auth: {keys: [{name: a, key: kkkkkkkkkkkkkkkkkkkk, scopes: [write]}]}", "auth.keys[0].scopes[0]"),
        ("content: {default: keen}", "content.default"),
        ("tenants: {'a b': {}}", "tenants"),
    ],
)
def test_mistakes_in_security_are_told_where_they_are(tmp_path: Path, text: str, key: str) -> None:
    said = refusal(written(tmp_path, text))
    assert "config.yaml:1:" in said
    assert key in said
    assert "kkkk" not in said


def test_a_shared_ledger_is_a_url_whose_secrets_are_never_shown(tmp_path: Path) -> None:
    secret = "s3cr3t"
    for url in (
        f"postgresql://ours:{secret}@db.example:5432/costs?sslmode=require",
        f"postgres://db.example/costs?user=ours&password={secret}&sslpassword={secret}",
    ):
        file = written(tmp_path, "ledger: ${env:LEDGER}")
        config = load_config([file], environ={"LEDGER": url})
        assert config.ledger is not None
        assert config.ledger.get_secret_value() == url
        shown = json.dumps(config.shown())
        assert secret not in shown + repr(config) + str(config)
        assert "db.example" in shown
    assert load_config().ledger is None


@pytest.mark.parametrize("url", ["mysql://u:s3cr3t@h/db", "ledger.duckdb", "postgresql://h:port/db", "42"])
def test_a_ledger_that_is_no_database_is_refused_where_it_stands(tmp_path: Path, url: str) -> None:
    said = refusal(written(tmp_path, f"api: {{endpoint: '127.0.0.1:0'}}\nledger: '{url}'"))
    assert "config.yaml:2:9" in said
    assert "postgresql://user@host:5432/database" in said
    assert "s3cr3t" not in said


def test_a_database_has_no_size_to_keep_to(tmp_path: Path) -> None:
    said = refusal(written(tmp_path, "ledger: postgresql://h/db\nretention: {max_bytes: 10GiB}"))
    assert "config.yaml:2:24" in said
    assert "max_age" in said
