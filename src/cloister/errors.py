"""The one exception hierarchy. Every error says what is wrong, where, and what to do about it.

A message never holds content: no row, prompt, answer, passphrase or key. The CLI maps `exit_code`
to its exit status; the API maps `status` and `code` to a problem document (RFC 9457).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class CloisterError(Exception):
    """Base of all errors meant for a person.

    Args:
        message: what is wrong, one sentence, without content.
        where: the file, `file:line`, object id or field it is about.
        remedy: what the reader can do next.
        values: figures and short words for a program, such as counts; no content.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        remedy: str | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.remedy = remedy
        self.values: dict[str, Any] = dict(values or {})

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        if not self.remedy:
            return text
        return f"{text}{'' if text.endswith(('.', '?', '!')) else '.'} {self.remedy}"


class InvalidInput(CloisterError):
    """A value, file or request that does not fit its rules."""

    code, exit_code, status = "invalid-input", 2, 422


class NotFound(CloisterError):
    """No object of that name or id."""

    code, exit_code, status = "not-found", 3, 404


class Shredded(NotFound):
    """What is asked for was shredded: its keys are destroyed. The message says when and by whom."""

    code, status = "shredded", 410


class Conflict(CloisterError):
    """The thing is not in a state in which this can be done."""

    code, exit_code, status = "conflict", 4, 409


class TooManyRequests(Conflict):
    """One account asks faster than it may. `values["retry_after_s"]` says how long to wait."""

    code, status = "too-many-requests", 429


class Locked(CloisterError):
    """The vault is locked."""

    code, exit_code, status = "locked", 5, 423


class Denied(CloisterError):
    """The caller may not do this."""

    code, exit_code, status = "denied", 6, 403


class ApprovalNeeded(Denied):
    """Somebody else has to approve it first; `values["approval"]` is what was asked of them."""

    code, exit_code = "approval-needed", 13


class Unauthenticated(CloisterError):
    """A passphrase, key or signature is wrong or missing."""

    code, exit_code, status = "unauthenticated", 6, 401


class Tampered(CloisterError):
    """Stored data fails its integrity check: `where` names the file."""

    code, exit_code, status = "tampered", 7, 500


class LedgerUnavailable(CloisterError):
    """The ledger cannot be written, so nothing new is started."""

    code, exit_code, status = "ledger-unavailable", 8, 503


class Unavailable(CloisterError):
    """Something that this needs is not running or does not answer."""

    code, exit_code, status = "unavailable", 9, 503


class SandboxUnavailable(Unavailable):
    """No sandbox can be built on this machine, so no work starts."""

    code = "sandbox-unavailable"


class OutOfSpace(CloisterError):
    """The disk or memory that this needs is not there."""

    code, exit_code, status = "out-of-space", 10, 507


class JobFailed(CloisterError):
    """A job ended without its result."""

    code, exit_code, status = "job-failed", 11, 500


class Diverged(JobFailed):
    """A run's numbers went wrong: a loss that is no finite number, or far above where it began."""

    code = "diverged"


class Interrupted(CloisterError):
    """Work was cut off; what was kept says how to go on."""

    code, exit_code, status = "interrupted", 12, 500


def by_code(code: str) -> type[CloisterError]:
    """The class whose `code` this is, or the base class when it is not known here."""
    pending: list[type[CloisterError]] = [CloisterError]
    while pending:
        kind = pending.pop()
        if kind.code == code:
            return kind
        pending.extend(kind.__subclasses__())
    return CloisterError
