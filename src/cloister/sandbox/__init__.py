"""What a sandbox is made of: the bubblewrap command, the system-call filter, hardening, self-checks.

Names are imported from their modules on first use, so that `harden_process` stays cheap to call.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cloister.sandbox.harden import harden_process

if TYPE_CHECKING:
    from cloister.sandbox.command import PythonPaths, build_command, check_mounts, environment
    from cloister.sandbox.host import SwapArea, SwapStatus, available, require, swap_status
    from cloister.sandbox.keyserver import KeyServer, fetch_key
    from cloister.sandbox.selfcheck import quick_check, self_check
    from cloister.sandbox.spawn import Spawned, memory_file, spawn, spawn_sandbox

_HOMES = {
    "command": ("PythonPaths", "build_command", "check_mounts", "environment"),
    "host": ("SwapArea", "SwapStatus", "available", "require", "swap_status"),
    "keyserver": ("KeyServer", "fetch_key"),
    "selfcheck": ("quick_check", "self_check"),
    "spawn": ("Spawned", "memory_file", "spawn", "spawn_sandbox"),
}

__all__ = [
    "KeyServer",
    "PythonPaths",
    "Spawned",
    "SwapArea",
    "SwapStatus",
    "available",
    "build_command",
    "check_mounts",
    "environment",
    "fetch_key",
    "harden_process",
    "memory_file",
    "quick_check",
    "require",
    "self_check",
    "spawn",
    "spawn_sandbox",
    "swap_status",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"cloister.sandbox.{module}"), name)
    raise AttributeError(name)
