"""Looking into datasets and making new ones of them, through the real sockets and sandboxes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.cli.cli_shell import Shell
from tests.conftest import Appliance, import_base, import_rows, short_run

from cloister.api import (
    Chosen,
    ClassifyRequest,
    DatasetReport,
    DeriveConfig,
    DeriveRequest,
    HoldRequest,
    ReportConfig,
    ReportRequest,
    RowsConfig,
    ShredRequest,
)
from cloister.demo.search import find_bytes
from cloister.errors import Conflict, Denied, InvalidInput, NotFound
from cloister.policy import load_settings

CANARY = "canary-77aa01c4e2"
NAMES = ("Anna Weber", "John Taylor", "Petra Schneider", "Thomas Baker")


def rows(count: int = 40, tag: str = "") -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [
        {
            "messages": [
                {
                    "role": "user",
                    "content": f"My name is {NAMES[n % 4]}{tag}, policy PX-{100000 + n}, tell me about the topic "
                    f"{n * 7919} of {CANARY} please, with all that there is to say on subject {n}.",
                },
                {"role": "assistant", "content": f"It is about {NAMES[n % 4]} and number {n}."},
            ]
        }
        for n in range(count)
    ]
    return made


def last(appliance: Appliance, action: str) -> Any:
    newest = appliance.client.ledger().entries
    found = appliance.client.entries(max(0, newest - 300), 300)
    return [entry for entry in found if entry.action == action][-1]


def shown(appliance: Appliance, name: str, *numbers: int, labels: bool = False) -> list[dict[str, Any]]:
    reading, writing = os.pipe()
    try:
        appliance.client.show_rows(name, RowsConfig(rows=numbers, labels=labels), writing)
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        return [json.loads(line) for line in pipe]


def derived(appliance: Appliance, source: str, name: str, *others: str, **config: Any) -> Any:
    request = DeriveRequest(name=name, config=DeriveConfig(**config), others=others)
    appliance.client.finished_job(appliance.client.derive(source, request).job_id)
    return appliance.client.dataset(name)


def loaded_and_cached() -> set[str | tuple[str, float]]:
    """Modules of the recognisers that this process has loaded, and files with their times in the account's cache."""
    files = (Path.home() / ".cache" / "python-tldextract").rglob("*")
    return {name for name in sys.modules if name.startswith("presidio_analyzer")} | {
        (str(path), path.stat().st_mtime) for path in files
    }


@pytest.fixture(scope="module")
def before() -> set[str | tuple[str, float]]:
    """What other tests of this process, or other programs of this account, left."""
    return loaded_and_cached()


@pytest.fixture(scope="module")
def held(appliance: Appliance, before: object) -> Appliance:
    repeated = rows(40)
    repeated += [repeated[0], repeated[1]]  # equal
    other = json.loads(json.dumps(repeated[2]))
    other["messages"][1]["content"] = "Something else."
    near = json.loads(json.dumps(repeated[3]))
    near["messages"][0]["content"] = near["messages"][0]["content"].replace("all that", "everything that")
    import_rows(appliance.client, "letters", [*repeated, other, near], holdout=0.25)
    import_rows(appliance.client, "more", rows(10, " the second"), holdout=0.25)
    import_base(appliance.client)
    return appliance


def test_a_report_has_the_numbers_and_no_text(held: Appliance) -> None:
    client = held.client
    with pytest.raises(NotFound, match="nobody has looked"):
        client.last_report("letters")
    config = ReportConfig(personal=True, max_length=64)
    job = client.finished_job(client.report("letters", ReportRequest(config=config, base="small")).job_id)
    found = DatasetReport.model_validate(job.result)
    assert (found.rows, found.task, found.turns) == (44, "chat", {2: 44})
    assert found.train_rows + found.holdout_rows == 44
    assert found.repeats is not None and found.near is not None
    assert (found.repeats.duplicates, found.repeats.conflicting_inputs, found.repeats.one_in) == (2, 1, 1)
    assert found.repeats.leaked == 0
    assert (found.near.compared, found.near.similar) == (44, 1)
    assert found.near.first == [43]
    assert found.tokens is not None and sum(count for _, count in found.tokens.histogram) == 44
    over = found.lost["is longer than 64 tokens"]
    assert 0 < over <= 44 and found.tokens.longest > 64
    assert found.personal is not None and found.personal.rows == 44
    assert found.personal.found["name"] == {"user": 44, "assistant": 43}
    assert found.personal.found["record_number"] == {"user": 44}
    assert client.last_report("letters") == found
    entry = last(held, "dataset.report")
    assert client.dataset("letters").object_id in entry.objects and entry.details["personal"] is True
    assert CANARY not in json.dumps(job.result)


def test_rows_are_entered_before_they_are_shown_and_labels_are_content(held: Appliance) -> None:
    found = shown(held, "letters", 3, 0)
    assert [row["row"] for row in found] == [3, 0]
    assert found[1]["messages"] == rows(1)[0]["messages"] and found[1]["side"] in ("train", "holdout")
    entry = last(held, "dataset.reveal")
    assert entry.details["rows"] == [3, 0] and entry.objects == [held.client.dataset("letters").object_id]
    seen = last(held, "job.rows")
    assert entry.index < seen.index
    with pytest.raises(InvalidInput, match="there is no row 44"):
        shown(held, "letters", 44)


def test_a_row_is_rendered_as_a_run_learns_it_and_entered_like_one_that_is_shown(held: Appliance) -> None:
    client, shell = held.client, Shell(held.home.root)
    where = ("dataset", "render", "letters", "--base", "small", "--row", "3")
    found = shell.json(*where, "--max-length", "8")
    question, answer = (message["content"] for message in rows(4)[3]["messages"])
    told = [(span["supervised"], span["text"]) for span in found["spans"]]
    assert [answer in text for learnt, text in told if learnt] == [True]
    assert any(question in text for learnt, text in told if not learnt)
    assert found["row"] == 3 and found["fits"] is False and 0 < found["supervised"] < found["tokens"]
    entry = last(held, "dataset.reveal")
    assert entry.details["rows"] == [3] and entry.details["rendered"] is True
    assert entry.objects == [client.dataset("letters").object_id, client.base("small").object_id]
    assert entry.index < last(held, "job.render").index
    assert CANARY not in json.dumps([job.model_dump(mode="json") for job in client.jobs()])
    every = shell.json(*where, "--loss-on", "all")
    assert every["supervised"] + 1 == every["tokens"] == found["tokens"] and every["fits"] is True
    assert not every["spans"][0]["supervised"]  # the first token has nothing to be predicted from
    shown = shell(*where).stdout
    assert f"⟦{answer}" in shown and f"⟦{question}" not in shown and "\x1b" not in shown
    assert "no special token" in shell(*where, "--template", "qwen3", code=2).stderr


def test_a_derived_dataset_is_of_its_parents(held: Appliance) -> None:
    client = held.client
    chosen = Chosen(matching=(f"policy PX-10001[0-9].*{CANARY}",), not_matching=("topic 79190",))
    made = derived(held, "letters", "teens", chosen=chosen)
    assert made.counts["rows"] == 9 and made.counts["not_chosen"] == 35
    assert made.inputs == [client.dataset("letters").object_id]
    entry = last(held, "dataset.derive")
    assert entry.details["steps"] == ["rows by pattern"] and CANARY not in json.dumps(entry.model_dump())
    assert find_bytes([CANARY.encode()], [held.home.root]) == []
    sides = {row["row"]: row["side"] for row in shown(held, "letters", *range(11, 20))}
    assert [row["side"] for row in shown(held, "teens", *range(9))] == [sides[n] for n in range(11, 20)]
    # It is kept as strictly as its parents, follows them when they become stricter, and goes with them.
    assert made.classification == "confidential"
    with pytest.raises(InvalidInput, match="is confidential, or stricter"):
        client.derive("letters", DeriveRequest(name="milder", classification="public"))
    import_rows(client, "parent", rows(12))
    derived(held, "parent", "child", sample=5)
    derived(held, "child", "grandchild", side="train")
    client.classify("parent", ClassifyRequest(classification="restricted"))
    assert client.dataset("grandchild").classification == "restricted"
    with pytest.raises(Conflict):
        derived(held, "parent", "child")
    hold = client.hold("parent", HoldRequest(reason="case 12"))
    with pytest.raises(Conflict):
        client.shred("datasets", "grandchild", ShredRequest(confirm="grandchild"))
    client.release(hold.hold_id)
    client.shred("datasets", "parent", ShredRequest(confirm="parent"))
    assert not {"parent", "child", "grandchild"} & {d.name for d in client.datasets()}


def test_personal_data_is_exchanged_and_training_on_it_waits_for_that(held: Appliance) -> None:
    client = held.client
    redacted = derived(held, "letters", "redacted", personal="redact")
    assert redacted.counts["rows_rewritten"] == 44
    text = json.dumps(shown(held, "redacted", 0))
    assert "[NAME]" in text and "[RECORD_NUMBER]" in text and "Weber" not in text
    derived(held, "letters", "replaced", personal="replace", rows=[(0, 7)])
    derived(held, "more", "replaced-too", personal="replace")
    first, again = shown(held, "replaced", 0, 4)
    name = first["messages"][1]["content"].removeprefix("It is about ").removesuffix(" and number 0.")
    assert name != "Anna Weber" and f"My name is {name}, policy PX-" in first["messages"][0]["content"]
    assert name in again["messages"][1]["content"]  # the same person
    assert name in shown(held, "replaced-too", 0)[0]["messages"][0]["content"]  # in every dataset
    # By the shipped policies restricted rows are learnt only once what was found is exchanged.
    client.classify("letters", ClassifyRequest(classification="restricted"))
    scan = ReportRequest(config=ReportConfig(quality=False, personal=True))
    client.finished_job(client.report("letters", scan).job_id)
    with pytest.raises(Denied) as refused:
        client.start_run(short_run("refused", dataset="letters"))
    assert "personal-data-in-restricted-rows-is-exchanged-first" in (refused.value.remedy or "")
    assert last(held, "access.deny").details["asked"] == "run.start"
    with pytest.raises(Denied):  # what was found in the parent is in the child
        client.start_run(short_run("refused", dataset="teens"))
    for name in ("redacted", "replaced"):
        assert client.dataset(name).classification == "restricted"
        run = client.start_run(short_run(f"on-{name}", dataset=name, max_steps=1))
        client.cancel_run(run.run_id)


def test_corrections_come_on_a_descriptor(held: Appliance, tmp_path: Path) -> None:
    shell = Shell(held.home.root)
    file = tmp_path / "corrections.jsonl"
    file.write_text('{"row": 1, "answer": "Corrected."}\n{"row": 0, "leave_out": true}\n')
    shell("dataset", "derive", "more", "--name", "mended", "--corrections", str(file))
    assert held.client.dataset("mended").counts["rows"] == 9
    out = shell("dataset", "show", "mended", "--rows", "1").stdout
    assert "[assistant] Corrected." in out and "John Taylor the second" in out
    more = held.client.dataset("more").object_id
    told = shell("dataset", "show", "mended").stdout
    assert f"more ({more})" in told.split("made of")[1].splitlines()[0], "of what it was made"
    assert "made of" not in shell("dataset", "show", "more").stdout
    shell("dataset", "derive", "more", "--merge", "mended", "--name", "twofold", "--redact")
    told = shell("dataset", "show", "twofold").stdout
    assert (
        "more (" in told
        and "mended (" in told
        and "{" not in told
        and "name " in told.split("personal data")[1]
        and "; redacted" in told
    )


def test_the_command_line_tells_and_shows(held: Appliance) -> None:
    shell = Shell(held.home.root)
    out = shell("dataset", "report", "more", "--personal").stdout
    assert "10 rows" in out and "█" in out and "Personal data in 10 of 10 rows" in out and CANARY not in out
    found = shell.json("dataset", "scan", "more")
    assert found["found"]["name"]["user"] == 10
    hostile = "\x1b[31mred\u202e\x07"
    import_rows(
        held.client, "hostile", [{"prompt": f"say {hostile} {n}", "completion": "ok"} for n in range(2)]
    )
    shown_text = shell("dataset", "show", "hostile", "--row", "1").stdout
    assert (
        "\\x1b[31mred\\u202e\\x07" in shown_text and "\x1b" not in shown_text and "\u202e" not in shown_text
    )
    assert (
        shell.json("dataset", "show", "hostile", "--row", "0")[0]["messages"][0]["content"]
        == f"say {hostile} 0"
    )
    where = json.dumps({"matching": ["PX-10000[0-4]"]})
    made = shell.json(
        "dataset", "derive", "more", "--name", "five", "--where-fd", "0", "--rows", "0-3,8", stdin=where
    )
    assert made["counts"]["rows"] == 4


def test_where_the_settings_folder_stands_no_cache_is_written(
    held: Appliance, before: set[str | tuple[str, float]]
) -> None:
    """The recognisers ran in sandboxes above; nothing of them lies in the account's cache."""
    assert loaded_and_cached() == before
    assert load_settings(held.home.settings_file).sandbox == "required"
