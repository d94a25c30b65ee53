"""How the appliance stands: processes, devices, ledgers, deployments, and its name on screens.

What happens from then on is in `events`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from cloister.api.ledger import LedgerStatus, SinkStatus
from cloister.api.serving import Deployment


class ProcessStatus(BaseModel):
    name: str
    state: Literal["running", "stopped", "unknown"]
    pid: int | None = None
    detail: str | None = None


class GpuStatus(BaseModel):
    """A GPU as its driver tells of it; null is what it does not tell. Memory in bytes; errors since its last reset.

    `number` is that of `/dev/nvidiaN` and of the device `cuda:N`, `index` the one that `nvidia-smi` goes by. `holders`
    are ids of jobs and deployments. `problem`: lost, reset-required, unreadable; unknown while no driver answers.
    """

    number: int
    index: int
    name: str = ""
    memory_used: int | None = None
    memory_total: int | None = None
    utilisation_percent: int | None = None
    temperature_c: int | None = None
    slowdown_c: int | None = None
    power_w: float | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    repair_pending: bool = False
    repair_failed: bool = False
    throttled_by: list[str] = []
    recovery: str | None = None
    problem: str | None = None
    holders: list[str] = []


BannerColour = Literal["grey", "green", "blue", "amber", "red", "magenta"]


class Environment(BaseModel):
    """What this appliance is called on screens, and the colour of the banner with that name."""

    name: str | None = None
    colour: BannerColour = "grey"


class Status(BaseModel):
    version: str
    home: str
    initialised: bool
    locked: bool
    sandbox: str
    ledger: LedgerStatus
    processes: list[ProcessStatus]
    jobs: dict[str, int]
    deployments: list[Deployment]
    last_seq: int
    gateway_url: str | None = None
    warnings: list[str] = []
    sinks: list[SinkStatus] = []
    gpus: list[GpuStatus] = []
    environment: Environment = Environment()
