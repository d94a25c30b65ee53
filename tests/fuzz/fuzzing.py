"""Fuzz targets: how one is started in a process of its own, within bounds, and what that process does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

Samples = TypeVar("Samples")

SECONDS = os.environ.get("CLOISTER_FUZZ_SECONDS", "600")
"""How long one target runs in the long form."""


def fuzz(script: Path, target: str, folder: Path, *options: str) -> int:
    """How many inputs were tried; a crash, a hang or more than 1 GiB of memory fails."""
    limits = ["-rss_limit_mb=1024", "-timeout=20", "-max_len=70000", f"-artifact_prefix={folder}/"]
    command = [sys.executable, str(script), target, str(folder / "corpus"), *limits, *options]
    # Through a shell: a child counts its parent's memory as its own peak, and this process may hold torch.
    command = ["/bin/sh", "-c", '"$@"; exit $?', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    found = sorted(path.name for path in folder.iterdir() if path.is_file())
    assert done.returncode == 0, (found, done.stdout[-2000:], done.stderr[-4000:])
    counts = re.findall(r"^Done (\d+) (?:runs|in)|^#(\d+)", done.stderr, re.MULTILINE)
    return max(int(a or b) for a, b in counts)


def drive(
    make: Callable[[Path], Samples],
    targets: Mapping[str, Callable[[Samples, bytes], None]],
    seeds: Callable[[str, Samples], Iterable[bytes]],
) -> None:
    """The target's process: `SCRIPT TARGET CORPUS [libFuzzer's options]`. `make` builds real samples in a folder."""
    import atheris

    name, corpus = sys.argv[1], Path(sys.argv[2])
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        samples = make(Path(folder))
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds(name, samples)):
            (corpus / f"seed-{number}").write_bytes(seed)
        atheris.Setup([sys.argv[0], str(corpus), *sys.argv[3:]], lambda data: targets[name](samples, data))
        atheris.Fuzz()
