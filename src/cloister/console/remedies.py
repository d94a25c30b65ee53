"""A remedy that names a command, with the key that does the same here: both are said, for whoever has a shell, too."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.text import Text

from cloister.console.actions import BY_ID, EVERYWHERE, PLACES
from cloister.console.paint import outside

COMMAND = re.compile(r"\bcloister ((?:[a-z]+)(?: [a-z]+)?(?: [a-z]+)?)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")

KEYS = {
    "init": "vault.init",
    "unlock": "vault.unlock",
    "lock": "vault.lock",
    "status": "go.overview",
    "alerts": "go.overview",
    "job list": "go.overview",
    "job resume": "job.resume",
    "doctor": "doctor",
    "base import": "base.import",
    "base list": "go.models",
    "dataset import": "dataset.import",
    "dataset list": "go.data",
    "dataset report": "dataset.measure",
    "dataset derive": "dataset.derive",
    "dataset classify": "dataset.classify",
    "dataset release": "dataset.release",
    "dataset shred": "dataset.shred",
    "run start": "run.start",
    "run list": "go.runs",
    "run show": "go.runs",
    "run watch": "go.runs",
    "run pause": "run.pause",
    "run resume": "run.resume",
    "run retry": "run.retry",
    "evaluate": "evaluation.start",
    "model list": "go.models",
    "approval list": "go.models",
    "approval show": "go.models",
    "approval give": "approval.give",
    "approval refuse": "approval.refuse",
    "approval withdraw": "approval.withdraw",
    "serve list": "go.serving",
    "serve start": "deployment.start",
    "serve stop": "deployment.stop",
    "client list": "go.clients",
    "client issue": "client.issue",
    "client revoke": "client.revoke",
    "audit search": "audit.search",
    "audit carry": "audit.export",
    "policy table": "go.system",
    "vault slot list": "go.system",
    "backup": "backup.make",
    "backup list": "go.system",
}
"""Commands, each with the action of the registry that does it here."""

FIELDS = {
    "--format": "Format",
    "--encoding": "Encoding",
    "--input": "Table: input column",
    "--output": "Table: answer column",
    "--label": "Table: class column",
    "--text": "Mapping file",
    "--messages": "Mapping file",
    "--ignore": "Mapping file",
    "--max-dropped": "Bad rows at most",
    "--devices": "Devices",
    "--recipient": "age recipients",
    "--drain": "Where work runs",
    "--cut": "Where work runs",
}
"""Options, each with the label of the field that it is in the form of the same thing."""


def here(remedy: str, scope: str | None = None) -> str:
    """What in the console does what a remedy asks for on the command line, seen from a screen; empty for nothing."""
    ways = [*dict.fromkeys(_keys(remedy, scope))]
    fields = [*dict.fromkeys(FIELDS[one] for one in OPTION.findall(remedy) if one in FIELDS)]
    if fields:
        ways.append("in the form " + ", ".join(f"'{label}'" for label in fields))
    return f"Here: {'; '.join(ways)}." if ways else ""


def with_keys(remedy: str | None, scope: str | None = None) -> str:
    """The remedy as it was said, then `here`; empty for none."""
    if not remedy:
        return ""
    between = (
        " " if remedy.endswith(".") else "   "
    )  # behind a bare command, no full stop is taken for a part of it
    return f"{remedy}{between}{here(remedy, scope)}".rstrip()


def waits(approval: str) -> str:
    """What goes on with something that waits for the approval of that id."""
    return f"It is approved with 4, then a, or by `cloister approval give {approval}`; then do it again."


def tried(remedy: str | None, lead: str = "try: ") -> Text:
    """A line of it, or nothing."""
    return outside(f"{lead}{with_keys(remedy)}") if remedy else Text("")


def _keys(remedy: str, scope: str | None) -> Iterator[str]:
    for words in COMMAND.findall(remedy):
        parts = words.split()
        known = (" ".join(parts[:count]) for count in range(len(parts), 0, -1))
        name = next((KEYS[one] for one in known if one in KEYS), None)
        if name is not None and name != f"go.{scope}":
            yield _pressed(name, scope)


def _pressed(name: str, scope: str | None) -> str:
    action = BY_ID[name]
    if scope in action.scopes or EVERYWHERE in action.scopes:
        return action.shown_key
    return f"{PLACES.index(action.scopes[0]) + 1}, then {action.shown_key}"
