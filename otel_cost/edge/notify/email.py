"""Sink `email`: mail over SMTP, plain text."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

import structlog

from otel_cost.core.rules.kinds.contacts import Email as Settings
from otel_cost.edge.notify import register
from otel_cost.edge.notify._contract import Refused, SinkKind, Unavailable
from otel_cost.edge.notify._words import plain_text, title

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = structlog.get_logger(__name__)
_TIMEOUT_S: Final = 15.0
_TRY_LATER: Final = range(400, 500)


class EmailSink:
    """A connection per mail; alerts are few."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        host, _, port = settings.smarthost.rpartition(":")
        self._host, self._port = host, int(port)

    def send(self, message: Mapping[str, Any]) -> None:
        """As `Sink.send`."""
        try:
            with self._connection() as smtp:
                if self._settings.username is not None:
                    password = self._settings.password
                    smtp.login(self._settings.username, "" if password is None else password.get_secret_value())
                refused = smtp.send_message(mail_of(message, self._settings))
            if refused:
                _log.warning("a mail was not taken for some of its recipients", recipients=len(refused))
        except smtplib.SMTPResponseException as error:
            reason = f"smtp_{error.smtp_code}"
            if error.smtp_code in _TRY_LATER:
                raise Unavailable(f"SMTP {error.smtp_code}", reason) from None
            raise Refused(f"SMTP {error.smtp_code}", reason) from None
        except smtplib.SMTPRecipientsRefused as error:
            codes = {code for code, _ in error.recipients.values()}
            if all(code in _TRY_LATER for code in codes):
                raise Unavailable("recipients were put off", "smtp_recipients") from None
            raise Refused("recipients were refused", "smtp_recipients") from None
        except smtplib.SMTPNotSupportedError:
            raise Refused("the server has no STARTTLS or no login; see `tls`", "smtp_unsupported") from None
        except (smtplib.SMTPException, OSError) as error:
            raise Unavailable(f"no mail server: {type(error).__name__}", "connection") from None

    def close(self) -> None:
        """Nothing is held open."""

    def _connection(self) -> smtplib.SMTP:
        if self._settings.tls == "tls":
            context = ssl.create_default_context()
            return smtplib.SMTP_SSL(self._host, self._port, timeout=_TIMEOUT_S, context=context)
        smtp = smtplib.SMTP(self._host, self._port, timeout=_TIMEOUT_S)
        if self._settings.tls == "starttls":
            try:
                smtp.starttls(context=ssl.create_default_context())
            except BaseException:
                smtp.close()
                raise
        return smtp


def mail_of(message: Mapping[str, Any], settings: Settings) -> EmailMessage:
    """One mail per group; `Message-ID` stays the same over retries, so that most mailboxes show it once."""
    mail = EmailMessage()
    mail["Subject"] = " ".join(title(message).split())[:200]
    mail["From"] = settings.from_
    mail["To"] = ", ".join(settings.to)
    mail["Date"] = formatdate()
    mail["Message-ID"] = f"<{message['id']}@otel-cost>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(plain_text(message))
    return mail


register(SinkKind(name="email", settings=Settings, build=EmailSink, takes_groups=True))
