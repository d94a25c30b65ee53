"""What a run will take, before it starts: memory, time, energy, money.

Figures and advice; nothing here starts anything.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from cloister.api.evaluations import EvaluateConfig
from cloister.api.runs import TrainConfig
from cloister.api.words import Document


class PlanRequest(Document):
    """A run that might be started: its parts by name or id. `evaluate` None: nothing is measured after training."""

    dataset: str
    base: str
    holdout: str | None = None
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig | None = EvaluateConfig()


class PlanPart(BaseModel):
    """What one part of a run takes, in bytes; `of` says what it depends on."""

    name: str
    bytes: int
    of: str


class PlanAdvice(BaseModel):
    """A change of the settings, on top of those before it, what it costs, and the memory that is then needed."""

    change: dict[str, Any]
    costs: str
    memory: int
    fits: bool


class ServePlan(BaseModel):
    """Whether the merged model could be served on the same device: bytes for it, and what there is."""

    memory: int
    available: int
    fits: bool


class RunPlan(BaseModel):
    """What a run will take, before it starts. Bytes, seconds, kilowatt-hours, the settings' currency.

    `memory` is of each device, on a CPU of all `processes` together; time, energy and money are of the whole run:
    `seconds` of training, `measuring_seconds` of the evaluation after it.

    `memory_measured`, `time_measured`, `lengths_measured`, `measuring_measured`: whether that comes from what was
    measured on this machine, or is estimated. `money` and `energy_kwh` are None where the settings have no price;
    `staff_money` is what of the money the data take to be made ready. `refused`: the run would be, before its first
    step, for what `notes` says first.
    """

    device: str
    processes: int = 1
    parts: list[PlanPart]
    memory: int
    memory_measured: bool
    available: int
    fits: bool
    advice: list[PlanAdvice] = []
    rows: int
    tokens: int
    lengths_measured: bool
    steps: int
    seconds: float
    seconds_low: float
    seconds_high: float
    time_measured: bool
    measuring_seconds: float = 0.0
    measuring_measured: bool = False
    energy_kwh: float | None = None
    money: float | None = None
    staff_money: float | None = None
    currency: str = "EUR"
    serve: ServePlan
    refused: bool = False
    notes: list[str] = []
