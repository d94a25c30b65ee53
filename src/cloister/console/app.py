"""The console's application: actions done where policy and arming let them, requests in threads, dialogs over a screen.

What is shown is `following`'s, how it runs on a terminal `shell`'s. It knows no screen's contents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from cloister.console.actions import BY_ID, PLACES, Action
from cloister.console.following import Following
from cloister.console.messages import ACTION, Answered, OfAction, Refused, Said
from cloister.console.remedies import waits, with_keys
from cloister.console.sayings import listed
from cloister.console.shell import fault, in_thread

if TYPE_CHECKING:
    from cloister.client import Client
    from cloister.console.screens.dialogs import Form

Result = TypeVar("Result")


class ConsoleApp(Following):
    """What an operator's keys do."""

    def action_perform(self, action_id: str) -> None:
        """Do an action of the registry, where policy and arming let it."""
        action = BY_ID[action_id]
        self.sayings.begin()
        if not self.picture.may(action.policy):
            self._explain(action)
            return
        if action.changes and not self.armed:
            self.say(f"Read-only: press w to arm the console, then {action.shown_key} again.", "warn")
            return
        if action.id.startswith("go."):
            self.hush()
            self.switch_mode(action.id[3:])
            return
        for target in (self.place, self):
            method = getattr(target, action.method, None)
            if method is not None:
                method()
                return

    def request(
        self,
        work: Callable[[Client], Result],
        then: Callable[[Result], object] | None = None,
        *,
        doing: str,
        failed: Callable[[str], None] | None = None,
        quiet: bool = False,
    ) -> None:
        """Ask the authority in a thread. `then` gets the answer here; what is refused is said, with its remedy,
        or told to `failed`. A `quiet` one changes nothing, so that nothing is read again after it."""

        number = self._answering if self._answering is not None else self.sayings.action

        def ask() -> None:
            from cloister.errors import CloisterError

            ACTION.set(number)
            try:
                self.post_message(Answered(work(self.feed.client()), then, quiet=quiet))
            except CloisterError as error:
                self.post_message(Refused(doing, error, failed))
            except OSError as error:
                refused = CloisterError(error.strerror or "the system refuses", where=error.filename)
                self.post_message(Refused(doing, refused, failed))
            except Exception as error:  # a fault of ours: said, and nothing waits for an answer for ever
                self.post_message(Refused(doing, CloisterError(fault(error)), failed))

        in_thread(ask)

    def on_answered(self, message: Answered) -> None:
        with self._answer_to(message):
            came = message.then(message.answer) if message.then is not None else None
        if not message.quiet:
            if came is not False:
                self._draft.forget()
            self.reread_here()

    def on_refused(self, message: Refused) -> None:
        error = message.error
        if message.failed is not None:
            with self._answer_to(message):
                message.failed(error.message)
            return
        place = f"{error.where}: " if error.where else ""
        asked = error.values.get("approval")
        if asked is not None:  # the asker's remedy is the approver's command, of which the console has keys
            told = f"{message.doing}: {error.message}. {waits(str(asked))}"
        else:
            told = (
                f"{message.doing}: {place}{error.message.rstrip('.')}. {with_keys(error.remedy, self._scope)}"
            )
        with self._answer_to(message):
            self.say(told, "warn" if error.code == "approval-needed" else "bad")
        self.reread_here()

    def on_said(self, message: Said) -> None:
        with self._answer_to(message):
            self.say(message.line, "info")

    @contextmanager
    def _answer_to(self, message: OfAction) -> Iterator[None]:
        """What is said and asked for meanwhile belongs to the action that the message is of."""
        self._answering = message.action
        try:
            yield
        finally:
            self._answering = None

    def _explain(self, action: Action) -> None:
        """Say why the policies deny an action, as they themselves explain it."""
        from cloister.console.denial import ask_why, told

        assert action.policy is not None
        policy = action.policy
        self.say(f"{action.label}: denied. Asking the policies why …", "warn")
        self.request(
            lambda client: ask_why(client, policy),
            lambda answers: self.tell(f"Denied: {action.label}", told(policy, answers, self.picture)),
            doing=f"{action.label} is denied",
        )

    def tell(self, title: str, text: Any, *, copied: str | None = None, once: bool = False) -> None:
        """A text to read, over the screen; what is shown this `once` only Esc closes."""
        from cloister.console.screens.dialogs import Tell

        self.push_screen(Tell(title, text, copied=copied, once=once))

    def ask_form(
        self,
        title: str,
        fields: Sequence[Any],
        then: Callable[[dict[str, str]], None],
        *,
        note: Any = None,
        form: type[Form] | None = None,
        problem: str | None = None,
    ) -> None:
        """A form to fill in; left with Esc, nothing happens. Where `then` finds something `mistaken`, or what it asks
        for comes to nothing, the form has what was typed when it comes again; a secret never."""
        from cloister.console.screens.dialogs import Form

        def answered(values: dict[str, str] | None) -> None:
            if values is None:
                return
            self._draft.keep(title, fields, values)
            then(values)
            if self._draft.mistake is not None:
                self.ask_form(title, fields, then, note=note, form=form, problem=self._draft.mistake)

        filled = self._draft.filled(title, fields)
        self.push_screen((form or Form)(title, filled, note=note, problem=problem), answered)

    def mistaken(self, problem: str) -> None:
        """What a form says cannot be: it comes again, with the reason."""
        self._draft.mistake = problem
        self.say(problem, "bad")

    def confirm(self, title: str, touched: Any, name: str, doing: str, then: Callable[[], None]) -> None:
        """What is touched, and the name to be typed, before it happens."""
        from cloister.console.screens.dialogs import Confirm

        def answered(sure: bool | None) -> None:
            then() if sure else self.say("Nothing was changed.", "info")

        self.push_screen(Confirm(title, touched, name, doing), answered)

    # --- actions that count everywhere --------------------------------------------------------------

    def do_arm(self) -> None:
        self.armed = not self.armed
        if self.armed:
            self.say("Armed: keys that change something act now. w makes it read-only again.", "warn")
        else:
            self.say("Read-only.")
        self.show()

    def do_quit(self) -> None:
        self.exit()

    def do_reread(self) -> None:
        self.reread_here()
        self.say("Reading again.", "info")

    def do_copy(self) -> None:
        chosen = self.place.chosen_id() if self.place is not None else None
        if chosen is None:
            self.say("There is no id under the cursor.", "warn")
            return
        self.copy_to_clipboard(chosen)
        self.say(f"{chosen} (sent to your terminal's clipboard)")

    def do_messages(self) -> None:
        self.tell("Messages", listed(self.sayings.kept))
        self.hush(read=True)

    @property
    def _scope(self) -> str:
        return self.place.scope if self.place is not None else PLACES[0]

    def do_palette(self) -> None:
        from cloister.console.screens.palette import Palette, home_of

        scope = self._scope

        def chosen(action_id: str | None) -> None:
            if action_id is None:
                return
            home = home_of(action_id, scope)
            if home is not None:
                self.switch_mode(home)
            self.call_after_refresh(self.action_perform, action_id)

        self.push_screen(Palette(scope, self.picture), chosen)

    def do_help(self) -> None:
        from cloister.console.help import help_for

        if self.place is not None:
            self.tell(f"Help: {self.place.scope}", help_for(self.place.scope, self.picture))
