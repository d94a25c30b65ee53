"""What the settings have imports do about personal data, by class."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Appliance, import_base, short_run, start_appliance

from cloister import embedded
from cloister.api import ClassifyRequest, DatasetImport, ImportConfig, RowsConfig
from cloister.errors import Denied, InvalidInput
from cloister.home import Home

ROWS = [
    {"prompt": f"My name is Anna Weber, claim {n}, mail anna@example.com", "completion": "ok"}
    for n in range(8)
]


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Appliance]:
    home = Home(tmp_path)
    home.make()
    home.settings_file.write_text(
        "data:\n  personal:\n    internal: look\n    confidential: replace\n    restricted: refuse\n"
    )
    started = start_appliance(tmp_path, gateway=False)
    yield started
    started.client.close()
    embedded.stop(started.home)


def brought_in(appliance: Appliance, name: str, classification: Any, rows: list[dict[str, str]]) -> Any:
    source = os.memfd_create("rows")
    with os.fdopen(source, "wb") as file:
        file.writelines(json.dumps(row).encode() + b"\n" for row in rows)
        file.flush()
        file.seek(0)
        config = ImportConfig(source_name="rows.jsonl")
        request = DatasetImport(name=name, config=config, classification=classification)
        job = appliance.client.import_dataset(request, {"source": file.fileno()})
    return appliance.client.finished_job(job.job_id)


def test_each_class_gets_what_its_settings_say(asked: Appliance) -> None:
    client = asked.client
    looked = brought_in(asked, "looked", "internal", ROWS)
    assert looked.result["personal"] == {
        "looked_at": 8,
        "rows": 8,
        "found": {"email": {"user": 8}, "name": {"user": 8}},
    }
    with pytest.raises(InvalidInput, match=r"8 rows hold personal data \(email 8, name 8\)") as refused:
        brought_in(asked, "refused", "restricted", ROWS)
    assert "Weber" not in str(refused.value) and "refused" not in {d.name for d in client.datasets()}
    brought_in(
        asked, "clean", "restricted", [{"prompt": f"letter {n}", "completion": "ok"} for n in range(8)]
    )
    brought_in(asked, "replaced", "confidential", ROWS)
    became = {name: client.dataset(name).details.get("personal_became") for name in ("looked", "replaced")}
    assert became == {"looked": None, "replaced": "replaced by made-up values"}, (
        "what was found is gone from it"
    )
    reading, writing = os.pipe()
    client.show_rows("replaced", RowsConfig(rows=(0,)), writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        shown = pipe.read()
    assert b"Weber" not in shown and b"anna@example.com" not in shown and b"My name is " in shown
    told = [e for e in client.entries(0, 500) if e.action == "dataset.import"]
    assert [e.details["personal"] for e in told] == ["look", "refuse", "refuse", "replace"]
    # What was counted at the import is what the policies hear of later.
    import_base(client)
    for name in ("looked", "replaced"):
        client.classify(name, ClassifyRequest(classification="restricted"))
    with pytest.raises(Denied):
        client.start_run(short_run("no", dataset="looked"))
    for name in ("replaced", "clean"):
        run = client.start_run(short_run(f"on-{name}", dataset=name, max_steps=1))
        client.cancel_run(run.run_id)
