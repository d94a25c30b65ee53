"""`cloister-launcher --home HOME`: the launcher as a process, with a keeper beside it.

Ends its sandboxes when it ends, whichever way that comes. What it does is in `server`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import pwd
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cloister import modes
from cloister.errors import CloisterError, InvalidInput
from cloister.home import Home
from cloister.launcher.keeper import KEEPER_DIED, keep
from cloister.launcher.server import Launcher, LauncherConfig
from cloister.logs import place
from cloister.policy import Settings, load_settings
from cloister.sandbox import available, harden_process
from cloister.streams import write_whole

_GRACE_S = 5.0
"""How long running work may take to keep a checkpoint when the launcher is asked to end."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; exit status as in `cloister.errors`."""
    write_whole()
    try:
        config = _config(_arguments(argv))
    except CloisterError as error:
        print(f"cloister-launcher: {error}", file=sys.stderr)
        return error.exit_code
    harden_process()
    return keep(lambda: _launch(config))


def _config(arguments: argparse.Namespace) -> LauncherConfig:
    home = arguments.home.absolute()
    settings = load_settings(arguments.settings) if arguments.settings else Settings()
    return LauncherConfig(
        home=home,
        socket=arguments.socket or Home(home).launcher_socket,
        accounts=frozenset(map(_uid, arguments.allow)),
        sandboxed=(arguments.sandbox or settings.sandbox) != "none",
        program=tuple(arguments.program) or None,
    )


def _launch(config: LauncherConfig) -> int:
    modes.set_umask(config.home / "work")  # its sandboxes inherit it
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        if config.sandboxed:  # the authority cannot try it: its own unit denies it namespaces
            config = replace(config, no_sandbox=available(swap=False))
        asyncio.run(_run(Launcher(config)))
    except CloisterError as error:
        print(f"cloister-launcher: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"cloister-launcher: {error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    except Exception as error:  # its own words may quote what it failed on
        print(f"cloister-launcher: {place(error)}", file=sys.stderr)
        return 1
    return 0


async def _run(launcher: Launcher) -> None:
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    grace_s = _GRACE_S

    def end_at_once() -> None:
        nonlocal grace_s
        grace_s = 0.0
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    loop.add_signal_handler(KEEPER_DIED, end_at_once)
    serving = asyncio.ensure_future(launcher.serve())
    waiting = asyncio.ensure_future(ending.wait())
    try:
        await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
    finally:
        for task in (serving, waiting):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, CloisterError):
                await task
        await launcher.close(grace_s)


def _uid(account: str) -> int:
    try:
        return int(account) if account.isdigit() else pwd.getpwnam(account).pw_uid
    except KeyError:
        raise InvalidInput("there is no such account", where=f"--allow {account[:64]}") from None


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cloister-launcher", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the appliance's home; mounts lie in it")
    parser.add_argument("--socket", type=Path, help="default: HOME/run/launcher/launcher.sock")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        help="an account that may call, beside its own: name or number",
    )
    parser.add_argument(
        "--settings", type=Path, help="the appliance's settings: whether they ask for sandboxes"
    )
    parser.add_argument(
        "--sandbox",
        choices=("bwrap", "none"),
        help="instead of what the settings say (default: bwrap); none runs programs without a sandbox",
    )
    parser.add_argument("--program", nargs=argparse.REMAINDER, default=[], help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
