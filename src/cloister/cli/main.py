"""`cloister`: the command line's entry. It maps errors to exit codes, and knows no noun itself."""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from cloister.errors import CloisterError

EPILOG = (
    "Exit codes: 0 done, 1 error, 2 bad input, 3 not found, 4 conflict, 5 locked, 6 not allowed, 7 tampered, "
    "8 ledger refuses, 9 not running, 10 out of space, 11 job failed, 12 interrupted."
)

NOUNS = {
    "dataset": "Datasets: bring rows in, sealed, and see what is there.",
    "base": "Base models: bring in a local folder of safetensors.",
    "run": "Fine-tuning runs: start, watch, leave, resume, compare with the base.",
    "model": "Merged models: merge a run's adapter into 16 bits.",
    "serve": "Deployments: serve a merged model through vLLM.",
    "client": "Client applications and their API keys.",
    "backup": "Backups: make one into a folder, list them; `cloister restore` brings one back.",
    "audit": "The ledger: read, verify, export.",
}


class LazyGroup(TyperGroup):
    """Loads a noun's module only when that noun is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *NOUNS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in NOUNS:
            return super().get_command(ctx, cmd_name)
        # While the help of all is drawn, a line for each is enough.
        completing = any(name.endswith("_COMPLETE") for name in os.environ)
        if cmd_name not in sys.argv[1:] and not completing:
            return TyperGroup(name=cmd_name, help=NOUNS[cmd_name])
        module = importlib.import_module(f"cloister.cli.{cmd_name}")
        group = typer.main.get_group(module.app)
        group.name, group.help = cmd_name, NOUNS[cmd_name]
        return group


def build() -> typer.Typer:
    """The whole command line."""
    from cloister.cli import appliance, backup

    app = typer.Typer(
        cls=LazyGroup,
        no_args_is_help=True,
        help="Fine-tune and serve language models on data that may never leave the building.",
        epilog=EPILOG,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    appliance.add_commands(app)
    backup.add_commands(app)
    return app


def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and end.", is_eager=True),
) -> None:
    if version:
        from cloister import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line. Every error of ours ends in one message and its exit code."""
    try:
        build()(prog_name="cloister")
    except CloisterError as error:
        _report(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("cloister: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        _report(CloisterError(f"the system refuses: {error.strerror}", where=str(error.filename or "")))
        sys.exit(CloisterError.exit_code)


def _report(error: CloisterError) -> None:
    from cloister.cli.output import visible

    if "--json" in sys.argv:
        document = {
            "code": error.code,
            "detail": error.message,
            "where": error.where,
            "remedy": error.remedy,
            "values": error.values,
        }
        print(json.dumps({"ok": False, "error": document}))
        return
    place = f"{error.where}: " if error.where else ""
    print(f"error: {visible(place + error.message)}", file=sys.stderr)
    if error.remedy:
        print(f"  try: {visible(error.remedy)}", file=sys.stderr)


if __name__ == "__main__":
    main()
