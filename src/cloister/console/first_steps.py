"""What to do next while an appliance is still empty: each step with its key in the console and with its command.

It knows no screen and does nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text

from cloister.console.paint import marked, styled
from cloister.console.picture import Picture


@dataclass(frozen=True)
class Step:
    """`command` does the same in a shell."""

    key: str
    words: str
    command: str
    done: bool


def first_steps(picture: Picture) -> list[Step]:
    """Those of an appliance that cannot work yet; none of one that can, or of which too little is known."""
    status = picture.status
    if status is None or (status.initialised and not {"bases", "datasets", "runs"} <= picture.read):
        return []
    if picture.runs or (picture.bases and picture.datasets):
        return []
    return [
        Step("v", "initialise: make the vault and its first passphrase", "cloister init", status.initialised),
        Step("u", "unlock the vault", "cloister unlock", status.initialised and not status.locked),
        Step(
            "b",
            "add a base model from a local folder",
            "cloister base import FOLDER --name NAME",
            bool(picture.bases),
        ),
        Step(
            "i",
            "bring in data, sealed from its first byte",
            "cloister dataset import FILE --name NAME",
            bool(picture.datasets),
        ),
        Step("n", "start a run", "cloister run start --dataset NAME --base NAME", bool(picture.runs)),
    ]


def greeting(picture: Picture, *, armed: bool) -> Text | None:
    """What an empty appliance greets with; None for one that can work."""
    steps = first_steps(picture)
    if not steps:
        return None
    due = [Step("w", "arm the console: it is read-only until then", "", armed), *steps]
    text = styled("Welcome. This appliance is still empty. Next:\n\n", "bold")
    first = next(step for step in due if not step.done)
    for step in due:
        text.append("  ")
        if step.done:
            text.append_text(marked("good", f"{step.key}  {step.words.partition(':')[0]}: done\n"))
        elif step is first:
            text.append_text(marked("busy", "")).append(f"{step.key}  {step.words}\n", "bold")
        else:
            text.append(f"○ {step.key}  {step.words}\n", "dim")
    if any(one.state == "pending" for one in picture.approvals):
        text.append("\n  ").append_text(marked("wait", "4  something waits for somebody's approval\n"))
    text.append("\nPress the key behind the ►. Esc leaves a form, q the console; ? explains this screen.\n")
    return text.append("What the console does, `cloister --help` does too.", "dim")
