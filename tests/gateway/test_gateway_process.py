"""The process: where it listens, what it leaves, how it ends."""

from __future__ import annotations

import contextlib
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from gateway_stand_ins import GatewayProcess, Site, wait_for

pytestmark = pytest.mark.slow  # each starts gateways of its own

ASK = {"model": "claims", "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"])
def test_without_a_certificate_only_loopback(bare_site: Site, address: str) -> None:
    gateway = bare_site.gateway
    gateway.start("--listen", address, wait=False)
    assert gateway.process.wait(60) == 2
    assert "--tls-cert" in gateway.errors.read_text()
    assert gateway.announced() is None


def test_arguments_that_do_not_fit_are_told(bare_site: Site) -> None:
    gateway = bare_site.gateway
    for arguments in (
        ["--listen", "nonsense"],
        ["--tls-cert", "x"],
        ["--tls-cert", "/no", "--tls-key", "/no"],
    ):
        gateway.start(*arguments, wait=False)
        assert gateway.process.wait(60) == 2
    assert "Traceback" not in gateway.errors.read_text()


def test_what_it_leaves_is_private(site: Site) -> None:
    site.openai().chat.completions.create(**ASK)
    made = [
        site.gateway.home / "run" / "gateway" / "gateway.json",
        *(site.gateway.home / "ledger").rglob("*"),
    ]
    assert len(made) > 3
    for path in made:
        with contextlib.suppress(FileNotFoundError):  # a temporary name that was there a moment ago
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    limits = Path(f"/proc/{site.gateway.process.pid}/limits").read_text()
    assert [line.split()[4:6] for line in limits.splitlines() if "core file" in line] == [["0", "0"]]
    command = Path(f"/proc/{site.gateway.process.pid}/cmdline").read_text()
    environment = Path(f"/proc/{site.gateway.process.pid}/environ").read_text()
    for secret in (site.authority.pepper, site.authority.cache_key, site.authority.ledger_seed):
        assert secret.hex() not in command + environment


def test_sigterm_lets_requests_end(own_site: Site) -> None:
    site = own_site
    site.engine.go_on.clear()
    stream = iter(site.openai().chat.completions.create(**ASK, stream=True))
    next(stream)
    stopper = threading.Thread(target=site.gateway.stop)
    address = site.gateway.address
    stopper.start()
    wait_for(lambda: not _accepts(address))
    site.engine.go_on.set()
    assert [c.choices[0].finish_reason for c in stream][-1] == "stop"
    stopper.join(90)
    assert site.gateway.process.returncode == 0
    assert site.gateway.announced() is None
    assert [e["action"] for e in site.gateway.entries()][-2:] == ["inference.completion", "gateway.stop"]


def test_what_does_not_end_in_time_is_cut_and_recorded(bare_site: Site) -> None:
    site = bare_site
    site.start("--drain", "1")
    site.engine.go_on.clear()
    stream = iter(site.openai().chat.completions.create(**ASK, stream=True))
    next(stream)
    assert site.gateway.stop() == 0
    with pytest.raises(Exception, match=r"shutting down|incomplete|peer closed"):
        list(stream)
    completion = site.gateway.actions("inference.completion")[-1]
    assert completion["reason"] == "shutdown"


def test_one_gateway_a_home(site: Site) -> None:
    second = GatewayProcess(site.gateway.home)
    second.start(wait=False)
    assert second.process.wait(60) == 4
    assert site.gateway.announced()["pid"] == site.gateway.process.pid
    assert site.openai().chat.completions.create(**ASK).choices


def test_a_unix_socket_for_tests(bare_site: Site) -> None:
    path = bare_site.gateway.home / "run" / "g.sock"
    bare_site.gateway.start("--unix", str(path))
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
        wait_for(lambda: client.get("http://gateway/healthz").status_code == 200)
    bare_site.gateway.stop(signal.SIGTERM)
    assert not path.exists()


def test_help_needs_nothing() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "cloister.gateway", "--help"], capture_output=True, text=True
    )
    assert ended.returncode == 0 and "--home" in ended.stdout


def _accepts(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True
