"""What a sandbox is made of: the bubblewrap command for one `SandboxSpec`.

The root is built from an allow-list and never contains `/`: with all of the host's tree in sight, a
process without a network still reaches every Unix socket of the host. It does not know who asked or
what the work is; nothing secret ever stands in the command or in the environment.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloister.api import Mount, SandboxSpec
from cloister.errors import InvalidInput

BWRAP = "bwrap"
PROGRAMS = {"worker": "cloister.worker", "engine": "cloister.engine"}
UID = 1000
"""The account inside. It stands for the launcher's own, whatever that is outside."""

FIRST_DESCRIPTOR = 3
ETC_FILES: Mapping[str, bytes] = {
    "/etc/passwd": b"cloister:x:1000:1000:cloister:/tmp/home:/usr/sbin/nologin\n",
    "/etc/group": b"cloister:x:1000:\n",
    "/etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files\n",
    "/etc/hosts": b"127.0.0.1 localhost cloister\n::1 localhost cloister\n",
}
"""Files that are written for the sandbox instead of being taken from the host. No resolv.conf."""

_INSIDE = re.compile(r"^(/in/[A-Za-z0-9][A-Za-z0-9._-]{0,127}|/out|/run/engine)$")
_WRITABLE_INSIDE = frozenset({"/out", "/run/engine"})
_USR_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC_FROM_HOST = ("/etc/ld.so.cache", "/etc/alternatives")
_PROC_HIDDEN = ("/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/timer_list", "/proc/kmsg")
_GPU_CONTROL = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-caps")
_GPU_SYS = (
    "/sys/bus/pci",
    "/sys/class/pci_bus",  # where NCCL looks for the way from one GPU to another (graph/xml.cc, getPciPath)
    "/sys/module/nvidia",
    "/sys/module/nvidia_uvm",
    "/sys/class/drm",
)


@dataclass(frozen=True)
class PythonPaths:
    """The interpreter that runs inside, and the folders that it needs, each at its own host path."""

    executable: Path
    read_only: tuple[Path, ...]
    python_path: tuple[Path, ...] = ()

    @classmethod
    def current(cls) -> PythonPaths:
        """Those of the running interpreter, its virtual environment and this package."""
        package = Path(__file__).resolve().parent.parent
        prefixes = [Path(sys.base_prefix), Path(sys.prefix), Path(sys.exec_prefix)]
        wanted: list[Path] = []
        for prefix in prefixes:
            wanted += [prefix, prefix.resolve()]
        installed = any(package.is_relative_to(prefix.resolve()) for prefix in prefixes)
        if not installed:
            wanted.append(package)
        return cls(
            executable=Path(sys.executable),
            read_only=_outermost(path for path in wanted if not _in_usr(path)),
            python_path=() if installed else (package.parent,),
        )


def build_command(
    spec: SandboxSpec,
    *,
    python: PythonPaths,
    seccomp_fd: int,
    etc_fds: Mapping[str, int],
    status_fd: int | None = None,
    program: Sequence[str] | None = None,
    bwrap: str = BWRAP,
) -> list[str]:
    """The command line that builds the sandbox of `spec` and runs its program in it.

    Args:
        seccomp_fd: descriptor from which bubblewrap reads `seccomp.program()`.
        etc_fds: a descriptor for the contents of each of `ETC_FILES`.
        status_fd: where bubblewrap writes the first process's id, as JSON.
        program: what to run instead of the spec's own program.

    Raises:
        InvalidInput: a mount that no sandbox may have.
    """
    check_mounts(spec.mounts)
    command = [bwrap]
    command += ["--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--disable-userns", "--die-with-parent", "--new-session"]
    command += ["--hostname", "cloister", "--uid", str(UID), "--gid", str(UID), "--cap-drop", "ALL"]
    command += _system(etc_fds)
    command += ["--proc", "/proc"]
    for hidden in _PROC_HIDDEN:
        if Path(hidden).exists():
            command += ["--ro-bind", "/dev/null", hidden]
    # bubblewrap covers only those parts of /proc whose folders are writable. A sandbox started by root
    # could still write files under /proc/sys, core_pattern among them: nothing needs to write here.
    command += ["--remount-ro", "/proc"]
    command += ["--dev", "/dev", *_gpu(spec.gpus)]
    command += ["--perms", "1777", "--size", str(spec.shm_mib << 20), "--tmpfs", "/dev/shm"]  # noqa: S108
    command += ["--remount-ro", "/dev"]
    command += ["--perms", "1777", "--size", str(spec.tmp_mib << 20), "--tmpfs", "/tmp"]  # noqa: S108
    for folder in ("/tmp/home", "/tmp/cache"):  # noqa: S108
        command += ["--perms", "0700", "--dir", folder]
    for path in python.read_only:  # after /tmp, below which an interpreter or a checkout may lie
        command += ["--ro-bind", str(path), str(path)]
    for mount in spec.mounts:
        command += ["--bind" if mount.writable else "--ro-bind", mount.source, mount.inside]
    command += ["--remount-ro", "/"]
    command += ["--chdir", "/tmp", "--clearenv"]  # noqa: S108
    for name, value in environment(spec, python, sandboxed=True).items():
        command += ["--setenv", name, value]
    command += ["--seccomp", str(seccomp_fd)]
    if status_fd is not None:
        command += ["--json-status-fd", str(status_fd)]
    return [*command, "--", *(program or program_command(spec, python))]


def program_command(spec: SandboxSpec, python: PythonPaths) -> list[str]:
    """The program of `spec`, as it is called inside a sandbox and without one."""
    return [str(python.executable), "-P", "-m", PROGRAMS[spec.program]]


def environment(spec: SandboxSpec, python: PythonPaths, *, sandboxed: bool) -> dict[str, str]:
    """All of the environment that a program gets. `CLOISTER_SANDBOX` tells it what it may expect."""
    tmp = "/tmp"  # noqa: S108
    variables = {
        "PATH": f"{python.executable.parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": f"{tmp}/home",
        "USER": "cloister",
        "LOGNAME": "cloister",
        "TMPDIR": tmp,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "XDG_CACHE_HOME": f"{tmp}/cache",
        "XDG_CONFIG_HOME": f"{tmp}/home/.config",
        "HF_HOME": f"{tmp}/cache/huggingface",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_HOME": f"{tmp}/cache/torch",
        "TORCHINDUCTOR_CACHE_DIR": f"{tmp}/cache/inductor",
        "TRITON_CACHE_DIR": f"{tmp}/cache/triton",
        "CUDA_CACHE_PATH": f"{tmp}/cache/cuda",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONSAFEPATH": "1",
        # Threads that wait by spinning starve the thread they wait for once another process wants the
        # core: on two busy cores a layer took twenty times as long. Threads that never spin pay a wake-up
        # for every small product: two were slower than one. A tenth of a millisecond of spinning is both.
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "20000",
        "CLOISTER_SANDBOX": "bwrap" if sandboxed else "none",
    }
    if python.python_path:
        variables["PYTHONPATH"] = os.pathsep.join(str(path) for path in python.python_path)
    if spec.threads:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
            variables[name] = str(spec.threads)
    visible = [str(number) for number in range(len(spec.gpus))] if sandboxed else gpu_uuids(spec.gpus)
    if visible:
        variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(visible)
    return variables


def gpu_uuids(numbers: Sequence[int], driver: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """The ids by which CUDA knows the GPUs of `/dev/nvidiaN`, where no sandbox hides the others; none where the
    driver's folder cannot be seen, as in some containers: the program then finds all that there are.

    Raises:
        InvalidInput: the driver does not tell of one of them.
    """
    known: dict[int, str] = {}
    for information in sorted(driver.glob("*/information")):
        lines = (line.partition(":") for line in information.read_text(encoding="ascii").splitlines())
        facts = {name.strip(): value.strip() for name, _, value in lines}
        if facts.get("Device Minor", "").isdigit() and "GPU UUID" in facts:
            known[int(facts["Device Minor"])] = facts["GPU UUID"]
    if not known:
        return []
    missing = [number for number in numbers if number not in known]
    if missing:
        raise InvalidInput(
            f"The NVIDIA driver tells of no GPU number {missing[0]}.",
            where=str(driver),
            remedy="Run `nvidia-smi`.",
        )
    return [known[number] for number in numbers]


def check_mounts(mounts: Sequence[Mount]) -> None:
    """Refuse mounts outside `/in/<name>`, `/out` and `/run/engine`, doubles, and writable inputs.

    Raises:
        InvalidInput: naming the place inside.
    """
    seen: set[str] = set()
    for mount in mounts:
        if not _INSIDE.match(mount.inside):
            raise InvalidInput(
                "A sandbox has no such place.",
                where=mount.inside,
                remedy="Mount inputs at /in/<name>, the output at /out, an engine's folder at /run/engine.",
            )
        if mount.inside in seen:
            raise InvalidInput("Two mounts claim the same place.", where=mount.inside)
        if mount.writable and mount.inside not in _WRITABLE_INSIDE:
            raise InvalidInput("Inputs of a sandbox are read-only.", where=mount.inside)
        if not Path(mount.source).is_absolute():
            raise InvalidInput("The source of a mount is an absolute path.", where=mount.inside)
        seen.add(mount.inside)


def _system(etc_fds: Mapping[str, int]) -> list[str]:
    """/usr, the loader's cache, a made-up /etc, and what tells of processors."""
    command = ["--ro-bind", "/usr", "/usr"]
    for name in _USR_LINKS:
        path = Path("/", name)
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            command += ["--ro-bind", str(path), str(path)]
    for source in _ETC_FROM_HOST:
        command += ["--ro-bind-try", source, source]
    for inside, descriptor in etc_fds.items():
        command += ["--perms", "0444", "--file", str(descriptor), inside]
    return [*command, "--ro-bind", "/sys/devices/system", "/sys/devices/system"]


def _gpu(indices: Sequence[int]) -> list[str]:
    """Device nodes of the named GPUs and what the driver reads about them; the driver's libraries lie
    under /usr. A node that is not there is an error of bubblewrap's, which names it."""
    if not indices:
        return []
    command: list[str] = []
    for name in (*(f"nvidia{index}" for index in indices), *_GPU_CONTROL[:1]):
        command += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name in _GPU_CONTROL[1:]:
        command += ["--dev-bind-try", f"/dev/{name}", f"/dev/{name}"]
    for path in (*_GPU_SYS, *sorted(str(found) for found in Path("/sys/devices").glob("pci*"))):
        command += ["--ro-bind-try", path, path]
    return command


def _in_usr(path: Path) -> bool:
    return path == Path("/usr") or path.is_relative_to("/usr")


def _outermost(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Each path once, without those that lie inside another; parents first."""
    kept: list[Path] = []
    for path in sorted(set(paths)):
        if not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return tuple(kept)
