"""`dataset curve` through the socket: ordinary runs, asked for once, gathered when they are done."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest
from authority_world import World, at_socket, moment
from gates import APPROVER, Gates, gated
from sqlalchemy import select
from tests.cli.cli_shell import Shell

from cloister.api import JobState, Run, TrainConfig
from cloister.appliance.classifying import classify
from cloister.appliance.peer import Peer
from cloister.appliance.state import JobRow, ObjectRow, RunRow
from cloister.cli.learning import _sizes, gathered
from cloister.errors import InvalidInput
from cloister.policy.roles import Standing

ASKED = ("dataset", "curve", "rows", "--base", "base", "--sizes", "10,20,40", "--seeds", "2", "--epochs", "2")


def counted(world: World) -> None:
    with world.authority.state.change() as change:
        row = change.session.scalars(select(ObjectRow).where(ObjectRow.name == "rows")).one()
        row.counts = {"rows": 50, "train_rows": 40, "holdout_rows": 10}


def runs(world: World) -> dict[str, TrainConfig]:
    with world.authority.state.read() as session:
        return {row.name: TrainConfig.model_validate(row.train) for row in session.scalars(select(RunRow))}


@moment
async def test_the_family_is_queued_once_and_gathered_when_it_is_done(world: World) -> None:
    counted(world)
    world.authority.queue.paused = True
    shell = Shell(world.home.root)
    async with at_socket(world):
        told = (await asyncio.to_thread(shell, *ASKED, "--json")).stdout
        names = [f"rows-curve-{size}-s{seed}" for seed in (0, 1) for size in (40, 20, 10)]
        assert json.loads(told) == {"name": "rows-curve", "started": names, "approvals": {}}
        assert list(runs(world)) == names
        assert world.actions().count("run.start") == 6
        one = runs(world)["rows-curve-20-s1"]
        assert (one.max_rows, one.seed, one.epochs) == (20, 1, 2)
        again = (await asyncio.to_thread(shell, *ASKED, "--json")).stdout
        assert json.loads(again)["started"] == [] and world.actions().count("run.start") == 6
        refused = await asyncio.to_thread(shell, *ASKED[:-1], "3", code=4)
        assert "other data or settings" in refused.stderr
        await asyncio.to_thread(shell, *ASKED[:6], "10,41", code=2)
        with world.authority.state.change() as change:
            for job in change.session.scalars(select(JobRow).where(JobRow.verb == "train")):
                learnt = TrainConfig.model_validate(job.config)
                job.state = JobState.DONE
                job.result = {"holdout_loss": 0.5 + 4 / learnt.max_rows + 0.001 * learnt.seed}
        show = ("dataset", "curve", "rows", "--show")
        found = json.loads((await asyncio.to_thread(shell, *show, "--json")).stdout)
        assert [(line["rows"], line["runs"], line["asked"]) for line in found["sizes"]] == [
            (10, 2, 2), (20, 2, 2), (40, 2, 2)
        ]  # fmt: skip
        assert found["curve"]["gain"]["value"] == pytest.approx(0.05, rel=0.1)
        text = (await asyncio.to_thread(shell, *show)).stdout
        assert "2 of 2" in text and "The largest part has 40 rows" in text and "10 held-out rows" in text


@gated
async def test_runs_that_take_an_approval_ask_for_it_one_by_one_and_start_once_it_is_given(
    gates: Gates,
) -> None:
    world = gates.world
    counted(world)
    world.authority.queue.paused = True
    everybody = world.authority.guard.standing

    async def standing(peer: Peer) -> Standing:  # whoever types here is a trainer
        return (
            Standing(peer.account, frozenset({"trainer"}))
            if peer.uid == os.getuid()
            else await everybody(peer)
        )

    world.authority.guard.standing = standing  # type: ignore[method-assign]
    with world.authority.state.change() as change:
        row = change.session.scalars(select(ObjectRow).where(ObjectRow.name == "rows")).one()
        classify(change, row.object_id, "restricted", "x")
        row.details = {"personal": {"rows": 0}}
    few = (*ASKED[:6], "10,20", *ASKED[7:], "--json")
    shell = Shell(world.home.root)
    async with at_socket(world):
        said: Any = json.loads((await asyncio.to_thread(shell, *few)).stdout)
        assert said["started"] == [] and len(set(said["approvals"].values())) == 4
        assert runs(world) == {} and world.actions().count("run.start") == 0
        given = said["approvals"].pop("rows-curve-20-s0")
        await gates.approve(APPROVER, given)
        again: Any = json.loads((await asyncio.to_thread(shell, *few)).stdout)
    assert again["started"] == ["rows-curve-20-s0"] and again["approvals"] == said["approvals"]
    assert list(runs(world)) == ["rows-curve-20-s0"] and world.actions().count("run.start") == 1


def test_sizes_double_up_to_all_of_them() -> None:
    assert _sizes(None, 420) == [50, 100, 200, 400, 420]
    assert _sizes(None, 30) == [30]
    assert _sizes("20, 10,20", 20) == [10, 20]
    for given in ("0", "10,x", "-5", "21", ""):
        with pytest.raises(InvalidInput):
            _sizes(given, 20)


def test_a_share_is_told_as_it_is_and_its_errors_make_the_curve() -> None:
    now = "2026-01-01T00:00:00+00:00"
    job = {"job_id": "jb-1", "verb": "train", "state": "done", "subject": None, "requested_by": "x"}
    made = [
        Run.model_validate({
            "run_id": f"rn-{size}{seed}", "name": f"c-{size}-s{seed}", "dataset": "d", "base": "b", "holdout": None,
            "train": {"max_rows": size, "seed": seed}, "evaluate": {}, "created_at": now, "created_by": "x",
            "train_job": {**job, "created_at": now, "result": {"holdout_loss": 1.0 if seed else None}},
            "evaluation": {"rows": 100, "tuned": {"accuracy": 1 - 5 / size - 0.01 * seed, "exact_match": 0.1}},
        })
        for size in (20, 40, 80) for seed in (0, 1)
    ]  # fmt: skip
    found = gathered(made, None)
    assert found["metric"] == "accuracy" and found["holdout_rows"] == 100
    assert found["sizes"][0]["accuracy"]["value"] == pytest.approx(0.745)
    assert found["sizes"][0]["loss"] == {"value": 1.0, "low": None, "high": None}
    assert 0 < found["curve"]["gain"]["value"] < 0.05
    assert "error (accuracy)" in " ".join(found["sentences"]) and "±" in found["sentences"][-1]


def test_what_is_kept_of_a_run_that_went_wrong_is_no_point_of_the_curve() -> None:
    now = "2026-01-01T00:00:00+00:00"
    job = {"job_id": "jb-1", "verb": "train", "subject": None, "requested_by": "x", "created_at": now}
    made = [
        Run.model_validate({
            "run_id": f"rn-{size}", "name": f"c-{size}-s0", "dataset": "d", "base": "b", "holdout": None,
            "train": {"max_rows": size}, "evaluate": {}, "created_at": now, "created_by": "x", "adapter": "ad-1",
            "train_job": {**job, "state": state, "result": {"holdout_loss": 1.0}},
            "evaluation": {"rows": 100, "tuned": {"accuracy": 0.5}},
        })
        for size, state in ((20, "done"), (40, "failed"))
    ]  # fmt: skip
    good, wrong = gathered(made, "accuracy")["sizes"]
    assert good["runs"] == 1 and good["accuracy"]["value"] == 0.5
    assert (wrong["asked"], wrong["runs"], wrong["accuracy"]) == (1, 0, None)
