"""One byte changed anywhere at rest: an error that names the file, and nothing else damaged."""

from __future__ import annotations

import random
import shutil
import zlib
from pathlib import Path

import pytest
from tests.conftest import short_run, start_appliance
from tests.pipeline.conftest import Pipeline

from cloister import embedded
from cloister.api import LockRequest, MergeConfig, MergeRequest
from cloister.errors import CloisterError, Tampered
from cloister.verifier import verify_log

pytestmark = pytest.mark.slow


def flip(path: Path, seed: int) -> bytes:
    """Change one bit of one byte; returns what was there."""
    original = path.read_bytes()
    generator = random.Random(seed)
    changed = bytearray(original)
    changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    path.write_bytes(changed)
    return original


@pytest.mark.parametrize("kind", ["dataset", "base", "adapter"])
@pytest.mark.parametrize("part", ["file", "manifest"])
def test_a_changed_input_stops_the_job_and_names_the_file(pipeline: Pipeline, kind: str, part: str) -> None:
    client = pipeline.appliance.client
    run = client.run("first")
    object_id = {"dataset": run.dataset, "base": run.base, "adapter": run.adapter}[kind]
    folder = pipeline.appliance.home.objects / kind / str(object_id) / "v1"
    if part == "manifest":
        path = folder / "manifest.json"
    else:
        name = {"dataset": "rows.bin", "base": "model.safetensors", "adapter": "best/adapter.safetensors"}[
            kind
        ]
        path = folder / name
    original = flip(path, seed=zlib.crc32(f"{kind} {part}".encode()))
    try:
        if kind == "dataset":  # training reads every row of it
            job = client.start_run(short_run(f"t-{kind}-{part}")).train_job
        else:
            job = client.merge(
                MergeRequest(name=f"t-{kind}-{part}", run="first", config=MergeConfig(max_rows=4))
            )
        with pytest.raises(CloisterError) as refused:
            client.finished_job(job.job_id)
        assert refused.value.code == Tampered.code
        assert path.name in str(refused.value.where)
    finally:
        path.write_bytes(original)


def test_a_changed_ledger_file_is_named_by_the_verifier(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.appliance.client.flush_ledger()
    source = pipeline.appliance.home.control_ledger
    key = (source / "vkey").read_text().strip()
    for number, original in enumerate(sorted(p for p in (source / "tile").rglob("*") if p.is_file())):
        copy = tmp_path / str(number)
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("lock"))
        victim = copy / original.relative_to(source)
        flip(victim, seed=number)
        report = verify_log(copy, key)
        assert report.problems, victim
        assert any(str(victim.relative_to(copy)) in problem for problem in report.problems), report.problems
    assert not verify_log(source, key).problems


def test_a_changed_key_slot_is_told_from_a_wrong_passphrase(tmp_path: Path) -> None:
    appliance = start_appliance(tmp_path / "home", gateway=False)
    try:
        appliance.client.lock(LockRequest())
        store = appliance.home.keys / "keystore.db"
        data = store.read_bytes()
        place = data.find(b'"salt"')
        assert place > 0
        changed = bytearray(data)
        changed[place + 12] ^= 1
        store.write_bytes(changed)
        with pytest.raises(Tampered) as refused:
            appliance.restart_authority()  # it has the sound page in its cache, and unlocks at its start
        assert "keystore.db" in str(refused.value.where)
        store.write_bytes(data)
        appliance.restart_authority()  # it has the damaged page in its cache
        assert not appliance.client.status().locked
    finally:
        appliance.client.close()
        embedded.stop(appliance.home)
