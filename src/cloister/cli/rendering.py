"""`cloister dataset render`: a row as a run would learn it, what is learnt told apart by marks and by weight."""

from __future__ import annotations

import json as json_module
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cloister.cli.output import JsonFlag, print_json, say
from cloister.cli.receiving import received
from cloister.cli.session import connect
from cloister.cli.validation import validated
from cloister.rendered import facts_of, marked, warnings_of

if TYPE_CHECKING:
    from rich.text import Text


def render(
    reference: Annotated[str, typer.Argument(metavar="NAME", help="The dataset's name or id.")],
    base: Annotated[
        str, typer.Option("--base", "-b", help="The base model whose tokenizer and template render.")
    ],
    row: Annotated[int, typer.Option("--row", min=0, help="Reveal this row, by number from 0.")],
    template: Annotated[
        str, typer.Option(help="auto, model: the base model's own chat template; or llama3, qwen3, chatml.")
    ] = "auto",
    loss_on: Annotated[
        str, typer.Option(help="What is learnt: assistant (every such turn), last (the last one), all.")
    ] = "assistant",
    max_length: Annotated[
        int | None, typer.Option(min=8, help="Tell whether it is longer than so many tokens.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Show a row as a run would learn it: every token of the template, and between ⟦ ⟧ what is learnt.

    It takes the same permission as seeing the row, and is entered like that, before a sandbox opens it. What is
    learnt is also bold and green on a terminal that shows it.
    """
    from cloister.api import RenderConfig, RenderRequest

    config = validated(RenderConfig, row=row, template=template, loss_on=loss_on, max_length=max_length)
    request = validated(RenderRequest, base=base, config=config)
    with connect() as client:
        content, _ = received(lambda output: client.render_row(reference, request, output))
    found = json_module.loads(content)
    if json:
        print_json(found)
        return
    print(facts_of(found))
    _print_marked(marked(found["spans"]))
    for warning in warnings_of(found):
        say(f"! {warning}")


def _print_marked(text: Text) -> None:
    """As it is, not wrapped. Without colour (NO_COLOR, or no terminal) the marks alone tell."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console(highlight=False, emoji=False).print(text, soft_wrap=True)
    else:
        print(text.plain)
