"""What doctor asks the machine: encryption below, the clock, loose files, and a tensor quantised for real."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cloister.cli import checkup, machine
from cloister.home import Home
from cloister.sandbox.host import encrypted_below


def block_device(sys: Path, path: Path, name: str, *, uuid: str | None, slaves: tuple[str, ...] = ()) -> None:
    """A made-up sysfs in which `path` lies on the device `name`."""
    number = path.stat().st_dev
    block = sys / "devices" / name
    (block / "slaves").mkdir(parents=True, exist_ok=True)
    for slave in slaves:
        (block / "slaves" / slave).mkdir()
    if uuid is not None:
        (block / "dm").mkdir()
        (block / "dm" / "uuid").write_text(f"{uuid}\n")
    links = {sys / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}", sys / "class" / "block" / name}
    for link in links:
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(block)


@pytest.mark.parametrize(
    ("uuid", "slaves", "safe"),
    [
        ("CRYPT-LUKS2-0123", (), True),
        ("LVM-0123", ("dm-1",), True),
        ("LVM-0123", ("sda",), False),
        (None, (), False),
        ("LVM-0123", ("dm-1", "sda"), False),
    ],
)
def test_encryption_is_found_below_lvm_and_raid(
    tmp_path: Path, uuid: str | None, slaves: tuple[str, ...], safe: bool
) -> None:
    if os.major(tmp_path.stat().st_dev) == 0:
        pytest.skip("the temporary folder lies on no block device")
    sys = tmp_path / "sys"
    block_device(sys, tmp_path, "dm-0", uuid=uuid, slaves=slaves)
    for slave in slaves:
        block = sys / "class" / "block" / slave
        (block / "slaves").mkdir(parents=True)
        if slave.startswith("dm"):
            (block / "dm").mkdir()
            (block / "dm" / "uuid").write_text("CRYPT-LUKS2-4567\n")
    assert encrypted_below(tmp_path, sys=sys)[0] is safe
    assert encrypted_below(tmp_path, sys=tmp_path / "nowhere")[0] is None


def test_memory_is_no_disk() -> None:
    if Path("/dev/shm").is_dir():
        assert encrypted_below(Path("/dev/shm")) == (True, "memory")


def test_what_others_mount_under_names_that_are_no_text_is_passed_over(tmp_path: Path) -> None:
    """As whoever may mount with FUSE can."""
    mounts = tmp_path / "proc" / "self" / "mountinfo"
    mounts.parent.mkdir(parents=True)
    number = tmp_path.stat().st_dev
    ours = f"30 20 {os.major(number)}:{os.minor(number)} / / rw - tmpfs tmpfs rw\n".encode()
    mounts.write_bytes(b"29 20 0:25 / /home/eve/\xff rw - fuse.x x rw\n" + ours)
    assert encrypted_below(tmp_path, proc=tmp_path / "proc") == (True, "memory")


def test_a_clock_that_went_back_is_found(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.make()
    assert machine.clock(home).state in ("good", "warn")
    assert machine.clock(home, now=1.0).state == "bad"
    (home.keys / "keystore.db").write_bytes(b"")
    assert "went back" in machine.clock(home, now=time.time() - 3600).finding
    assert machine.synchronised() in (True, False, None)


def test_loose_files_are_named(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.make()
    keystore = home.keys / "keystore.db"
    keystore.write_bytes(b"")
    keystore.chmod(0o600)
    assert not list(machine.loose_files(home))
    keystore.chmod(0o640)
    home.settings_file.write_text("")
    home.settings_file.chmod(0o666)
    assert [
        str(keystore) in f.finding or str(home.settings_file) in f.finding for f in machine.loose_files(home)
    ] == [
        True,
        True,
    ]


def test_the_limit_on_locked_memory_is_read(tmp_path: Path) -> None:
    assert machine.locked_memory(Home(tmp_path)).check == "memory of keys"
    assert machine._limit_of(os.getpid(), "Max core file size", -5) != -5
    assert machine._limit_of(os.getpid(), "No such limit", -5) == -5


@pytest.mark.slow
def test_a_tensor_is_quantised_in_a_sandbox() -> None:
    finding = machine.device()
    assert finding.state in ("good", "warn"), finding
    assert "NF4 quantised and back" in finding.finding


def test_a_device_that_does_not_answer_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, word in (
        (None, "did not answer"),
        ({"ok": False, "problem": "ImportError in x:1"}, "ImportError"),
        ({"ok": False, "error": 0.9}, "0.9"),
    ):
        monkeypatch.setattr(machine, "_trial", lambda gpus, answer=answer: answer)
        assert machine.device().state == "bad" and word in machine.device().finding


def test_a_gpu_without_the_node_for_memory_is_told_from_one_without_the_right_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "0000:17:00.0").mkdir()
    (tmp_path / "0000:17:00.0" / "information").touch()
    monkeypatch.setattr(machine, "CARDS", tmp_path)
    monkeypatch.setattr(machine, "UVM", tmp_path / "nvidia-uvm")
    answer = {"ok": True, "device": "CPU", "error": 0.07, "seconds": 1.0}
    monkeypatch.setattr(machine, "_trial", lambda gpus: answer)
    assert "nvidia-modprobe" in (machine.device().remedy or "")
    (tmp_path / "nvidia-uvm").touch()
    assert "CUDA lock" in (machine.device().remedy or "")


def test_the_trial_is_given_the_gpus_whose_nodes_are_there(tmp_path: Path) -> None:
    for name in ("nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert machine.gpu_nodes(tmp_path) == (2, 10)


def test_a_library_that_the_engine_needs_is_missed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkup, "DRIVER", tmp_path / "none")
    monkeypatch.setattr(checkup, "NUMA", "libc.so.6")
    assert not list(checkup._libraries())
    monkeypatch.setattr(checkup, "NUMA", "libnuma.so.0")
    (finding,) = checkup._libraries()
    assert (finding.state, finding.check) == ("bad", "libraries")
    assert "libnuma1" in (finding.remedy or "")
    driver = tmp_path / "version"
    driver.touch()
    monkeypatch.setattr(checkup, "DRIVER", driver)
    monkeypatch.setattr(checkup.compiler, "missing", lambda: None)
    assert not list(checkup._libraries())
    monkeypatch.setattr(checkup.compiler, "missing", lambda: "a C compiler")
    (finding,) = checkup._libraries()
    assert (finding.state, finding.check) == ("bad", "libraries")
    assert "a C compiler" in finding.finding and "gcc" in (finding.remedy or "")
