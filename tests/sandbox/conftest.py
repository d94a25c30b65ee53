"""Runs pieces of Python inside a real sandbox."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloister.api import Mount, SandboxSpec
from cloister.sandbox import PythonPaths, available, spawn_sandbox


@dataclass(frozen=True)
class Ran:
    status: int
    output: str
    errors: str


@pytest.fixture(scope="session", autouse=True)
def _bubblewrap() -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    assert available(swap=False) is None


@pytest.fixture
def inside(tmp_path: Path) -> Callable[..., Ran]:
    def run(
        code: str,
        *,
        mounts: Sequence[Mount] = (),
        stdin: bytes = b"",
        extra: Sequence[int] = (),
        tmp_mib: int = 64,
        shm_mib: int = 16,
        threads: int = 1,
    ) -> Ran:
        spec = SandboxSpec(
            sandbox_id="jb-000000000001",
            program="worker",
            mounts=tuple(mounts),
            tmp_mib=tmp_mib,
            shm_mib=shm_mib,
            threads=threads,
        )
        python = PythonPaths.current()
        paths = {name: tmp_path / f"{name}-{os.urandom(4).hex()}" for name in ("in", "out", "err")}
        paths["in"].write_bytes(stdin)
        with (
            paths["in"].open("rb") as first,
            paths["out"].open("wb") as second,
            paths["err"].open("wb") as third,
        ):
            spawned = spawn_sandbox(
                spec,
                stdin=first.fileno(),
                stdout=second.fileno(),
                stderr=third.fileno(),
                extra=extra,
                python=python,
                program=[str(python.executable), "-P", "-c", code],
            )
            status = os.waitstatus_to_exitcode(os.waitpid(spawned.pid, 0)[1])
        spawned.close()
        return Ran(status, paths["out"].read_text(), paths["err"].read_text())

    return run
