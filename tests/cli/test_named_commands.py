"""Every `cloister …` command that an alert, a remedy or a message names is one that the command line has."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from cloister.cli.main import EPILOG, NOUNS
from cloister.cli.root import build

SOURCE = Path(__file__).parents[2] / "src" / "cloister"
ALERTS = ("alarming", "expiring", "gpu_alarms", "witnessing", "forgetting")
_QUOTED = re.compile(r"`(cloister [a-z][^`]*)`")


def named(text: str) -> list[str]:
    """The commands in a text: those in backquotes, and one that the text begins with."""
    plain = _QUOTED.sub("", text)
    first = [re.split(r"[,;]", plain)[0]] if plain.startswith("cloister ") else []
    return [*first, *_QUOTED.findall(text)]


def parse(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the command line parse it, to its last option, and run nothing. Errors: what the parser raises."""
    words = shlex.split(command)[1:]
    monkeypatch.setattr(sys, "argv", ["cloister", *words])  # nouns are loaded when they are named
    found: Any = typer.main.get_command(build(NOUNS, EPILOG))
    parent: Any = None
    while True:
        context = found.make_context("cloister", list(words), parent=parent)
        if not isinstance(found, TyperGroup):
            return
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if not rest and found.invoke_without_command:
            return
        parent = context
        _, found, words = found.resolve_command(context, rest)


def texts(path: Path) -> Iterator[str]:
    """The strings of a module; what is put into them at run time stands as 1."""
    tree = ast.parse(path.read_text())
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "1" for part in node.values)  # type: ignore[misc]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def commands() -> list[tuple[str, str]]:
    """Each, and the module that names it."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for text in texts(path):
            quoted = _QUOTED.findall(text)
            for command in named(text) if path.stem in ALERTS else quoted:
                found[command] = path.stem
    return sorted(found.items())


def test_each_of_them_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = []
    for command, where in commands():
        try:
            parse(command, monkeypatch)
        except Exception as error:
            bare = type(error).__name__ in ("MissingParameter", "NoArgsIsHelpError")
            if bare and where not in ALERTS:
                continue  # named in passing
            wrong.append(f"{where}: {command}: {type(error).__name__} {error}")
    assert not wrong, "\n".join(wrong)
    assert len(commands()) > 50


@pytest.mark.parametrize(
    "command", ["cloister frobnicate", "cloister run wach X", "cloister lock --dry", "cloister run watch"]
)
def test_what_is_no_command_does_not(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match=r".+"):
        parse(command, monkeypatch)
