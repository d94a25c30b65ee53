"""What an older version froze, asked for and had approved means to this one what it meant, and keeps its digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from authority_world import PROGRAM
from gates import APPROVER, Gates, gated, needed
from sqlalchemy import select

from cloister.api import EvaluateConfig, JobState, ObjectKind, RunRequest, TrainConfig
from cloister.appliance.classifying import classify
from cloister.appliance.state import ApprovalRow, JobRow, ObjectRow, RunRow
from cloister.errors import Conflict
from cloister.ledger.entry import canonical_json

FIRST: dict[str, Any] = {
    "method": "qlora",
    "lora": {"rank": 8, "alpha": 32.0, "dropout": 0.0},
    "epochs": 2.0,
    "max_steps": None,
    "learning_rate": 0.0002,
    "warmup_ratio": 0.05,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "batch_size": 16,
    "micro_batch_size": 16,
    "max_length": 1024,
    "gradient_checkpointing": False,
    "eval_every": 0,
    "checkpoint_every": 0,
    "seed": 7,
}
"""A training's settings as the first version that froze any wrote them down."""
EVALUATE = {"max_rows": 0, "max_new_tokens": 96, "batch_size": 64, "seed": 0}
TELLS = PROGRAM.replace("while not", "(folder / 'ran').write_text(json.dumps(job['config']))\nwhile not", 1)


def digest_then(gates: Gates, inputs: dict[str, ObjectRow], classification: str) -> str:
    """The digest of that training as the first version froze it."""
    pins = {
        role: {"id": row.object_id, "version": row.version, "manifest": row.manifest_sha256}
        for role, row in inputs.items()
    }
    whole = {
        "action": "run.start",
        "kind": "Run",
        "thing": "old",
        "name": "old",
        "classification": classification,
        "policies": gates.world.authority.guard.policies.digest,
        "pinned": {**pins, "train": FIRST, "evaluate": EVALUATE},
    }
    return hashlib.sha256(canonical_json(whole)).hexdigest()


async def asked_then(gates: Gates) -> str:
    """A request for that training, as that version left it: it waits for its approval."""
    world = gates.world
    data, base = world.stored(ObjectKind.DATASET, "notes"), world.stored(ObjectKind.BASE, "small")
    with world.authority.state.change() as change:
        classify(change, data, "restricted", "x")
    approval = await needed(gates.train(asking()))
    with world.authority.state.change() as change:
        row = change.session.get_one(ApprovalRow, approval)
        stored = {
            "dataset": change.session.get_one(ObjectRow, (data, 1)),
            "base": change.session.get_one(ObjectRow, (base, 1)),
        }
        digest = digest_then(gates, stored, "restricted")
        row.document = row.document.replace(row.digest, digest)
        row.digest = digest
        row.request = {
            "name": "old", "dataset": "notes", "base": "small", "holdout": None,
            "train": FIRST, "evaluate": EVALUATE, "priority": 0,
        }  # fmt: skip
    return approval


def asking() -> RunRequest:
    return RunRequest(
        name="old",
        dataset="notes",
        base="small",
        train=TrainConfig.frozen(FIRST),
        evaluate=EvaluateConfig.model_validate(EVALUATE),
    )


def test_what_was_not_named_is_as_it_was_done_then() -> None:
    then = TrainConfig.frozen(FIRST)
    assert (then.packing, then.lora.rslora, then.lora.dora, then.processes) == ("off", False, False, 1)
    now = TrainConfig(packing="auto")
    assert TrainConfig.frozen(now.model_dump()) == now == TrainConfig()


@gated
async def test_what_was_asked_of_an_older_version_is_approved_and_done(gates: Gates) -> None:
    approval = await asked_then(gates)
    assert await needed(gates.train(asking())) == approval, "asked again, it is that request"
    digest = gates.register.one(approval).digest
    await gates.approve(APPROVER, approval)
    run = await gates.train(asking())
    assert gates.register.one(approval).state == "used" and gates.register.one(approval).digest == digest
    await gates.world.runs(run.train_job.job_id)


@gated
async def test_a_run_that_an_older_version_queued_starts_under_its_approval_and_as_it_was_frozen(
    gates: Gates,
) -> None:
    world = gates.world
    (world.home.root / "program.py").write_text(TELLS)
    approval = await asked_then(gates)
    await gates.approve(APPROVER, approval)
    world.authority.queue.paused = True
    job_id = (await gates.train(asking())).train_job.job_id
    with world.authority.state.change() as change:
        change.session.scalars(select(RunRow).where(RunRow.name == "old")).one().train = FIRST
        change.session.get_one(JobRow, job_id).config = FIRST
    shown = world.authority.overview.run("old")
    assert shown.train.packing == "off"
    world.authority.queue.paused = False
    world.go.touch()
    await world.reaches(job_id, JobState.DONE)
    ran = json.loads((world.home.root / "ran").read_text())
    assert ran["packing"] == "off" and {name: ran[name] for name in FIRST if name != "lora"} == {
        name: value for name, value in FIRST.items() if name != "lora"
    }
    entries = [
        entry for entry in world.authority.ledger.entries(0, 10_000) if entry["action"] == "job.refused"
    ]
    assert not entries


@gated
async def test_what_an_older_version_did_not_do_is_another_thing(gates: Gates) -> None:
    approval = await asked_then(gates)
    await gates.approve(APPROVER, approval)
    packed = asking().model_copy(update={"train": TrainConfig.frozen({**FIRST, "packing": "auto"})})
    assert await needed(gates.train(packed)) != approval


@gated
async def test_what_this_version_does_not_know_any_more_is_void(gates: Gates) -> None:
    approval = await asked_then(gates)
    with gates.world.authority.state.change() as change:
        row = change.session.get_one(ApprovalRow, approval)
        row.request = {**row.request, "train": {**FIRST, "quantum": True}}
    with pytest.raises(Conflict, match="cannot do what was asked for"):
        await gates.approve(APPROVER, approval)
    assert gates.register.one(approval).state == "void"


@gated
async def test_an_approver_is_shown_what_is_not_as_usual(gates: Gates) -> None:
    await asked_then(gates)
    request = asking().model_copy(
        update={"name": "new", "train": TrainConfig(loss_on="all", lora={"rank": 4, "dora": True})}
    )  # type: ignore[arg-type]
    shown = gates.register.one(await needed(gates.train(request)))
    (line,) = [line for line in shown.summary if line.startswith("not as usual")]
    assert line == "not as usual: loss_on all, lora.dora True" and line in shown.document
    usual = gates.register.one(
        await needed(gates.train(request.model_copy(update={"name": "plain", "train": TrainConfig()})))
    )
    assert not [line for line in usual.summary if "not as usual" in line]
