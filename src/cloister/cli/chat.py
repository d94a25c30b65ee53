"""`cloister serve chat`: a conversation with one deployment, or the same lines to two, through the gateway."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloister.cli.leaving import leaving
from cloister.cli.output import JsonFlag, print_json, say, visible
from cloister.cli.session import connect

if TYPE_CHECKING:
    from cloister.chat import Answer, Message

_SYSTEM_MOST = 1 << 16


def chat(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME [OTHER]", help="The deployment; with another, both are asked."),
    ],
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="The longest answer; as far as the context goes unless given.")
    ] = None,
    system_file: Annotated[
        Path | None, typer.Option(help="A file with a system message for the conversation.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Chat with what is served: a line from standard input is a turn, until it ends (ctrl-d).

    Each turn is on the gateway's ledger, under a key of this chat's own that is revoked at its end. Nothing of it is
    kept here.
    """
    from cloister.chat import Message, open_chat
    from cloister.errors import InvalidInput

    if len(names) > 2 or len(set(names)) < len(names):
        raise InvalidInput("one deployment or two of them", remedy="See `cloister serve list`.")
    begun = [Message("system", _read(system_file))] if system_file is not None else []
    told: dict[str, list[Message]] = {name: list(begun) for name in names}
    with (
        leaving("the chat has ended, and its key.", "Open it again."),
        connect() as client,
        open_chat(client, names) as opened,
    ):
        asking = sys.stdin.isatty() and not json
        while (line := _line(asking)) is not None:
            if not line.strip():
                continue
            for name in names:
                told[name].append(Message("user", line))
                if not json and len(names) > 1:
                    print(f"── {visible(name)}")
                answer = opened.ask(name, told[name], _nothing if json else _print, max_tokens=max_tokens)
                told[name].append(Message("assistant", answer.text))
                _tell(name, answer, json=json)


def _line(asking: bool) -> str | None:
    """The next line, None at the end."""
    if asking:
        print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


def _read(path: Path) -> str:
    from cloister.errors import InvalidInput

    try:
        with path.open("rb") as file:
            data = file.read(_SYSTEM_MOST + 1)
        if len(data) > _SYSTEM_MOST:
            raise InvalidInput(f"is longer than {_SYSTEM_MOST >> 10} KiB", where=str(path))
        return data.decode().strip()
    except (OSError, UnicodeDecodeError):
        raise InvalidInput("cannot be read as text", where=str(path)) from None


def _print(piece: str) -> None:
    print(visible(piece, lines=True), end="", flush=True)


def _nothing(piece: str) -> None:
    pass


def _tell(name: str, answer: Answer, *, json: bool) -> None:
    if json:
        print_json(
            {
                "deployment": name,
                "answer": answer.text,
                "tokens": answer.tokens,
                "first_s": round(answer.first_s, 3),
                "seconds": round(answer.seconds, 3),
                "finish": answer.finish,
                "request_id": answer.request_id,
            }
        )
        return
    print()
    cut = ", cut at its longest" if answer.finish == "length" else ""
    say(f"({answer.tokens} tokens, {answer.seconds:.1f} s{cut}; {visible(answer.request_id or '-')})")
