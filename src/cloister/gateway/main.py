"""The gateway's process: its arguments, its hygiene, what it opens, and in which order it lets go.

Knows where things lie in a home and nothing of requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import json
import os
import socket
import ssl
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister import modes
from cloister.errors import CloisterError, InvalidInput, LedgerUnavailable, Unavailable
from cloister.gateway.app import Gateway, where
from cloister.gateway.authority import Authority
from cloister.gateway.directory import Directory
from cloister.gateway.engine_pool import EnginePool
from cloister.gateway.journal import Journal
from cloister.gateway.keeping import Keeper
from cloister.gateway.limits import Limits
from cloister.gateway.server import bind_tcp, make_server, tls_context
from cloister.home import Home
from cloister.ledger import Ledger
from cloister.logs import configure_logs, place
from cloister.policy import load_settings
from cloister.policy.settings import GatewaySettings
from cloister.sandbox.harden import harden_process

log = structlog.get_logger()

_FLUSH_EVERY_S = 10.0
_SWITCH_S = 0.0002  # the ledger's writer must not wait 5 ms for its turn when a batch is on the disk
_IDENTITY_WAIT_S = 30.0
_ANY_PORT = GatewaySettings(listen="127.0.0.1:0")


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the gateway listens: exactly one of `unix` and `host`."""

    host: str
    port: int
    unix: Path | None
    tls_cert: str | None
    tls_key: str | None
    client_ca: str | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM. Returns the exit status."""
    harden_process()
    sys.setswitchinterval(_SWITCH_S)
    os.umask(0o077)  # until the home is known
    configure_logs()
    arguments = _parser().parse_args(argv)
    try:
        settings = load_settings(arguments.settings).gateway if arguments.settings else _ANY_PORT
        listening = _listening(_filled(arguments, settings))
        limits = Limits(
            body_bytes=arguments.max_body,
            requests=arguments.max_requests,
            max_tokens=arguments.max_tokens,
            head_s=arguments.slow_client,
            body_s=3 * arguments.slow_client,
            stale_s=arguments.stale_after,
            drain_s=arguments.drain,
        )
        home = Home(arguments.home.absolute() if arguments.home else Home.default().root)
        modes.set_umask(home.gateway_ledger)
        uvloop.run(_run(home, listening, limits, arguments.origin))
    except CloisterError as fault:
        print(f"cloister-gateway: {fault}", file=sys.stderr)
        return fault.exit_code
    except OSError as fault:
        print(f"cloister-gateway: {fault.strerror}: {fault.filename}", file=sys.stderr)
        return 1
    except Exception as fault:  # its own words may quote what it failed on
        print(f"cloister-gateway: {place(fault)}", file=sys.stderr)
        return 1
    return 0


async def _run(home: Home, listening: Listening, limits: Limits, origin: str | None) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_loop_fault)
    origin = origin or await _origin(home)
    bound, tls, url = _bind(listening)
    home.gateway_ledger.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    ledger = Ledger.open(home.gateway_ledger, origin=origin, signer=None)
    try:
        directory = Directory(monotonic=time.monotonic, now=time.time)
        journal = Journal(ledger, monotonic=time.monotonic, policy=lambda: directory.policy)
        engines = EnginePool(loop, connect_s=limits.connect_s, answer_s=limits.engine_s)
        keeper = Keeper(home.bodies, origin)
        gateway = Gateway(directory, journal, engines, limits, keeper)
        server = make_server(gateway, limits, on_malformed=journal.count_refused, tls=tls)
        locked = asyncio.Event()
        authority = Authority(
            home.authority_socket,
            directory,
            hello={"pid": os.getpid(), "url": url},
            on_view=lambda: engines.forget(directory.sockets()),
            on_locked=locked.set,
        )
        with contextlib.suppress(LedgerUnavailable):
            await journal.process("gateway.start", {"pid": os.getpid()})
        bound.listen(1024)
        _announce(home.gateway_file, url)
        log.info("gateway.listening", url=url)
        tasks = [
            asyncio.create_task(authority.follow()),
            asyncio.create_task(_unlock(authority, gateway, ledger, locked)),
            asyncio.create_task(_flush_counts(journal, ledger)),
        ]
        for task in tasks:
            task.add_done_callback(lambda ended: server.stop() if _fault_of(ended) else None)
        try:
            await server.serve([bound])
            await _last_tasks(server.server_state.tasks)
        finally:
            _retract(home.gateway_file)
            faults = [fault for task in tasks if (fault := _fault_of(task))]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            engines.close()
            await authority.close()
            await asyncio.to_thread(keeper.close)
        with contextlib.suppress(LedgerUnavailable):
            await journal.flush()
            await journal.process("gateway.stop", {"pid": os.getpid()})
    finally:
        ledger.close()
        if listening.unix is not None:
            listening.unix.unlink(missing_ok=True)
    log.info("gateway.stopped")
    if faults:
        raise faults[0]


async def _unlock(authority: Authority, gateway: Gateway, ledger: Ledger, locked: asyncio.Event) -> None:
    """Hold the secrets while the vault is open, and forget them when it has been locked."""
    while True:
        locked.clear()
        secrets = await authority.secrets()
        signer = Ed25519PrivateKey.from_private_bytes(secrets.ledger_seed)
        await asyncio.to_thread(ledger.attach_signer, signer)
        gateway.unlock(secrets)
        log.info("gateway.unlocked")
        del secrets, signer
        await locked.wait()
        gateway.lock()
        ledger.detach_signer()
        log.info("gateway.locked")


async def _flush_counts(journal: Journal, ledger: Ledger) -> None:
    """Write what was only counted, and take a failed ledger up again when the cause is gone."""
    failing = False
    while True:
        await asyncio.sleep(_FLUSH_EVERY_S)
        try:
            if ledger.failure is not None:
                await asyncio.to_thread(ledger.recover)
            await journal.flush()
        except LedgerUnavailable:
            if not failing:
                log.error("ledger.failed")
            failing = True
            continue
        if failing:
            log.info("ledger.recovered")
        failing = False


def _fault_of(task: asyncio.Task[None]) -> BaseException | None:
    """What ended a task that should never end."""
    return task.exception() if task.done() and not task.cancelled() else None


async def _last_tasks(tasks: set[asyncio.Task[None]]) -> None:
    """Requests that were cancelled at the end of the drain still write their completion."""
    if tasks:
        await asyncio.wait(set(tasks), timeout=5.0)


async def _origin(home: Home) -> str:
    """The ledger's origin line, from the home's identity that the authority makes at its first start."""
    patience = time.monotonic() + _IDENTITY_WAIT_S
    while True:
        try:
            return f"cloister/{json.loads(home.identity_file.read_text())['id']}/gateway"
        except (FileNotFoundError, json.JSONDecodeError, KeyError):
            if time.monotonic() > patience:
                raise Unavailable(
                    "this home has no identity yet",
                    where=str(home.identity_file),
                    remedy="Start the authority first, or give --origin.",
                ) from None
        await asyncio.sleep(0.1)


def _bind(listening: Listening) -> tuple[socket.socket, ssl.SSLContext | None, str]:
    """The socket, its TLS and the URL for clients. Raises InvalidInput, Unavailable."""
    if listening.unix is not None:
        path = listening.unix
        path.unlink(missing_ok=True)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bound.bind(str(path))
        return bound, None, f"unix:{path}"
    tls = None
    if listening.tls_cert and listening.tls_key:
        try:
            tls = tls_context(listening.tls_cert, listening.tls_key, listening.client_ca)
        except (OSError, ssl.SSLError) as fault:
            raise InvalidInput(
                f"the certificate, its key or the client CA cannot be used ({type(fault).__name__})",
                where=listening.tls_cert,
                remedy="Give PEM files that belong together and that this account may read.",
            ) from None
    try:
        bound = bind_tcp(listening.host, listening.port)
    except OSError as fault:
        raise Unavailable(
            f"cannot listen here: {fault.strerror}",
            where=f"{listening.host}:{listening.port}",
            remedy="Choose another --listen address.",
        ) from None
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return bound, tls, f"{'https' if tls else 'http'}://{shown}:{port}"


def _announce(path: Path, url: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"url": url, "pid": os.getpid()}) + "\n")
    part.replace(path)


def _retract(path: Path) -> None:
    with contextlib.suppress(OSError, ValueError, KeyError):
        if json.loads(path.read_text())["pid"] == os.getpid():
            path.unlink()


def _filled(arguments: argparse.Namespace, settings: GatewaySettings) -> argparse.Namespace:
    """The arguments, with the settings' values where nothing was given."""
    given = {name: getattr(arguments, name) for name in ("listen", "tls_cert", "tls_key", "client_ca")}
    filled = {name: value or getattr(settings, name) for name, value in given.items()}
    return argparse.Namespace(**{**vars(arguments), **filled})


def _listening(arguments: argparse.Namespace) -> Listening:
    host, _, port = arguments.listen.rpartition(":")
    host = {"localhost": "127.0.0.1"}.get(host, host.strip("[]"))
    try:
        address = ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        raise InvalidInput(
            "the address is not of the form IP:PORT",
            where="--listen",
            remedy="Give for example 127.0.0.1:8000.",
        ) from None
    if bool(arguments.tls_cert) != bool(arguments.tls_key):
        raise InvalidInput("a certificate and its key belong together", where="--tls-cert, --tls-key")
    if arguments.client_ca and not arguments.tls_cert:
        raise InvalidInput("client certificates need TLS", where="--client-ca", remedy="Give --tls-cert too.")
    if not address.is_loopback and not arguments.tls_cert and arguments.unix is None:
        raise InvalidInput(
            "without a certificate the gateway listens on loopback only",
            where=arguments.listen,
            remedy="Give --tls-cert and --tls-key, or listen on 127.0.0.1.",
        )
    return Listening(host, number, arguments.unix, arguments.tls_cert, arguments.tls_key, arguments.client_ca)


def _parser() -> argparse.ArgumentParser:
    bounds = Limits()
    parser = argparse.ArgumentParser(prog="cloister-gateway", description="Serve the models to clients.")
    parser.add_argument("--home", type=Path, help="the appliance's folder (default: $CLOISTER_HOME)")
    parser.add_argument(
        "--settings",
        type=Path,
        help="the appliance's settings: address and certificates where no option says",
    )
    parser.add_argument("--listen", help="IP:PORT; port 0, the default without settings, takes a free one")
    parser.add_argument("--unix", type=Path, help="listen on this Unix socket instead")
    parser.add_argument("--tls-cert", help="certificate chain, PEM")
    parser.add_argument("--tls-key", help="its private key, PEM")
    parser.add_argument("--client-ca", help="require client certificates of this authority, PEM")
    parser.add_argument("--origin", help="the ledger's origin line (default: from the home's identity)")
    parser.add_argument("--stale-after", type=float, default=bounds.stale_s, metavar="SECONDS")
    parser.add_argument("--slow-client", type=float, default=bounds.head_s, metavar="SECONDS")
    parser.add_argument("--drain", type=float, default=bounds.drain_s, metavar="SECONDS")
    parser.add_argument("--max-tokens", type=int, default=bounds.max_tokens)
    parser.add_argument("--max-body", type=int, default=bounds.body_bytes, metavar="BYTES")
    parser.add_argument("--max-requests", type=int, default=bounds.requests)
    return parser


def _log_loop_fault(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    fault = context.get("exception")
    if isinstance(fault, BaseException):
        log.error("loop.fault", cause=where(fault))
