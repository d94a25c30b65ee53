"""The command line as a whole: the root's commands, and a group a noun that is loaded when it is used."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

from cloister.cli.leaving import leaving


class LazyGroup(TyperGroup):
    """Loads a noun's module only when that noun is used. Ctrl-C ends in `Left`: Typer's own end is mute."""

    nouns: ClassVar[Mapping[str, str]] = {}
    """Each with its line of help; its commands are `cloister.cli.<noun>`."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with leaving():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        with leaving():
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *self.nouns]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.nouns:
            return _unwrapped(super().get_command(ctx, cmd_name))
        # While the help of all is drawn, a line for each is enough.
        completing = any(name.endswith("_COMPLETE") for name in os.environ)
        if cmd_name not in sys.argv[1:] and not completing:
            return TyperGroup(name=cmd_name, help=self.nouns[cmd_name])
        module = importlib.import_module(f"cloister.cli.{cmd_name}")
        group = typer.main.get_group(module.app)
        group.name, group.help = cmd_name, self.nouns[cmd_name]
        return _unwrapped(group)


def _unwrapped(command: Any) -> Any:
    """Its help, and that of all below it, with a paragraph on one line, which the terminal's width then breaks: Typer
    keeps the breaks of the docstring. What is indented stays as it is."""
    if command is not None and command.help:
        paragraphs = command.help.split("\n\n")
        command.help = "\n\n".join(p if p.startswith(" ") else " ".join(p.split("\n")) for p in paragraphs)
    for below in getattr(command, "commands", {}).values():
        _unwrapped(below)
    return command


def build(nouns: Mapping[str, str], epilog: str) -> typer.Typer:
    """The whole command line over these nouns."""
    from cloister.cli import appliance, backup, console, plan, since, witness

    class Root(LazyGroup):
        pass

    Root.nouns = nouns
    app = typer.Typer(
        cls=Root,
        no_args_is_help=True,
        help="Fine-tune and serve language models on data that may never leave the building.",
        epilog=epilog,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    appliance.add_commands(app)
    witness.add_commands(app)
    backup.add_commands(app)
    since.add_commands(app)
    plan.add_commands(app)
    console.add_commands(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from cloister import __version__

        typer.echo(__version__)
        raise typer.Exit


def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version and end.", is_eager=True, callback=_print_version
    ),
) -> None:
    """Options of the whole command line."""
