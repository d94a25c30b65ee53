"""Makes the stand-in for NVIDIA's library, and says what its GPUs are like."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")
GIB = 1 << 30
WELL: dict[str, object] = {
    "minor": 0,
    "name": "NVIDIA H200",
    "memory_total": 139 * GIB,
    "memory_used": 12 * GIB,
    "utilisation": 35,
    "temperature": 61,
    "slowdown": 90,
    "power": 251_500,
    "ecc_corrected": 3,
    "ecc_uncorrected": 0,
    "remap_pending": 0,
    "pages_pending": 0,
    "reasons": 0,
    "recovery": 0,
}


class Driver:
    """The stand-in's file. `say` changes it for the next call of the library."""

    def __init__(self, folder: Path) -> None:
        self.library = folder
        self.path = folder / "values"
        self._values: dict[str, object] = {"gpus": 1, **{f"0.{key}": value for key, value in WELL.items()}}
        self.say()

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": str(self.library), "NVML_STAND_IN": str(self.path)}

    def say(self, **values: object) -> None:
        """`gpu0_temperature=95`, `hang=1`; None takes a line away."""
        for name, value in values.items():
            key = (
                name.replace("_", ".", 1).removeprefix("gpu")
                if name.startswith("gpu") and "_" in name
                else name
            )
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value
        new = self.path.with_suffix(".new")
        new.write_text("".join(f"{key} {value}\n" for key, value in self._values.items()))
        new.replace(self.path)


def build(folder: Path) -> None:
    """Compile it there. Skips the test where no compiler is, or no pynvml that could load it."""
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler, to make the stand-in for NVIDIA's library")
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU: tests/gpu reads the real one")
    out = folder / "libnvidia-ml.so.1"
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-Werror",
        "-o",
        os.fspath(out),
        os.fspath(SOURCE),
    ]
    subprocess.run(command, check=True)
