"""A rendered row on a screen: what is learnt is told by marks that its own text cannot write."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cloister.cli.dataset import app
from cloister.errors import InvalidInput
from cloister.rendered import marked

SPANS = [
    {"text": "<|user|>Hello ⟦you⟧\x1b[2J\n", "supervised": False},
    {"text": "Good\nday<|end|>", "supervised": True},
    {"text": "\n", "supervised": False},
]


def test_what_is_learnt_stands_between_marks_that_no_row_can_write() -> None:
    assert marked(SPANS).plain == "<|user|>Hello \\u27e6you\\u27e7\\x1b[2J\n⟦Good\nday<|end|>⟧\n"


def test_on_a_terminal_it_is_bold_as_well_and_without_colour_the_marks_remain() -> None:
    for no_color in (False, True):
        out = io.StringIO()
        Console(file=out, force_terminal=True, no_color=no_color, width=8, color_system="standard").print(
            marked(SPANS), soft_wrap=True
        )
        shown = out.getvalue()
        assert ("\x1b[1;32m⟦Good" in shown) is not no_color
        assert "⟦Good" in shown and "day<|end|>" in shown


@pytest.mark.parametrize("option", [("--template", "chatml"), ("--loss-on", "last"), ("--max-tokens", "64")])
def test_a_report_by_tokens_says_that_it_needs_a_base_model(option: tuple[str, str]) -> None:
    with pytest.raises(InvalidInput, match="tokens need a tokenizer") as caught:
        CliRunner().invoke(app, ["report", "claims", *option], catch_exceptions=False)
    assert caught.value.remedy == "Name a base model with --base."
