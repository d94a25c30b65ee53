"""Whether swap is safe is read from /proc/swaps and sysfs; whether a sandbox can be built is tried."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cloister.errors import SandboxUnavailable
from cloister.sandbox import available, require, swap_status

HEADER = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


def machine(tmp_path: Path, *areas: str) -> tuple[Path, Path]:
    proc, sys_ = tmp_path / "proc", tmp_path / "sys"
    proc.mkdir()
    (proc / "swaps").write_text(HEADER + "".join(f"{area} partition 1024 512 -2\n" for area in areas))
    (sys_ / "class" / "block").mkdir(parents=True)
    return proc, sys_


def device(sys_: Path, name: str, *, uuid: str | None = None, slaves: tuple[str, ...] = ()) -> Path:
    block = sys_ / "class" / "block" / name
    (block / "slaves").mkdir(parents=True)
    for slave in slaves:
        (block / "slaves" / slave).mkdir()
    if uuid is not None:
        (block / "dm").mkdir()
        (block / "dm" / "uuid").write_text(uuid + "\n")
    return block


def test_no_swap(tmp_path: Path) -> None:
    proc, sys_ = machine(tmp_path)
    assert swap_status(proc=proc, sys=sys_).areas == ()
    assert swap_status(proc=tmp_path / "nowhere", sys=sys_).areas == ()


def test_a_bare_partition_is_unsafe_and_dm_crypt_is_safe(tmp_path: Path) -> None:
    proc, sys_ = machine(tmp_path, "/dev/sdx2", "/dev/dm-90", "/dev/dm-91", "/dev/dm-92", "/dev/gone9")
    device(sys_, "sdx2")
    device(sys_, "dm-90", uuid="CRYPT-LUKS2-abc", slaves=("sdx3",))
    device(sys_, "dm-91", uuid="LVM-abc", slaves=("dm-90",))
    device(sys_, "dm-92", uuid="LVM-def", slaves=("dm-90", "sdx2"))
    told = {area.path: area.safe for area in swap_status(proc=proc, sys=sys_).areas}
    assert told == {
        "/dev/sdx2": False,
        "/dev/dm-90": True,
        "/dev/dm-91": True,
        "/dev/dm-92": False,
        "/dev/gone9": False,
    }
    assert swap_status(proc=proc, sys=sys_).areas[0].size_bytes == 1 << 20


def test_zram_is_memory_unless_it_writes_back(tmp_path: Path) -> None:
    proc, sys_ = machine(tmp_path, "/dev/zram7", "/dev/zram8")
    (device(sys_, "zram7") / "backing_dev").write_text("none\n")
    (device(sys_, "zram8") / "backing_dev").write_text("/dev/sdx1\n")
    assert [area.safe for area in swap_status(proc=proc, sys=sys_).areas] == [True, False]


def test_a_missing_or_broken_bubblewrap_is_named_with_the_remedy(tmp_path: Path) -> None:
    reason = available(bwrap="no-such-bwrap")
    assert reason is not None
    assert "apt-get install bubblewrap" in reason
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
    broken.chmod(0o755)
    reason = available(bwrap=str(broken))
    assert reason is not None
    assert "No permissions to create new namespace" in reason
    with pytest.raises(SandboxUnavailable):
        require(bwrap=str(broken))


def test_a_hardened_process_leaves_no_core_and_cannot_be_read() -> None:
    code = (
        "import os, signal; from cloister.sandbox.harden import *\n"
        "assert dumpable(); harden_process()\n"
        "assert not dumpable() and core_limit() == 0 and no_new_privileges()\n"
        "print(os.stat('/proc/self/mem').st_uid, flush=True); os.kill(os.getpid(), signal.SIGABRT)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == -6
    assert ran.stdout.strip() == "0"  # /proc/<pid> belongs to root once a process is not dumpable


def test_hardening_loads_nothing_heavy() -> None:
    code = (
        "import sys; from cloister.sandbox import harden_process; harden_process()\n"
        "assert 'pydantic' not in sys.modules and 'asyncio' not in sys.modules\n"
        "import cloister.sandbox.host, cloister.sandbox.selfcheck, cloister.launcher.main\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
