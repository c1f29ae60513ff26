"""Kafka: how to reach a cluster, in the words of the Collector's Kafka components; shared by receiver and exporter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import structlog
from pydantic import Field, SecretStr

from otel_cost.edge.export._settings import Settings, Tls
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType

Topic = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$", examples=["otlp_spans"])]
Broker = Annotated[str, Field(pattern=r"^[^\s,/]+:\d{1,5}$", examples=["127.0.0.1:9092"])]

_log = structlog.get_logger(__name__)


class Sasl(Settings):
    """A name and a password."""

    username: Annotated[str, Field(min_length=1)]
    password: SecretStr
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"


class KafkaAuth(Settings):
    """How to say who we are."""

    sasl: Sasl


class Encoded(Settings):
    """The topic of a signal; each record of it is an OTLP export request."""

    topic: Topic
    encoding: Literal["otlp_proto"] = "otlp_proto"


class Connection(Settings):
    """Where the brokers are. `tls`, even an empty one, means that they speak TLS."""

    brokers: Annotated[tuple[Broker, ...], Field(min_length=1)]
    client_id: str = "otel-cost"
    tls: Tls | None = None
    auth: KafkaAuth | None = None

    def properties(self) -> dict[str, Any]:
        """The same for librdkafka."""
        said: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.brokers),
            "client.id": self.client_id,
            "log_level": 2,  # what matters comes by `error_cb`
            "error_cb": _tell,
            "socket.keepalive.enable": True,
            "reconnect.backoff.max.ms": 5_000,
        }
        encrypted = self.tls is not None and not self.tls.insecure
        said["security.protocol"] = ("sasl_" if self.auth else "") + ("ssl" if encrypted else "plaintext")
        if self.tls is not None and encrypted:
            files = {"ca": self.tls.ca_file, "certificate": self.tls.cert_file, "key": self.tls.key_file}
            said |= {f"ssl.{name}.location": str(file) for name, file in files.items() if file is not None}
            said["enable.ssl.certificate.verification"] = not self.tls.insecure_skip_verify
        if self.auth is not None:
            sasl = self.auth.sasl
            said |= {"sasl.mechanism": sasl.mechanism, "sasl.username": sasl.username}
            said["sasl.password"] = sasl.password.get_secret_value()
        return said


def client_library(key: str) -> ModuleType:
    """The Kafka client.

    Raises:
        UsageError: it is not installed; `key` is what asks for it.
    """
    try:
        import confluent_kafka  # noqa: PLC0415  # an optional part, and heavy
    except ImportError as error:
        raise UsageError(f"{key}: the Kafka client is missing; install: pip install 'otel-cost[kafka]'") from error
    return confluent_kafka


def _tell(error: Any) -> None:  # noqa: ANN401  # KafkaError
    _log.warning("kafka", problem=error.str())
