"""What workers tell the application. They post these from their threads and touch no widget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from textual.message import Message

if TYPE_CHECKING:
    from cloister.errors import CloisterError


ACTION: ContextVar[int | None] = ContextVar("ACTION", default=None)
"""In a thread that asks for something: the number of the action that it is asked for."""


class OfAction(Message):
    """What came of an action, by its number."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ACTION.get()


class Fresh(Message):
    """Shelves that were read, and why others were not."""

    def __init__(self, found: Mapping[str, Any], refused: Mapping[str, str]) -> None:
        super().__init__()
        self.found = found
        self.refused = refused


class News(Message):
    """Events lie in the inbox."""


class Reached(Message):
    """The event stream runs, also again after a break."""


class Away(Message):
    """The authority does not answer; the follower goes on asking."""

    def __init__(self, problem: str, remedy: str | None = None) -> None:
        super().__init__()
        self.problem = problem
        self.remedy = remedy


class Answered(OfAction):
    """A request went well; `then` takes its answer, in the application's own thread."""

    def __init__(self, answer: Any, then: Callable[[Any], object] | None, *, quiet: bool = False) -> None:
        super().__init__()
        self.quiet = quiet
        self.answer = answer
        self.then = then


class Refused(OfAction):
    """A request was refused, or failed. `failed` wants to know why, instead of having it said."""

    def __init__(self, doing: str, error: CloisterError, failed: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self.failed = failed
        self.doing = doing
        self.error = error


class Said(OfAction):
    """A line for the operator from a request that still goes on."""

    def __init__(self, line: str) -> None:
        super().__init__()
        self.line = line
