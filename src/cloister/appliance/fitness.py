"""Whether this machine may start anything now: vault, ledger, audit sinks, sandbox, swap. It starts nothing."""

from __future__ import annotations

import asyncio
import contextlib

from cloister.appliance.exporting import Exporting
from cloister.appliance.recorder import Recorder
from cloister.appliance.seal import Seal
from cloister.errors import CloisterError, SandboxUnavailable
from cloister.launcher.client import LauncherClient
from cloister.policy import Settings
from cloister.sandbox import swap_status

NOT_ASKED = "the launcher, which builds the sandboxes, has not answered yet"


class Fitness:
    """Asked anew before each start; whether a sandbox can be built is what the launcher said last."""

    def __init__(
        self,
        settings: Settings,
        seal: Seal,
        recorder: Recorder,
        exporting: Exporting,
        launcher: LauncherClient,
    ) -> None:
        self._launcher = launcher
        self._settings = settings
        self._seal = seal
        self._recorder = recorder
        self._exporting = exporting
        self._no_sandbox = NOT_ASKED if settings.sandbox == "required" else None

    async def ask(self) -> None:
        """Ask the launcher, which builds the sandboxes. Errors: Unavailable where it does not answer."""
        answer = await self._launcher.ping()
        if self._settings.sandbox == "required":
            self._no_sandbox = answer

    async def ask_until_answered(self) -> None:
        """Right after a start, when the launcher may just be starting as well."""
        while self._no_sandbox is NOT_ASKED:
            with contextlib.suppress(CloisterError):
                await self.ask()
            await asyncio.sleep(0.2)

    def require_record(self) -> None:
        """Errors: Locked, LedgerUnavailable or OutOfSpace where nothing can be opened or recorded."""
        _ = self._seal.vault
        self._recorder.require()
        self._exporting.refuse()

    def require(self) -> None:
        """Errors: those, and SandboxUnavailable, where nothing new may start."""
        self.require_record()
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
