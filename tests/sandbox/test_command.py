"""What may be mounted, and what stands in the command: an allow-list and nothing secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.api import Mount, SandboxSpec
from cloister.errors import InvalidInput
from cloister.sandbox import PythonPaths, build_command
from cloister.sandbox.command import gpu_uuids

PYTHON = PythonPaths.current()


def command(*mounts: Mount, **spec: object) -> list[str]:
    return build_command(
        SandboxSpec.model_validate(
            {"sandbox_id": "jb-000000000001", "program": "worker", "mounts": mounts, **spec}
        ),
        python=PYTHON,
        seccomp_fd=9,
        etc_fds={"/etc/passwd": 10},
    )


@pytest.mark.parametrize(
    "inside",
    [
        "/",
        "/usr",
        "/etc/passwd",
        "/in",
        "/in/../etc",
        "/in/a/b",
        "/in/.hidden",
        "/out/x",
        "/tmp/x",
        "in/x",
        "/run",
    ],
)
def test_other_places_are_refused(inside: str) -> None:
    with pytest.raises(InvalidInput, match="no such place"):
        command(Mount(source="/srv", inside=inside))


def test_inputs_are_read_only_and_places_are_taken_once() -> None:
    with pytest.raises(InvalidInput, match="read-only"):
        command(Mount(source="/srv", inside="/in/data", writable=True))
    with pytest.raises(InvalidInput, match="same place"):
        command(Mount(source="/srv", inside="/out"), Mount(source="/opt", inside="/out"))
    with pytest.raises(InvalidInput, match="absolute"):
        command(Mount(source="srv", inside="/out"))


def test_the_root_of_the_host_is_never_bound() -> None:
    built = command(Mount(source="/srv/x", inside="/out", writable=True))
    binds = [built[at + 1] for at, word in enumerate(built) if word.endswith(("bind", "bind-try"))]
    assert not {"/", "/etc", "/home", "/root", "/run", "/var", "/dev", "/proc", "/sys"} & set(binds)
    writable = [built[at + 1] for at, word in enumerate(built) if word == "--bind"]
    assert writable == ["/srv/x"]
    for option in (
        "--unshare-net",
        "--unshare-pid",
        "--unshare-user",
        "--unshare-ipc",
        "--disable-userns",
        "--clearenv",
    ):
        assert option in built
    assert built.index("--remount-ro") < built.index("--")


def test_gpus_are_the_named_ones() -> None:
    built = command(gpus=(2,))
    nodes = [built[at + 1] for at, word in enumerate(built) if word.startswith("--dev-bind")]
    assert "/dev/nvidia2" in nodes
    assert "/dev/nvidia0" not in nodes
    assert not any(word.startswith("--dev-bind") for word in command())


def test_several_gpus_are_counted_from_nought_inside() -> None:
    built = command(gpus=(1, 3))
    nodes = [built[at + 1] for at, word in enumerate(built) if word.startswith("--dev-bind")]
    assert {"/dev/nvidia1", "/dev/nvidia3"} <= set(nodes) and "/dev/nvidia0" not in nodes
    assert built[built.index("CUDA_VISIBLE_DEVICES") + 1] == "0,1"
    assert "CUDA_VISIBLE_DEVICES" not in command()


def test_with_gpus_the_tree_of_their_bus_is_seen() -> None:
    built = command(gpus=(0,))
    seen = {built[at + 1] for at, word in enumerate(built) if word == "--ro-bind-try"}
    assert {"/sys/bus/pci", "/sys/class/pci_bus"} <= seen
    assert {str(path) for path in Path("/sys/devices").glob("pci*")} <= seen
    assert "/sys/class/pci_bus" not in command()


def test_without_a_sandbox_gpus_go_by_their_ids(tmp_path: Path) -> None:
    for minor, address in ((1, "0000:17:00.0"), (0, "0000:65:00.0")):  # numbers do not follow addresses
        (tmp_path / address).mkdir()
        text = f"Model: \t\t NVIDIA H200\nGPU UUID:   \t GPU-{minor}{minor}\nDevice Minor: \t {minor}\n"
        (tmp_path / address / "information").write_text(text)
    assert gpu_uuids((0, 1), tmp_path) == ["GPU-00", "GPU-11"]
    assert gpu_uuids((0, 1), tmp_path / "hidden") == []
    with pytest.raises(InvalidInput, match="no GPU number 2"):
        gpu_uuids((0, 2), tmp_path)


def test_threads_reach_the_environment() -> None:
    built = command(threads=3)
    assert built[built.index("OMP_NUM_THREADS") + 1] == "3"
    assert "OMP_NUM_THREADS" not in command()
