"""The chat pane: a conversation with one deployment, or the same prompts to two side by side.

Each turn is on the gateway's ledger. What was asked and answered stands in this screen alone, and goes with it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Input, Static

from cloister.console import chatting
from cloister.console.explaining import about_chatting
from cloister.console.forgetting import forget_drawn
from cloister.console.paint import marked, outside, styled
from cloister.console.screens.explained import Explained
from cloister.console.widgets.entry import Prompt
from cloister.shown import visible

if TYPE_CHECKING:
    from cloister.chat import Answer, Chat, Message
    from cloister.console.app import ConsoleApp

LONGEST = 40_000
"""Characters of one answer that are shown."""
KEYS = "Enter ask   ↑↓ PgUp PgDn scroll   ctrl+g help   Esc end, forget it"


class ChatPane(Explained[None]):
    """`names` are the deployments, one or two. Closed, it holds no word of the conversation, and its key is revoked."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "close"),
        Binding("up", "roll(-1)", "up"),
        Binding("down", "roll(1)", "down"),
        Binding("pageup", "roll(-10)", "page up"),
        Binding("pagedown", "roll(10)", "page down"),
    ]

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self._names = names
        self._chat: Chat | None = None
        self._turn = 0
        self._told: list[list[Message]] = [[] for _ in names]
        self._parts = ["" for _ in names]
        self._waiting: set[int] = set()

    @property
    def console(self) -> ConsoleApp:
        return cast("ConsoleApp", self.app)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog", id="chat"):
            yield Static(Text("Chat: each turn is on the gateway's ledger"), classes="title", markup=False)
            with Horizontal(id="sides"):
                for side, name in enumerate(self._names):
                    with Vertical(classes="side"):
                        yield Static(outside(name, 60, "bold underline"), markup=False)
                        yield VerticalScroll(id=f"talk-{side}", can_focus=False)
            yield Static(Text("Opening: a key for this chat alone …", "dim"), id="told", markup=False)
            hint = "what to ask; Enter on nothing begins anew"
            yield Prompt(placeholder=hint, id="prompt", select_on_focus=False, compact=True)
            yield Static(Text(KEYS, "dim"), classes="keys", markup=False)

    def on_mount(self) -> None:
        from cloister.chat import open_chat

        self.query_one(Input).focus()
        self.console.request(
            lambda client: open_chat(client, self._names),
            self._opened,
            doing="chat",
            failed=lambda problem: self._say("bad", f"{problem}. Esc closes it."),
            quiet=True,
        )

    def _opened(self, opened: Chat) -> None:
        if not self.is_attached:  # closed before it was open
            chatting.end(opened)
            return
        self._chat = opened
        self._say("good", "ready")

    def on_unmount(self) -> None:
        if self._chat is not None:
            chatting.end(self._chat)
            self._chat = None
        self._forget()
        self.app.call_later(forget_drawn, self.console.collector)

    def _forget(self) -> None:
        self._turn += 1
        self._waiting.clear()
        self._told = [[] for _ in self._names]
        self._parts = ["" for _ in self._names]

    def _say(self, mood: str, words: str) -> None:
        if self.is_attached:
            self.query_one("#told", Static).update(marked(mood, visible(words, limit=200)))

    # --- asking -------------------------------------------------------------------------------

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        prompt = event.value.strip()
        if self._chat is None or self._waiting:
            self._say("wait", "one thing after the other: it is not ready yet")
            return
        if not prompt:
            self._forget()
            for side in range(len(self._names)):
                self._talk(side).remove_children()
            self._say("good", "a new conversation")
            return
        event.input.value = ""
        self._ask(self._chat, prompt)

    def _ask(self, chat: Chat, prompt: str) -> None:
        from cloister.chat import Message
        from cloister.console.shell import in_thread

        self._turn += 1
        self._say("busy", "answering …")
        for side, name in enumerate(self._names):
            self._told[side].append(Message("user", prompt))
            self._parts[side] = ""
            self._waiting.add(side)
            said = visible(prompt, lines=True, limit=LONGEST)
            self._add(side, styled("you  ", "bold") + Text(said))
            self._add(side, Text("…", "dim"), "answer")
            messages = tuple(self._told[side])
            in_thread(
                partial(chatting.ask, chat, name, messages, self.post_message, turn=self._turn, side=side)
            )

    def on_piece(self, message: chatting.Piece) -> None:
        if message.turn == self._turn:
            self._parts[message.side] += message.text
            self._show(message.side)

    def on_whole(self, message: chatting.Whole) -> None:
        from cloister.chat import Message

        if message.turn != self._turn:
            return
        self._told[message.side].append(Message("assistant", message.answer.text))
        self._show(message.side)
        self._add(message.side, Text(_cost(message.answer), "dim"))
        self._ended(message.side)

    def on_broken(self, message: chatting.Broken) -> None:
        if message.turn != self._turn:
            return
        self._told[message.side].pop()  # it may be asked again
        self._add(message.side, outside(f"× {message.problem}", 300, "bold red"))
        self._ended(message.side)

    def _ended(self, side: int) -> None:
        self._waiting.discard(side)
        if not self._waiting:
            self._say("good", "ready")

    # --- showing ------------------------------------------------------------------------------

    def _talk(self, side: int) -> VerticalScroll:
        return self.query_one(f"#talk-{side}", VerticalScroll)

    def _add(self, side: int, text: Text, kind: str = "") -> None:
        """An `answer` stands behind a bar, so that no line of it can pass for one of ours."""
        talk = self._talk(side)
        talk.mount(Static(text, markup=False, classes=kind))
        talk.scroll_end(animate=False)

    def _show(self, side: int) -> None:
        """The answer as far as it came."""
        last = list(self._talk(side).children)[-1]
        if isinstance(last, Static):
            last.update(Text(visible(self._parts[side], lines=True, limit=LONGEST)))
            self._talk(side).scroll_end(animate=False)

    def action_roll(self, lines: int) -> None:
        for side in range(len(self._names)):
            self._talk(side).scroll_relative(y=lines, animate=False)

    def explanation(self) -> tuple[str, Text]:
        return "chat", about_chatting(self._names)

    def action_close(self) -> None:
        self.dismiss(None)


def _cost(answer: Answer) -> str:
    cut = ", cut at its longest" if answer.finish == "length" else ""
    tokens = "?" if answer.tokens is None else f"{answer.tokens:,}"
    named = visible(answer.request_id or "-", limit=60)
    return (
        f"{tokens} tokens in {answer.seconds:.1f} s, the first after {answer.first_s:.2f} s{cut}\n{named}\n"
    )
