"""Settings that exporters share, in the OpenTelemetry Collector's words; defaults live here and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    WithJsonSchema,
    model_validator,
)

from otel_cost.quantities import Size, duration_ns, duration_text

Duration = Annotated[  # seconds
    float,
    BeforeValidator(lambda written: duration_ns(written) / 1e9),
    PlainSerializer(lambda seconds: duration_text(round(seconds * 1e9)), return_type=str),
    WithJsonSchema({"type": "string", "examples": ["5s", "200ms", "1m30s"]}),
]
Count = Annotated[int, Field(gt=0)]


class Settings(BaseModel):
    """Base of every settings model: unknown keys are mistakes, secrets never print."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Tls(Settings):
    """Client side of TLS."""

    insecure: bool = False  # plain text; on HTTP the URL's scheme decides
    insecure_skip_verify: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name_override: str | None = None

    @model_validator(mode="after")
    def _key_goes_with_certificate(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together\ngive both, or neither")
        return self


class RetryOnFailure(Settings):
    """How to go on after a retryable failure."""

    enabled: bool = True
    initial_interval: Duration = 5.0
    randomization_factor: Annotated[float, Field(ge=0, le=1)] = 0.5
    multiplier: Annotated[float, Field(ge=1)] = 1.5
    max_interval: Duration = 30.0
    max_elapsed_time: Duration = 0.0  # 0: never give up; the Collector gives up, and drops, after five minutes


class Batch(Settings):
    """How records become requests: one is sent when `min_size` records wait, or after `flush_timeout`."""

    flush_timeout: Duration = 0.05
    min_size: Annotated[int, Field(ge=0)] = 512  # records
    max_size: Count = 512  # records
    max_bytes: Count = 900_000  # before compression

    @model_validator(mode="after")
    def _min_below_max(self) -> Self:
        if "min_size" in self.model_fields_set and self.min_size > self.max_size:
            raise ValueError("min_size is larger than max_size")
        return self


class Spill(Settings):
    """Where what a destination cannot take yet waits: on disk, in `data_dir/spill`, up to `max_bytes`.

    `when_full`: `drop_oldest` and `drop_newest` lose records of this destination alone,
    counted; `refuse` loses none and makes the receivers push back on every sender.
    """

    max_bytes: Annotated[Size, Field(ge=64 << 20)] = 4 << 30
    when_full: Literal["drop_oldest", "drop_newest", "refuse"] = "drop_oldest"
    after: Duration = 30.0  # what has waited in memory for so long goes to disk


class SendingQueue(Settings):
    """The bounded queue of one destination, in memory; beyond `queue_size`, records wait on disk (`spill`)."""

    enabled: Literal[True] = True
    sizer: Literal["bytes", "items"] = "bytes"
    queue_size: Count = 64 << 20
    num_consumers: Annotated[int, Field(gt=0, le=64)] = 4
    batch: Batch = Batch()
    spill: Spill = Spill()

    @model_validator(mode="after")
    def _bytes_are_meant(self) -> Self:
        if self.sizer == "bytes" and self.queue_size < 1 << 20:
            raise ValueError(
                "queue_size counts bytes here and is at least 1048576\nto count records add `sizer: items`"
            )
        return self


class Delivery(Settings):
    """What every exporter has."""

    retry_on_failure: RetryOnFailure = RetryOnFailure()
    sending_queue: SendingQueue = SendingQueue()


class RoomyBatch(Batch):
    """Requests for a plain OTLP receiver: below the 4 MiB that gRPC servers take by default."""

    max_size: Count = 4096
    max_bytes: Count = 3_000_000


class RoomyQueue(SendingQueue):
    """A queue that makes larger requests."""

    batch: RoomyBatch = RoomyBatch()


class SerialQueue(SendingQueue):
    """A queue with one consumer, for destinations where order is nice to have."""

    num_consumers: Annotated[int, Field(gt=0, le=64)] = 1


class Client(Delivery):
    """What every exporter that speaks to a server has besides."""

    headers: dict[str, SecretStr] = {}
    tls: Tls = Tls()
    compression: Literal["gzip", "none"] = "gzip"


def plain_headers(headers: dict[str, SecretStr]) -> dict[str, str]:
    """Headers as they go on the wire, with lower-case names as HTTP/2 wants them."""
    return {name.lower(): value.get_secret_value() for name, value in headers.items()}
