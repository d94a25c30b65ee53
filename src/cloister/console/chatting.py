"""What the chat pane's threads do: a turn asked of one deployment, its answer told piece by piece in messages.

They touch no widget, keep nothing, and log nothing.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from textual.message import Message

from cloister.console.remedies import with_keys
from cloister.errors import CloisterError

if TYPE_CHECKING:
    from cloister import chat

GATHER_S = 0.1
"""Pieces of so long are told at once: a fast engine draws no faster than that."""


class Piece(Message, bubble=False):
    """More of the answer of that turn on that side."""

    def __init__(self, turn: int, side: int, text: str) -> None:
        super().__init__()
        self.turn, self.side, self.text = turn, side, text


class Whole(Message, bubble=False):
    """The answer is whole."""

    def __init__(self, turn: int, side: int, answer: chat.Answer) -> None:
        super().__init__()
        self.turn, self.side, self.answer = turn, side, answer


class Broken(Message, bubble=False):
    """There is no answer, or not all of it."""

    def __init__(self, turn: int, side: int, problem: str) -> None:
        super().__init__()
        self.turn, self.side, self.problem = turn, side, problem


def ask(
    open_chat: chat.Chat,
    name: str,
    messages: Sequence[chat.Message],
    post: Callable[[Message], object],
    *,
    turn: int,
    side: int,
) -> None:
    """Ask, in the caller's thread, and post what comes of it."""
    pieces: list[str] = []
    told_at = 0.0

    def tell() -> None:
        nonlocal told_at
        post(Piece(turn, side, "".join(pieces)))
        pieces.clear()
        told_at = time.monotonic()

    def take(piece: str) -> None:
        pieces.append(piece)
        if time.monotonic() - told_at > GATHER_S:
            tell()

    try:
        answer = open_chat.ask(name, messages, take)
    except CloisterError as error:
        post(Broken(turn, side, f"{error.message.rstrip('.')}. {with_keys(error.remedy, 'serving')}"))
        return
    if pieces:
        tell()
    post(Whole(turn, side, answer))


def end(open_chat: chat.Chat) -> None:
    """End a chat and its key in a thread that leaving the console waits for."""

    def close() -> None:
        with contextlib.suppress(CloisterError):  # its key ends by itself
            open_chat.close()

    threading.Thread(target=close).start()
