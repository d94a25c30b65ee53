"""The system-call filter of a sandbox, assembled here to classic BPF; no library is needed.

A deny-list in the spirit of Docker's and Flatpak's: what no training or serving needs and what
kernel exploits are made of. It knows nothing of namespaces or mounts, which hold without it.

Layout of `struct seccomp_data` and of the instructions: linux/seccomp.h, linux/filter.h.
"""

from __future__ import annotations

import errno
import platform
import socket
import struct
from collections.abc import Sequence

SYSTEM_CALLS: dict[str, tuple[int | None, int | None]] = {
    # (x86_64, aarch64)
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "create_module": (174, None),
    "get_kernel_syms": (177, None),
    "query_module": (178, None),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "setns": (308, 268),
    "unshare": (272, 97),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "nfsservctl": (180, 42),
    "lookup_dcookie": (212, 18),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "_sysctl": (156, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "vhangup": (153, 58),
    # Answered ENOSYS, so that programs fall back to an older way.
    "clone3": (435, 435),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # Allowed by argument.
    "clone": (56, 220),
    "ioctl": (16, 29),
    "personality": (135, 92),
    "socket": (41, 198),
}

_ABSENT = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register")
_BY_ARGUMENT = ("clone", "ioctl", "personality", "socket")

SOCKET_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, 16)
"""The address families that may be opened; 16 is AF_NETLINK, which vLLM asks for interfaces."""

TERMINAL_REQUESTS = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX: both can type into the operator's terminal."""

_NEW_NAMESPACE = (  # CLONE_NEW*: cgroup, uts, ipc, user, pid, net, mount
    0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x00020000
)
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32_BIT = 0x40000000

_LD_ABS, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH = 0, 4
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def program(machine: str | None = None) -> bytes:
    """The filter for `machine` (`x86_64` or `aarch64`; this one by default), as bubblewrap reads it.

    Raises:
        ValueError: there is no filter for that architecture.
    """
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        raise ValueError(f"There is no system-call filter for {machine}: use x86_64 or aarch64.")
    audit, column = _ARCHITECTURES[machine]
    denied = errno.EPERM

    code: list[bytes] = [
        _load(_ARCH),
        _jump(_JEQ, audit, 1, 0),
        _give(_KILL),
        _load(_NR),
    ]
    if machine == "x86_64":
        code += [_jump(_JGE, _X32_BIT, 0, 1), _give(_ERRNO | errno.ENOSYS)]
    for name, numbers in SYSTEM_CALLS.items():
        number = numbers[column]
        if number is None or name in _BY_ARGUMENT:
            continue
        answer = errno.ENOSYS if name in _ABSENT else denied
        code += [_jump(_JEQ, number, 0, 1), _give(_ERRNO | answer)]

    code += _guard(
        _number("clone", column),
        [_load(_argument(0)), _jump(_JSET, _NEW_NAMESPACE, 0, 1), _give(_ERRNO | denied), _give(_ALLOW)],
    )
    code += _guard(
        _number("ioctl", column),
        [
            _load(_argument(1)),
            *_refuse_values(TERMINAL_REQUESTS, _ERRNO | denied),
            _give(_ALLOW),
        ],
    )
    code += _guard(  # personality(0) and the query alone: no ADDR_NO_RANDOMIZE, no READ_IMPLIES_EXEC
        _number("personality", column),
        [
            _load(_argument(0)),
            _jump(_JEQ, 0, 1, 0),
            _jump(_JEQ, 0xFFFFFFFF, 0, 1),
            _give(_ALLOW),
            _give(_ERRNO | denied),
        ],
    )
    families = [
        instruction
        for family in SOCKET_FAMILIES
        for instruction in (_jump(_JEQ, int(family), 0, 1), _give(_ALLOW))
    ]
    code += _guard(
        _number("socket", column), [_load(_argument(0)), *families, _give(_ERRNO | errno.EAFNOSUPPORT)]
    )
    code.append(_give(_ALLOW))
    return b"".join(code)


def allow_only(numbers: Sequence[int], machine: str | None = None) -> bytes:
    """A filter that allows these system calls alone; any other fails with EPERM. Raises ValueError as `program`."""
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        raise ValueError(f"There is no system-call filter for {machine}: use x86_64 or aarch64.")
    code = [_load(_ARCH), _jump(_JEQ, _ARCHITECTURES[machine][0], 1, 0), _give(_KILL), _load(_NR)]
    if machine == "x86_64":
        code += [_jump(_JGE, _X32_BIT, 0, 1), _give(_ERRNO | errno.ENOSYS)]
    for number in numbers:
        code += [_jump(_JEQ, number, 0, 1), _give(_ALLOW)]
    code.append(_give(_ERRNO | errno.EPERM))
    return b"".join(code)


def _guard(number: int, body: Sequence[bytes]) -> list[bytes]:
    """`body`, which always answers, run only for system call `number`."""
    return [_jump(_JEQ, number, 0, len(body)), *body]


def _refuse_values(values: Sequence[int], answer: int) -> list[bytes]:
    return [step for value in values for step in (_jump(_JEQ, value, 0, 1), _give(answer))]


def _number(name: str, column: int) -> int:
    number = SYSTEM_CALLS[name][column]
    assert number is not None
    return number


def _argument(index: int) -> int:
    """Offset of the low half of an argument on a little-endian machine. The kernel itself reads these
    arguments (flags, request, family) as 32 bits, so the high half cannot hide anything."""
    return 16 + 8 * index


def _load(offset: int) -> bytes:
    return struct.pack("<HBBI", _LD_ABS, 0, 0, offset)


def _jump(test: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("<HBBI", test, if_true, if_false, value & 0xFFFFFFFF)


def _give(answer: int) -> bytes:
    return struct.pack("<HBBI", _RET, 0, 0, answer)
