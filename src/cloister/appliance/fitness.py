"""Whether this machine may start anything now: vault, ledger, audit sinks, sandbox, swap. It starts nothing."""

from __future__ import annotations

from cloister.appliance.exporting import Exporting
from cloister.appliance.recorder import Recorder
from cloister.appliance.seal import Seal
from cloister.errors import SandboxUnavailable
from cloister.policy import Settings
from cloister.sandbox import available, swap_status


class Fitness:
    """Asked anew before each start; only the sandbox is tried once."""

    def __init__(self, settings: Settings, seal: Seal, recorder: Recorder, exporting: Exporting) -> None:
        self._settings = settings
        self._seal = seal
        self._recorder = recorder
        self._exporting = exporting
        self._no_sandbox = available(swap=False) if settings.sandbox == "required" else None

    def require(self) -> None:
        """Errors: Locked, LedgerUnavailable, OutOfSpace or SandboxUnavailable where nothing new may start."""
        _ = self._seal.vault
        self._recorder.require()
        self._exporting.refuse()
        if self._no_sandbox is not None:
            raise SandboxUnavailable(self._no_sandbox, remedy="See `cloister doctor`.")
        swap = self.swap()
        if swap is not None and self._settings.unencrypted_swap == "refuse":
            raise SandboxUnavailable(swap, remedy="Turn it off with `swapoff -a`, or encrypt it.")

    @property
    def sandbox(self) -> str:
        """In a word, how work is isolated, or why it cannot be."""
        return "none" if self._settings.sandbox == "none" else (self._no_sandbox or "bubblewrap")

    def swap(self) -> str | None:
        """What is wrong with swap, None where nothing is."""
        areas = swap_status().unencrypted
        if not areas:
            return None
        return f"swap without encryption is on: {', '.join(area.path for area in areas)}"
