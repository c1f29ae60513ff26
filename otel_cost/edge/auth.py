"""Auth: who is asking, by a key or a client certificate, what they may do, and whose data it is.

Keys are random and long, so a plain SHA-256 is enough to keep them; all of them are
compared, in constant time, at every look-up. Several keys may be live for one tenant:
a new one is added, senders move, the old one is taken out. The tenant comes from the
credential alone, unless the operator says that its holder is a gateway and names a header.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, model_validator

from otel_cost.core.model.event import DEFAULT_TENANT
from otel_cost.edge.receive.refusals import ForbiddenError, UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Where a receiver puts the names in a verified client certificate: no client can send a header of this name.
PEER: Final = ":peer"
PREFIX: Final = "oc_"
_MIN_KEY: Final = 16
_KEY_HEADERS: Final = ("x-api-key", "api-key", "x-otel-cost-key")
_TENANT: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

TenantName = Annotated[str, Field(pattern=rf"^{_TENANT.pattern}$", examples=["team-a"])]


class Scope(StrEnum):
    """What a credential may do. `admin` is everything."""

    INGEST = "ingest"  # send telemetry, ask at hooks, report outcomes
    READ = "read"  # reports, pages, metrics
    ADMIN = "admin"  # reload, deletion, backup


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class _Holder(_Part):
    name: Annotated[str, Field(min_length=1, max_length=64)]
    tenant: TenantName | None = None  # None: the default tenant's when it sends, every tenant's when it reads
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)] = (Scope.INGEST,)
    tenant_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] | None = None  # a trusted gateway says whose it is
    expires: AwareDatetime | None = None

    @model_validator(mode="after")
    def _one_source_of_tenants(self) -> _Holder:
        if self.tenant is not None and self.tenant_header is not None:
            raise ValueError("tenant and tenant_header exclude each other\na gateway speaks for several tenants")
        return self


class Key(_Holder):
    """One API key: its hash (`otel-cost keys new` makes both), or the key itself from `${env:…}` or `${file:…}`."""

    hash: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    key: SecretStr | None = None

    @model_validator(mode="after")
    def _hash_or_key(self) -> Key:
        if (self.hash is None) == (self.key is None):
            raise ValueError("give `hash` or `key`, one of them\n`otel-cost keys new` makes a key and its hash")
        if self.key is not None and len(self.key.get_secret_value()) < _MIN_KEY:
            raise ValueError(
                f"a key of fewer than {_MIN_KEY} characters can be guessed\n`otel-cost keys new` makes one"
            )
        return self


class Certificate(_Holder):
    """A client certificate that `tls.client_ca_file` vouches for, by its common name or a DNS name in it."""

    subject: Annotated[str, Field(min_length=1)]


class Auth(_Part):
    """Who may do what. With keys or certificates everybody needs one; without, everybody may everything."""

    keys: tuple[Key, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    allow_anonymous: bool = False  # said when an endpoint beyond this machine is meant to be open to all

    @property
    def is_on(self) -> bool:
        return bool(self.keys or self.certificates)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks. `tenant` None: any tenant when reading, the default one when sending."""

    name: str
    tenant: str | None
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    @property
    def sends_as(self) -> str:
        return DEFAULT_TENANT if self.tenant is None else self.tenant


NOBODY: Final = Identity("anonymous", None, frozenset(Scope))


def new_key() -> tuple[str, str]:
    """A fresh key, and the hash to configure."""
    key = PREFIX + secrets.token_urlsafe(32)
    return key, f"sha256:{_digest(key).hex()}"


class Door:
    """Tells who stands before it. Safe to use from many threads."""

    def __init__(self, auth: Auth, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self.is_on = auth.is_on
        self._keys: list[tuple[bytes, _Holder]] = [
            (
                bytes.fromhex(key.hash.removeprefix("sha256:"))
                if key.hash is not None
                else _digest(key.key.get_secret_value() if key.key is not None else ""),
                key,
            )
            for key in auth.keys
        ]
        self._certificates = {certificate.subject: certificate for certificate in auth.certificates}

    def identify(self, headers: Mapping[str, str]) -> Identity:
        """By `Authorization: Bearer KEY`, `Basic …` (the key as password), `x-api-key`, or the names under `PEER`.

        Names of headers are in lower case.

        Raises:
            UnauthenticatedError: no credential, or one that nobody has, or that has expired.
            ForbiddenError: a gateway that does not say whose data it sends.
        """
        if not self.is_on:
            return NOBODY
        holder = self._by_key(headers) or self._by_certificate(headers)
        if holder is None:
            raise UnauthenticatedError("no valid credential; send `Authorization: Bearer KEY` or `x-api-key: KEY`")
        if holder.expires is not None and holder.expires.timestamp() <= self._now():
            raise UnauthenticatedError("the credential has expired")
        tenant = holder.tenant
        if holder.tenant_header is not None:
            tenant = headers.get(holder.tenant_header.lower())
            if tenant is None or not _TENANT.fullmatch(tenant):
                raise ForbiddenError(f"header {holder.tenant_header} does not name a tenant")
        return Identity(holder.name, tenant, frozenset(holder.scopes))

    def sender(self, headers: Mapping[str, str]) -> str:
        """The tenant that may send with these headers.

        Raises:
            UnauthenticatedError, ForbiddenError: nobody's, or not for sending.
        """
        identity = self.identify(headers)
        if not identity.may(Scope.INGEST):
            raise ForbiddenError("this credential may not send telemetry; it lacks the scope `ingest`")
        return identity.sends_as

    def _by_key(self, headers: Mapping[str, str]) -> _Holder | None:
        given = _given_key(headers)
        if given is None:
            return None
        digest = _digest(given)
        found: _Holder | None = None
        for known, holder in self._keys:  # all of them: the time tells nothing of which one it was
            if hmac.compare_digest(known, digest):
                found = holder
        return found

    def _by_certificate(self, headers: Mapping[str, str]) -> _Holder | None:
        for subject in headers.get(PEER, "").split("\n"):
            if subject in self._certificates:
                return self._certificates[subject]
        return None


def _given_key(headers: Mapping[str, str]) -> str | None:
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer" and rest:
        return rest
    if scheme.lower() == "basic" and rest:
        try:
            _, _, password = base64.b64decode(rest, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return password
    return next((headers[name] for name in _KEY_HEADERS if headers.get(name)), None)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def peer_names(common_names: Sequence[str], alternative_names: Sequence[str]) -> str:
    """What goes under `PEER`."""
    return "\n".join((*common_names, *alternative_names))
