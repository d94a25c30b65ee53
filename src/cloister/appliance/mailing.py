"""Alerts by mail, to a relay of the house. Plain text, one alert a message; the relay takes it without a password."""

from __future__ import annotations

import smtplib
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from cloister.api import Alert
from cloister.policy.settings import MailSettings
from cloister.tls import verifying_context

LIMIT_S = 20.0


def message_of(what: str, alert: Alert, settings: MailSettings, host: str) -> EmailMessage:
    """The mail about an alert that was `raised` or `cleared`."""
    message = EmailMessage()
    message["From"] = settings.sender
    message["To"] = ", ".join(settings.to)
    message["Subject"] = f"Cloister on {host}: {alert.severity} {alert.key} {what}"
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=host)
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(
        f"{alert.severity}: {alert.key} was {what}\n\n"
        f"cause    {alert.cause}\naffects  {alert.affects}\nnext     {alert.command}\n"
        f"since    {alert.raised_at:%Y-%m-%d %H:%M} UTC\n"
    )
    return message


def send(message: EmailMessage, settings: MailSettings) -> None:
    """Hand it to the relay. Errors: OSError, smtplib.SMTPException."""
    host, _, port = settings.server.rpartition(":")
    context = verifying_context(settings.ca)
    if settings.tls == "tls":
        with smtplib.SMTP_SSL(host, int(port), timeout=LIMIT_S, context=context) as relay:
            relay.send_message(message)
        return
    with smtplib.SMTP(host, int(port), timeout=LIMIT_S) as relay:
        if settings.tls == "starttls":
            relay.starttls(context=context)
        relay.send_message(message)
