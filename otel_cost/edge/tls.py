"""TLS of our own servers: certificates from files, client certificates if asked for, renewed without a restart."""

from __future__ import annotations

import ssl
import threading
import time
from pathlib import Path  # read by pydantic at run time
from typing import Final, Literal

import grpc
import structlog
from pydantic import BaseModel, ConfigDict

from otel_cost.errors import UsageError
from otel_cost.quantities import Duration

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_log = structlog.get_logger(__name__)


class ServerTls(BaseModel):
    """TLS of one endpoint, in the Collector's words. `client_ca_file` asks every client for a certificate."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None
    min_version: Literal["1.2", "1.3"] = "1.2"
    reload_interval: Duration = 10 * 10**9  # how often the files are looked at


class Certificates:
    """The files of one endpoint as they are now. A new pair that does not work leaves the old one in place."""

    def __init__(self, tls: ServerTls, key: str) -> None:
        """`key`: the config key, for messages.

        Raises:
            UsageError: the files cannot be read, or do not belong together.
        """
        self._tls, self._key = tls, key
        self._lock = threading.Lock()
        self._looked_at = time.monotonic()
        try:
            self._stamp = self._stamp_now()
            self._context = self._load()
            self._bytes = self._read()
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"{key}.tls: the certificate cannot be used: {error}") from error

    def context(self) -> ssl.SSLContext:
        """For HTTP; each handshake gets the newest certificate."""
        front = self._load()
        front.sni_callback = self._newest
        return front

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For gRPC; each handshake gets the newest certificate."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            self._fetch,  # type: ignore[arg-type]  # None: no news, as its documentation says
            require_client_authentication=self._tls.client_ca_file is not None,
        )

    def _newest(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        self._refresh()
        connection.context = self._context

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        return self._configuration() if self._refresh() else None

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        key, certificate, authority = self._bytes
        return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authority)

    def _refresh(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if now - self._looked_at < self._tls.reload_interval / 1e9:
                return False
            self._looked_at = now
            try:
                stamp = self._stamp_now()
                if stamp == self._stamp:
                    return False
                self._context, self._bytes, self._stamp = self._load(), self._read(), stamp
            except (OSError, ssl.SSLError) as error:
                _log.error("the new certificate cannot be used; the old one stays", key=self._key, problem=str(error))
                return False
            _log.info("certificate renewed", key=self._key)
            return True

    def _files(self) -> tuple[Path, ...]:
        tls = self._tls
        return (tls.key_file, tls.cert_file, *((tls.client_ca_file,) if tls.client_ca_file is not None else ()))

    def _stamp_now(self) -> tuple[tuple[int, int, int], ...]:
        stats = [path.stat() for path in self._files()]
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in stats)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[self._tls.min_version]
        context.load_cert_chain(self._tls.cert_file, self._tls.key_file)
        if self._tls.client_ca_file is not None:
            context.load_verify_locations(self._tls.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _read(self) -> tuple[bytes, bytes, bytes | None]:
        key, certificate, *authority = [path.read_bytes() for path in self._files()]
        return key, certificate, authority[0] if authority else None


def names_in(certificate: dict[str, object]) -> tuple[list[str], list[str]]:
    """Common names and DNS names of a certificate as `ssl` tells it."""
    subject: object = certificate.get("subject", ())
    common = [value for part in subject for key, value in part if key == "commonName"]  # type: ignore[attr-defined]
    other: object = certificate.get("subjectAltName", ())
    return common, [value for key, value in other if key == "DNS"]  # type: ignore[attr-defined]
