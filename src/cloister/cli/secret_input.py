"""Secrets of unlock slots as a person gives them: asked for at the terminal or read from a descriptor.

Never from argv or the environment. Knows the kinds of slots, and nothing of what they open.
"""

from __future__ import annotations

import base64
import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cloister.errors import InvalidInput

if TYPE_CHECKING:
    from cloister.api import SlotSecret

MAX_LINE = 4096
MAX_KEY = 4096
MAX_SHARES = 16


class Kind(StrEnum):
    """The kinds of unlock slots."""

    PASSPHRASE = "passphrase"  # noqa: S105 - a kind
    CREDENTIAL = "credential"
    SHARES = "shares"
    TOKEN = "token"  # noqa: S105 - a kind


ProofWith = Annotated[
    Kind,
    typer.Option("--proof", help="How you show that you may: what opens another slot.", show_default=True),
]
ProofFd = Annotated[
    int | None,
    typer.Option(
        "--proof-fd", metavar="N", help="Read that proof from this descriptor (a line; shares: a line each)."
    ),
]
ProofSlot = Annotated[
    int | None,
    typer.Option("--proof-slot", metavar="N", help="The slot that the proof opens, if it matters."),
]


def ask_secret(
    kind: Kind, descriptor: int | None, slot: int | None, *, option: str, what: str = ""
) -> SlotSecret:
    """What opens a slot of this kind. `option` is the one that names the descriptor.

    Errors: InvalidInput naming that option.
    """
    from cloister.api import SlotSecret

    if kind == Kind.CREDENTIAL:
        if descriptor is None:
            raise InvalidInput(
                "a credential is read from a descriptor", remedy=f"For example: {option} 3 3<credential"
            )
        return SlotSecret(kind="credential", slot=slot, key=base64.b64encode(_read_all(descriptor)).decode())
    if kind == Kind.SHARES:
        shares = read_lines(descriptor) if descriptor is not None else ask_shares(option)
        return SlotSecret(kind="shares", slot=slot, shares=tuple(shares))
    if kind == Kind.TOKEN:
        return SlotSecret(
            kind="token", slot=slot, pin=ask_line(f"{what}PIN of the token: ", descriptor, option=option)
        )
    passphrase = ask_line(f"{what}Passphrase: ", descriptor, option=option)
    return SlotSecret(kind="passphrase", slot=slot, passphrase=passphrase)


def ask_line(prompt: str, descriptor: int | None, *, option: str, twice: bool = False) -> str:
    """One line, unseen. Errors: InvalidInput without a terminal, or where two entries differ."""
    if descriptor is not None:
        text = _read_line(descriptor)
    else:
        import getpass

        _need_terminal(option)
        text = getpass.getpass(prompt)
        if twice and getpass.getpass("Once more: ") != text:
            raise InvalidInput("the two entries differ")
    if not text:
        raise InvalidInput("nothing was entered")
    return text


def ask_shares(option: str) -> list[str]:
    """Shares at the terminal, one after another, until an empty line."""
    shares: list[str] = []
    while len(shares) < MAX_SHARES:
        share = ask_share(len(shares) + 1, option)
        if share is None:
            break
        shares.append(share)
    if not shares:
        raise InvalidInput("no share was entered")
    return shares


def ask_share(number: int, option: str) -> str | None:
    """One share at the terminal; None for an empty line."""
    import getpass

    _need_terminal(option)
    return getpass.getpass(f"Share {number} (33 words; empty to end): ").strip() or None


def read_lines(descriptor: int) -> list[str]:
    """Every line of a descriptor that is not empty."""
    lines: list[str] = []
    while len(lines) <= MAX_SHARES:
        line = _read_line(descriptor)
        if not line:
            break
        lines.append(line)
    if not lines:
        raise InvalidInput("nothing was given on that descriptor")
    return lines


def _need_terminal(option: str) -> None:
    if not sys.stdin.isatty():
        raise InvalidInput(
            "there is no terminal to ask at", remedy=f"Use `{option} 0` and give it on standard input."
        )


def _read_line(descriptor: int) -> str:
    """Up to the next newline, and no further: the rest of the descriptor may be another secret."""
    raw = bytearray()
    try:
        while len(raw) <= MAX_LINE and (byte := os.read(descriptor, 1)) not in (b"", b"\n"):
            raw += byte
    except OSError:
        raise InvalidInput("nothing can be read from that descriptor", where=str(descriptor)) from None
    if len(raw) > MAX_LINE:
        raise InvalidInput(f"a line has at most {MAX_LINE} bytes", where=f"descriptor {descriptor}")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InvalidInput("not UTF-8", where=f"descriptor {descriptor}") from None


def _read_all(descriptor: int) -> bytes:
    raw = b""
    try:
        while len(raw) <= MAX_KEY and (piece := os.read(descriptor, MAX_KEY)):
            raw += piece
    except OSError:
        raise InvalidInput("nothing can be read from that descriptor", where=str(descriptor)) from None
    if not raw or len(raw) > MAX_KEY:
        raise InvalidInput(f"a credential has at most {MAX_KEY} bytes", where=f"descriptor {descriptor}")
    return raw
