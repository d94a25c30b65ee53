"""Xids: what NVIDIA's driver reports about a GPU by number, whose fault it is, and what is to be done.

The numbers and what NVIDIA advises for each are those of its Xid catalogue (docs.nvidia.com/deploy/xid-errors); that
the first group says nothing against the device is also how NVIDIA's Kubernetes device plugin has it. A table, no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Remedy = Literal["job", "free", "reset", "reboot", "unknown"]
"""`job`: the program's own fault, the GPU is well. `free`: reset it once it is free. `reset`: reset it before anything
runs on it again. `reboot`: the machine has to start again, and the card may be broken."""


@dataclass(frozen=True)
class Xid:
    meaning: str
    remedy: Remedy


XIDS: dict[int, Xid] = {
    8: Xid("a program's work on it stopped", "job"),
    13: Xid("a program's kernel failed", "job"),
    31: Xid("a program read or wrote memory that is not its own", "job"),
    32: Xid("a program sent it commands that are none", "job"),
    43: Xid("a program's work on it was ended after a fault of its own", "job"),
    45: Xid("a program was ended on it", "job"),
    68: Xid("a program's video work failed", "job"),
    69: Xid("a program's kernel failed", "job"),
    109: Xid("a program did not let go of it in time", "job"),
    63: Xid("faulty memory will be replaced by spare memory at its next reset", "free"),
    92: Xid("many memory errors are being corrected", "free"),
    94: Xid("a memory error that could not be corrected ended one program, and reached no other", "free"),
    46: Xid("it stopped working", "reset"),
    48: Xid("a memory error could not be corrected", "reset"),
    62: Xid("its power management halted", "reset"),
    64: Xid("faulty memory could not be replaced by spare memory", "reset"),
    74: Xid("its link to another GPU failed", "reset"),
    95: Xid("a memory error that could not be corrected may have reached every program on it", "reset"),
    110: Xid("a security fault", "reset"),
    119: Xid("its own processor does not answer the driver", "reset"),
    120: Xid("its own processor failed", "reset"),
    121: Xid("its link to the processor of this machine failed", "reset"),
    136: Xid("its links could not be trained", "reset"),
    140: Xid("memory errors could not be corrected", "reset"),
    143: Xid("it did not start", "reset"),
    155: Xid("its links failed", "reset"),
    156: Xid("its resources were retired", "reset"),
    158: Xid("it did not answer in time", "reset"),
    79: Xid("it has fallen off the bus", "reboot"),
}


def known(number: int) -> Xid:
    """What an Xid means; one that is not in the table condemns nothing."""
    return XIDS.get(number, Xid("NVIDIA's Xid catalogue says what that is", "unknown"))
