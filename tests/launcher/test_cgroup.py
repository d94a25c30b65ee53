"""The subtree is taken only where it is wholly the launcher's, and given up without a trace otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloister.launcher.cgroup import CgroupTree


def machine(tmp_path: Path, *, controllers: str = "cpu memory pids", others: str = "") -> tuple[Path, Path]:
    """Folders shaped like a delegated cgroup v2 subtree."""
    proc, tree = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    group = tree / "launcher.service"
    group.mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/launcher.service\n")
    (proc / "self" / "mountinfo").write_text(f"30 20 0:26 / {tree} rw - cgroup2 cgroup2 rw\n")
    (group / "cgroup.controllers").write_text(controllers + "\n")
    (group / "cgroup.procs").write_text(f"{os.getpid()}\n{others}")
    return proc, group


def test_a_sandbox_gets_no_swap(tmp_path: Path) -> None:
    proc, group = machine(tmp_path)
    tree = CgroupTree.open(proc=proc)
    assert tree is not None
    assert (group / "cgroup.subtree_control").read_text() == "+memory +pids"
    one = tree.create("jb-000000000001")
    assert one is not None
    assert (one.folder / "memory.swap.max").read_text() == "0"
    one.enter()
    assert (one.folder / "cgroup.procs").read_text() == "0"
    assert one.out_of_memory() is False
    (one.folder / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert one.out_of_memory() is True


@pytest.mark.parametrize("change", [{"controllers": "cpu pids"}, {"others": "4194305\n"}])
def test_a_group_that_is_not_ours_alone_is_left_as_it_is(tmp_path: Path, change: dict[str, str]) -> None:
    proc, group = machine(tmp_path, **change)
    before = sorted(path.name for path in group.iterdir())
    assert CgroupTree.open(proc=proc) is None
    assert sorted(path.name for path in group.iterdir()) == before


def test_what_others_mount_under_names_that_are_no_text_is_passed_over(tmp_path: Path) -> None:
    """As whoever may mount with FUSE can."""
    proc, _ = machine(tmp_path)
    mounts = proc / "self" / "mountinfo"
    mounts.write_bytes(b"29 20 0:25 / /home/eve/\xff rw - fuse.x x rw\n" + mounts.read_bytes())
    assert CgroupTree.open(proc=proc) is not None


def test_without_cgroup_v2_there_is_none(tmp_path: Path) -> None:
    assert CgroupTree.open(proc=tmp_path) is None
