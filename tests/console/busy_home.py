"""A home with much in it: a real authority and launcher, and a small program in place of the worker that says what it
is told to, as often as it is told to.

Objects, runs and entries are put where the authority keeps them while it is stopped: a thousand take a second.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cloister import embedded
from cloister.api import ObjectKind, RunRequest, ServeConfig
from cloister.appliance.authority import appliance_id
from cloister.appliance.ids import new_id
from cloister.appliance.state import ClassificationRow, DeploymentRow, ObjectRow, open_state
from cloister.appliance.store import utc_now
from cloister.client import Client
from cloister.home import Home
from cloister.ledger import Entry, Ledger
from cloister.vault import Vault

PASSPHRASE = "correct horse battery staple"
PROGRAM = """
import json, sys, time
from pathlib import Path
job = json.load(sys.stdin)
told = Path(__file__).parent / "told"
begun, step, due = time.monotonic(), 0, time.monotonic()
while True:
    lines, numbers = (float(one) for one in told.read_text().split())
    if not lines and not numbers:
        time.sleep(0.05)
        due = time.monotonic()
        continue
    step += 1
    said = {"event": "notice", "level": "info", "message": f"line {step} of the log, with some words in it"}
    if numbers:
        values = {"loss": 3 / step, "learning_rate": 1e-3, "tokens_per_s": 1e3 + step % 7}
        said = {"event": "metrics", "step": step, "values": values}
    print(json.dumps(said), flush=True)
    if numbers:
        progress = {"event": "progress", "stage": "train", "done": step, "total": 100000, "remaining_s": 4000.0 - step}
        print(json.dumps(progress), flush=True)
    due += 1 / (numbers or lines)
    time.sleep(max(0.0, due - time.monotonic()))
"""


class BusyHome:
    """Started and unlocked; `say` tells the workers how much to say. `job` is the training of the last run that was
    started."""

    job: str

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.home.make()
        self.home.settings_file.write_text(
            "sandbox: none\nunencrypted_swap: allow\napi: {requests_per_s: 10000, burst: 100000}\n"
        )
        (root / "program.py").write_text(PROGRAM)
        self.say()
        command = [sys.executable, "-m", "cloister.launcher", "--home", str(root), "--sandbox", "none"]
        self.launcher = subprocess.Popen(
            [*command, "--program", sys.executable, str(root / "program.py")], stderr=subprocess.DEVNULL
        )
        while not embedded.listener_pid(self.home.launcher_socket):
            assert self.launcher.poll() is None
            time.sleep(0.01)
        try:
            embedded.start(self.home, gateway=False)
            self.client = Client(self.home.authority_socket)
            self.client.initialise(PASSPHRASE)
        except BaseException:
            embedded.stop(self.home)  # the launcher with it: nothing is left behind
            raise

    def say(self, *, lines: float = 0, numbers: float = 0) -> None:
        """So many lines of the log, or else numbers of a step, a second."""
        fresh = self.home.root / "told.new"
        fresh.write_text(f"{lines} {numbers}")
        fresh.rename(self.home.root / "told")

    @property
    def pid(self) -> int:
        pid = embedded.listener_pid(self.home.authority_socket)
        assert pid is not None
        return pid

    def pause(self) -> int:
        """The authority hangs; `SIGCONT` to the number lets it go on."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        return pid

    def end_authority(self) -> None:
        """As a crash would."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        embedded.await_end(pid)

    def start_authority(self, *, unlock: bool = True) -> None:
        embedded.start(self.home, gateway=False)
        if unlock:
            self.client.unlock(PASSPHRASE)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The authority is away meanwhile."""
        self.end_authority()
        yield
        self.start_authority()

    def furnish(self, datasets: int = 2, models: int = 2, entries: int = 0) -> None:
        """A base, datasets, merged models and deployments that ended, of which only the state knows; keys for the
        base and the first dataset; and so many entries of the ledger."""
        with self.stopped():
            vault = Vault.open(self.home.keys)
            vault.unlock(PASSPHRASE.encode())
            engine, sessions = open_state(self.home.state)
            with sessions.begin() as session:
                for number in range(datasets):
                    one = stored(ObjectKind.DATASET, f"claims-{number:04}", {"rows": 1500 + number})
                    session.add(one)
                    session.add(
                        ClassificationRow(
                            object_id=one.object_id, classification="internal", set_at=utc_now(), set_by="x"
                        )
                    )
                    if not number:
                        self._keep(vault, one)
                base = stored(ObjectKind.BASE, "small", {})
                session.add(base)
                self._keep(vault, base)
                for number in range(models):
                    model = stored(ObjectKind.MODEL, f"merged-{number}", {})
                    session.add(model)
                    session.add(
                        DeploymentRow(
                            deployment_id=new_id("deployment"),
                            name=f"desk-{number}",
                            model=model.object_id,
                            state="stopped",
                            config=ServeConfig().model_dump(),
                            created_at=utc_now(),
                            created_by="x",
                        )
                    )
            engine.dispose()
            vault.close()
            self._enter(entries)

    def _keep(self, vault: Vault, one: ObjectRow) -> None:
        vault.new_data_key(one.object_id)
        (self.home.objects / one.kind / one.object_id / "v1").mkdir(parents=True)

    def _enter(self, entries: int) -> None:
        """So many entries of requests that people made, the newest of an hour ago."""
        if entries:
            origin = f"cloister/{appliance_id(self.home.identity_file)}/control"
            begin = datetime.now(UTC) - timedelta(hours=1, seconds=entries)
            with Ledger.open(self.home.control_ledger, origin=origin, signer=None) as ledger:
                waiting = None
                for number in range(entries):
                    waiting = ledger.submit(
                        Entry(
                            time=(begin + timedelta(seconds=number)).isoformat(timespec="milliseconds"),
                            actor="alice" if number % 50_021 == 7 else f"user-{number % 40}",
                            identified_by="SO_PEERCRED uid=1000",
                            action=("dataset.list", "run.list", "job.list")[number % 3],
                            objects=(f"ds-{number % 1000:012d}",),
                            decision="allow",
                        )
                    )
                    if number % 5_000 == 4_999:
                        waiting.result()
                if waiting is not None:
                    waiting.result()

    def ask_run(self, name: str) -> str:
        """A run that starts in its turn; its training job."""
        asked = RunRequest(name=name, dataset="claims-0000", base="small", evaluate=None)
        return self.client.start_run(asked).train_job.job_id

    def start_run(self, name: str = "live") -> str:
        """A run whose worker says what it is told to; its training job."""
        job = self.ask_run(name)
        end = time.monotonic() + 120
        while self.client.job(job).state != "running":
            assert time.monotonic() < end
            time.sleep(0.05)
        self.job = job
        return job

    def close(self) -> None:
        with suppress(ProcessLookupError, AssertionError):
            os.kill(self.pid, signal.SIGCONT)
        self.client.close()
        embedded.stop(self.home)
        self.launcher.wait(60)


def stored(kind: ObjectKind, name: str, counts: dict[str, Any]) -> ObjectRow:
    return ObjectRow(
        object_id=new_id(kind),
        version=1,
        kind=kind,
        name=name,
        created_at=utc_now(),
        created_by="x",
        sealed_bytes=1 << 20,
        manifest_sha256="0" * 64,
        inputs=[],
        counts=counts,
        details={},
    )


class Line:
    """A connection to the authority's socket that can be held up: what comes back stops in the middle of whatever it
    is, for good on the connections of that moment, until `mend` on new ones."""

    def __init__(self, home: Home, root: Path) -> None:
        self.home = Home(root)
        self.home.run.mkdir(parents=True, mode=0o700)
        self._to = str(home.authority_socket)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(self.home.authority_socket))
        self._listening.listen(64)
        self._left: int | None = None
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self, after: int = 0) -> None:
        """No more than so many bytes come back from now on."""
        self._left = after

    def mend(self) -> None:
        """New connections go through; those that stalled never do."""
        self._left = None

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                far.connect(self._to)
            except OSError:
                near.close()
                continue
            self._connections += [near, far]
            threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, back: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if back and self._left is not None:
                    sent, self._left = data[: self._left], max(0, self._left - len(data))
                    target.sendall(sent)
                    return  # held up for good: neither is closed
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listening.close()
        for one in self._connections:
            one.close()
