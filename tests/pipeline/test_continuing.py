"""A run that goes on from another, and one that is repeated on another base: what they need, and what follows them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.cli.cli_shell import Shell
from tests.conftest import Appliance, import_base, import_rows, short_run

from cloister.api import LoraConfig
from cloister.errors import Conflict, InvalidInput

pytestmark = pytest.mark.slow


def test_an_earlier_adapter_is_gone_on_from_and_lineage_follows(
    appliance: Appliance, claims: list[dict[str, Any]]
) -> None:
    client = appliance.client
    import_rows(client, "claims", claims[:120])
    import_rows(client, "others", claims[120:240])
    import_base(client)
    quick = {"evaluate": None}
    first = client.start_run(short_run("first", max_steps=4).model_copy(update=quick))
    before = client.finished_job(first.train_job.job_id).result
    asked = short_run("second", max_steps=4).model_copy(
        update={**quick, "dataset": "others", "from_run": "first"}
    )
    other_form = asked.train.model_copy(update={"lora": LoraConfig(rank=2)})
    with pytest.raises(InvalidInput, match="another form"):
        client.start_run(asked.model_copy(update={"train": other_form}))
    second = client.start_run(asked)
    after = client.finished_job(second.train_job.job_id).result
    assert second.from_run == first.run_id
    assert after["train_loss"] < before["train_loss"], "it began where the first ended"
    assert after["holdout_loss"] < before["holdout_loss"]

    # What came of the first's data goes with them, and counts as they do.
    plan = client.shred_plan("datasets", "claims")
    assert set(plan.runs.values()) == {"first", "second"}
    assert [item.kind for item in plan.items].count("adapter") == 2
    assert set(client.shred_plan("datasets", "others").runs.values()) == {"second"}

    with pytest.raises(Conflict, match="not the version"):
        client.start_run(asked.model_copy(update={"name": "third", "from_run": None, "rebase_of": "first"}))
    with pytest.raises(InvalidInput, match="nothing would come out otherwise"):
        client.start_run(short_run("again", max_steps=4).model_copy(update={**quick, "rebase_of": "first"}))
    again = client.start_run(
        short_run("again", max_steps=3).model_copy(update={**quick, "rebase_of": "first"})
    )
    client.cancel_run(again.run_id)
    # One that went on from another begins afresh when it is repeated: on its own base, too, that is another run.
    alone = asked.model_copy(update={"name": "alone", "from_run": None, "rebase_of": "second"})
    client.cancel_run(client.start_run(alone).run_id)

    # Typed: its name follows from both, and what it cannot take along is said.
    shell = Shell(appliance.home.root)
    told = shell("run", "rebase", "second", "--base", "small", "--template", "chatml", "--json")
    repeated = json.loads(told.stdout.splitlines()[-1])
    assert repeated["name"] == "second-small" and repeated["train"]["template"] == "chatml"
    assert "went on from another run" in told.stderr and repeated["from_run"] is None
    client.cancel_run(repeated["run_id"])
    path = appliance.home.root.parent / "more.yaml"
    path.write_text("name: more\ndataset: others\nfrom_run: first\n")
    assert shell.json("plan", str(path))["fits"], "the base is that of the run it goes on from"
