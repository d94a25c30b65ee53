"""The system-call filter, run through a small BPF machine for every call of both architectures."""

from __future__ import annotations

import errno
import struct
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.sandbox import seccomp

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


@cache
def instructions(machine: str) -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("<HBBI", seccomp.program(machine)))


def decide(machine: str, number: int, arguments: tuple[int, ...] = (), audit: int | None = None) -> int:
    """What the kernel would do."""
    data = struct.pack(
        "<IIQ6Q", number, AUDIT[machine] if audit is None else audit, 0, *(arguments + (0,) * 6)[:6]
    )
    program = instructions(machine)
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif code == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[
                code
            ]
            at += if_true if holds else if_false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_named_call_is_denied(machine: str) -> None:
    column = 0 if machine == "x86_64" else 1
    for name, numbers in seccomp.SYSTEM_CALLS.items():
        number = numbers[column]
        if number is None or name in ("clone", "ioctl", "personality", "socket"):
            continue
        expected = errno.ENOSYS if name.startswith("io_uring") or name == "clone3" else errno.EPERM
        assert decide(machine, number) == ERRNO | expected, name


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@settings(max_examples=200, derandomize=True, deadline=None)
@given(number=st.integers(0, 600), argument=st.integers(0, 2**64 - 1))
def test_all_other_calls_are_allowed(machine: str, number: int, argument: int) -> None:
    column = 0 if machine == "x86_64" else 1
    if number not in {numbers[column] for numbers in seccomp.SYSTEM_CALLS.values()}:
        assert decide(machine, number, (argument, argument)) == ALLOW


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_another_architecture_is_killed(machine: str) -> None:
    assert decide(machine, 0, audit=0x40000003) == KILL  # i386: its numbers mean other calls


def test_x32_calls_do_not_exist() -> None:
    assert decide("x86_64", 0x40000000 | 39) == ERRNO | errno.ENOSYS


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(
    "flag", [0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x00020000]
)
def test_clone_makes_no_namespace(machine: str, flag: int) -> None:
    clone = seccomp.SYSTEM_CALLS["clone"][0 if machine == "x86_64" else 1]
    assert clone is not None
    assert decide(machine, clone, (flag | 17,)) == ERRNO | errno.EPERM
    assert decide(machine, clone, (0x003D0F00,)) == ALLOW  # what a thread is made of


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@settings(max_examples=100, derandomize=True, deadline=None)
@given(family=st.integers(0, 60))
def test_socket_families_by_allow_list(machine: str, family: int) -> None:
    number = seccomp.SYSTEM_CALLS["socket"][0 if machine == "x86_64" else 1]
    assert number is not None
    expected = ALLOW if family in (1, 2, 10, 16) else ERRNO | errno.EAFNOSUPPORT
    assert decide(machine, number, (family,)) == expected
    # A value that only looks different in its upper half, which the kernel ignores.
    assert decide(machine, number, (family | 1 << 32,)) == expected


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_no_typing_into_a_terminal(machine: str) -> None:
    ioctl = seccomp.SYSTEM_CALLS["ioctl"][0 if machine == "x86_64" else 1]
    assert ioctl is not None
    assert decide(machine, ioctl, (0, 0x5412)) == ERRNO | errno.EPERM
    assert decide(machine, ioctl, (0, 0x5412 | 1 << 32)) == ERRNO | errno.EPERM
    assert decide(machine, ioctl, (0, 0x541C)) == ERRNO | errno.EPERM
    assert decide(machine, ioctl, (0, 0x5413)) == ALLOW


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_personality_stays_plain(machine: str) -> None:
    number = seccomp.SYSTEM_CALLS["personality"][0 if machine == "x86_64" else 1]
    assert number is not None
    assert decide(machine, number, (0,)) == ALLOW
    assert decide(machine, number, (0xFFFFFFFF,)) == ALLOW
    assert decide(machine, number, (0x0040000,)) == ERRNO | errno.EPERM


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="riscv64"):
        seccomp.program("riscv64")
