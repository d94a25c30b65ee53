"""What jobs and deployments both stand on, put together once by the authority. It decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from cloister.appliance.catalogue import Catalogue
from cloister.appliance.devices import Devices
from cloister.appliance.recorder import Recorder
from cloister.appliance.seal import Seal
from cloister.appliance.store import StateStore
from cloister.home import Home
from cloister.launcher.client import LauncherClient
from cloister.policy import Settings


@dataclass(frozen=True)
class Parts:
    """One home's parts."""

    home: Home
    settings: Settings
    state: StateStore
    seal: Seal
    recorder: Recorder
    catalogue: Catalogue
    launcher: LauncherClient
    devices: Devices
