"""What Triton compiles its launcher with when a process calls the first of its kernels: a C compiler, Python's headers.

No wheel brings them. vLLM on CUDA cannot start without, and Liger's loss is Triton's too (triton/runtime/build.py,
3.7). Standard library only.
"""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

PLACES = "/usr/local/bin:/usr/bin:/bin"
"""Where a sandbox finds programs, besides those of its Python."""


def missing(places: str = PLACES, include: Path | None = None) -> str | None:
    """In words, what of it this machine lacks; None where it has all. `include` is where the headers are."""
    if not any(shutil.which(name, path=places) for name in ("gcc", "clang")):
        return "a C compiler"
    header = (include or headers()) / "Python.h"
    return None if header.is_file() else f"Python's headers ({header})"


def headers() -> Path:
    """The folder where the running Python's headers belong."""
    scheme = sysconfig.get_default_scheme()
    # Debian's own scheme names a folder below /usr/local that has none.
    scheme = "posix_prefix" if scheme == "posix_local" else scheme
    return Path(sysconfig.get_paths(scheme=scheme)["include"])
