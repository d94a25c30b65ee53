"""`cloisterd`: start the authority over a home and serve its socket until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from cloister import modes
from cloister.appliance.authority import Authority, socket_mode
from cloister.appliance.connections import bounded_protocol
from cloister.appliance.http import create_app
from cloister.appliance.metrics_port import metrics_app, metrics_listener
from cloister.errors import CloisterError, Conflict
from cloister.home import Home
from cloister.logs import configure_logs, place
from cloister.policy import load_settings
from cloister.sandbox import harden_process

GRACEFUL_S = 2


def take_home(home: Home) -> int:
    """Hold the home for this process. Errors: Conflict where another authority has it."""
    lock = os.open(home.run / "authority.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Conflict("an authority runs over this home already", where=str(home.root)) from None
    return lock


def listen(path: Path, mode: int) -> socket.socket:
    """Bind the socket ourselves: uvicorn would open it to everybody."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(mode)
    listener.listen(128)
    return listener


class Server(uvicorn.Server):
    """Ends on a signal and returns: uvicorn's own would raise the signal again, and nothing could be closed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(app: ASGIApp, protocol: Any = "auto") -> Server:
    return Server(
        uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACEFUL_S,
        )
    )


async def serve(home: Home) -> None:
    settings = load_settings(home.settings_file)
    authority = Authority(home, settings)
    home.set_door(open_to_others=bool(settings.access.roles))
    server = _server(create_app(authority), bounded_protocol(settings.api.connections))
    scraped = settings.api.metrics
    figures = (_server(metrics_app(authority)), metrics_listener(scraped)) if scraped else None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
    await authority.start()
    try:
        async with asyncio.TaskGroup() as group:
            if figures is not None:
                group.create_task(figures[0].serve(sockets=[figures[1]]))
            await server.serve(sockets=[listen(home.authority_socket, socket_mode(settings))])
            if figures is not None:
                figures[0].should_exit = True
    finally:
        await authority.stop()
        home.authority_socket.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="cloisterd", description="The authority of a Cloister appliance.")
    parser.add_argument("--home", type=Path, help="the appliance's home (default: $CLOISTER_HOME)")
    arguments = parser.parse_args()
    harden_process()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # sources of queued imports lie open here
    configure_logs()
    home = Home(arguments.home.absolute()) if arguments.home else Home.default()
    modes.set_umask(home.objects)
    try:
        home.make()
        lock = take_home(home)
        try:
            asyncio.run(serve(home))
        finally:
            os.close(lock)
    except CloisterError as error:
        print(f"cloisterd: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"cloisterd: {error.strerror}: {error.filename}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:  # its own words may quote what it failed on
        print(f"cloisterd: {place(error)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
