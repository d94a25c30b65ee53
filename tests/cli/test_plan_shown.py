"""`cloister plan`: what it prints of a plan, nothing of it left out."""

from __future__ import annotations

import pytest

from cloister.api import PlanPart, RunPlan, RunRequest, ServePlan, TrainConfig
from cloister.cli import plan


@pytest.mark.parametrize("fits", [True, False])
def test_time_money_and_measuring_are_told_beside_memory(
    fits: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    found = RunPlan(
        device="cpu",
        parts=[PlanPart(name="rows", bytes=5 << 30, of="1073741824 tokens, 5 bytes each")],
        memory=6 << 30,
        memory_measured=False,
        available=(8 if fits else 4) << 30,
        fits=fits,
        rows=4711,
        tokens=1 << 30,
        lengths_measured=True,
        steps=295,
        seconds=7200,
        seconds_low=3600,
        seconds_high=14400,
        time_measured=False,
        measuring_seconds=600,
        measuring_measured=True,
        energy_kwh=1.25,
        money=12.5,
        staff_money=10.0,
        serve=ServePlan(memory=3 << 30, available=4 << 30, fits=True),
        notes=["The longest row has 9 tokens."],
    )
    plan._print(found)
    told = capsys.readouterr()
    shown = " ".join((told.out + told.err).split())
    for wanted in (
        "rows 5.0 GiB 1073741824 tokens, 5 bytes each",
        "295", "4711 rows", "counted", "time", "estimated", "measuring", "by evaluations on this machine",
        "1.25 kWh", "12.50 EUR 10.00 of it for people's hours on the data", "the merged model fits",
        "! The longest row has 9 tokens.",
    ):  # fmt: skip
        assert wanted in shown, wanted
    assert ("It fits." in shown) == fits
    asked = RunRequest(name="n", dataset="d", base="b", train=TrainConfig(template="chatml", loss_on="last"))
    counting = plan._counting(asked)
    assert counting == "cloister dataset report d --base b --template chatml --loss-on last"
    plan._print(found, counting)
    assert counting not in capsys.readouterr().err, "they were counted"
    plan._print(found.model_copy(update={"lengths_measured": False}), counting)
    assert f"`{counting}` counts them" in capsys.readouterr().err
    plan._print(found.model_copy(update={"fits": True, "refused": True}))
    assert "It fits, and would be refused all the same." in capsys.readouterr().err
