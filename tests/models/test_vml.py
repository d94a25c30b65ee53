"""oneMKL's kernels are found by one thread: many at once may take one of low accuracy for the first call."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import torch

from cloister.models.vml import FUNCTIONS

STORM = """
import os, sys, zlib
import torch

torch.set_num_threads(1)
name, warm, times = sys.argv[1], sys.argv[2] == "warm", int(sys.argv[3])
if warm:
    from cloister.models.vml import resolve_kernels
values = torch.linspace(0.1, 200, 14848)
torch.ones(64, 64) @ torch.ones(64, 64)  # oneMKL itself has begun, as it has when a model's first layer comes
for _ in range(times):
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        torch.set_num_threads(2)
        if warm:
            resolve_kernels()
        first = getattr(torch, name)(values)
        os.write(writing, b"%d" % zlib.crc32(first.numpy().tobytes()))
        os._exit(0)
    os.close(writing)
    print(os.read(reading, 20).decode())
    os.close(reading)
    os.waitpid(pid, 0)
"""


def first_calls(name: str, mode: str, times: int) -> Counter[str]:
    """The checksums that the first call of a function gives, in so many processes of two threads."""
    said = subprocess.run(
        [sys.executable, "-c", STORM, name, mode, str(times)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
    )
    return Counter(said.stdout.split())


def test_the_first_call_is_like_every_other() -> None:
    for name in ("cos", "sin", "exp"):
        seen = first_calls(name, "warm", 150)
        assert len(seen) == 1, (name, seen)


def test_every_function_of_this_torch_is_named() -> None:
    header = Path(torch.__file__).parent / "include" / "ATen" / "cpu" / "vml.h"
    named = re.findall(r"^IMPLEMENT_VML_MKL\((\w+),", header.read_text(), re.MULTILINE)
    assert sorted(named) == sorted(FUNCTIONS)
