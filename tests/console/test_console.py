"""The console over a real authority: every screen in its states, by keys alone."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
from console_world import console, shown, type_in, until
from real_terminal import console_at
from tests.conftest import PASSPHRASE, Appliance, import_base, import_rows, short_run, start_appliance

from cloister import embedded
from cloister.api import Encoding, Job, LockRequest
from cloister.client import Client
from cloister.console.asking_import import files_in
from cloister.errors import InvalidInput
from cloister.home import Home
from cloister.verifier import parse_vkey, verify_proof

ENCODINGS = get_args(Encoding)

ROWS = [
    {"messages": [{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": "a"}]}
    for i in range(40)
]

BASIS = re.compile(r"estimated|s, measured")
"""Of the time in a plan: where a run was here before, what that one took."""


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """A base, a dataset and a run that fails quickly; a client."""
    started = start_appliance(tmp_path_factory.mktemp("home"), gateway=False)
    import_base(started.client)
    import_rows(started.client, "claims", ROWS)
    yield started
    started.client.close()
    embedded.stop(started.home)


def test_an_empty_appliance_is_led_to_its_first_data(tmp_path: Path) -> None:
    """From no vault at all: arm, initialise, add a base, by keys alone; a wrong key is only a word."""
    home = Home(tmp_path / "home")
    embedded.start(home, gateway=False)
    from tests.conftest import BASE_FOLDER

    async def walk() -> None:
        async with console(home.authority_socket) as (app, pilot):
            await until(app, lambda text: "Welcome" in text and "no vault yet" in text)
            await pilot.press("v")
            await until(app, lambda text: "Read-only: press w" in text)
            await pilot.press("w", "v")
            await until(app, lambda text: "Make the vault" in text)
            await type_in(pilot, PASSPHRASE)
            await pilot.press("enter")
            await type_in(pilot, PASSPHRASE)
            await pilot.press("enter")
            await until(app, lambda text: "● open" in text and "done" in text)
            await pilot.press("b")
            await until(app, lambda text: "Add a base model" in text)
            await type_in(pilot, str(BASE_FOLDER))
            await pilot.press("enter")
            await type_in(pilot, "small")
            await pilot.press("enter")
            await until(app, lambda text: "small is in" in text)
            source = tmp_path / "claims.jsonl"
            source.write_text('{"prompt": "a", "completion": "b"}\n' * 20 + '{"prompt": "a"}\n')
            await pilot.press("i")
            await until(app, lambda text: "Bring data in" in text)
            await type_in(pilot, str(source))
            await pilot.press("enter")
            await type_in(pilot, "claims")
            await pilot.press("enter", "enter", "down", "enter")  # do: a dry run
            await pilot.press(*["tab"] * 4, *["enter"] * 4, "tab", *["enter"] * 2)
            found = await until(app, lambda text: "claims.jsonl:21" in text)
            assert "A dry run of claims" in found and "× refused" in found
            await pilot.press("escape", "2")
            await until(app, lambda text: "No data yet" in text)

    try:
        asyncio.run(walk())
    finally:
        embedded.stop(home)


@pytest.mark.slow
def test_a_run_is_started_followed_and_opened(full: Appliance) -> None:
    full.client.start_run(short_run("first", epochs=4))  # some dozen steps: two points of a curve

    async def walk() -> None:
        async with console(full.home.authority_socket, size=(120, 40)) as (app, pilot):
            await pilot.press("3")
            await until(app, lambda text: "first" in text)
            await until(app, lambda text: "loss (line)" in text, seconds=240)  # they come with the numbers
            await until(app, lambda text: "held-out rows" in text, seconds=240)
            await pilot.press("enter")
            assert "evaluation  ● done" in await until(app, lambda text: "hold-out loss " in text)

    asyncio.run(walk())


def test_a_new_run_says_what_it_would_take(full: Appliance) -> None:
    before = len(full.client.runs())

    async def walk() -> None:
        async with console(full.home.authority_socket, size=(120, 40)) as (app, pilot):
            await pilot.press("3", "w")
            await until(app, lambda text: "ARMED" in text and "Reading" not in text)
            await until(app, lambda _: app.picture.datasets and app.picture.bases)
            await pilot.press("n")
            await until(app, lambda text: "● fits" in text and "steps" in text and BASIS.search(text))

    asyncio.run(walk())
    assert len(full.client.runs()) == before


def test_a_dataset_is_looked_at_and_its_rows_are_revealed(full: Appliance) -> None:
    async def walk() -> None:
        async with console(full.home.authority_socket) as (app, pilot):
            await pilot.press("2", "w")
            await until(app, lambda text: "claims" in text and "ARMED" in text)
            await pilot.press("o")
            await until(app, lambda text: "m looks at the dataset now" in text)
            await pilot.press("m", "tab", "tab", "enter")
            await until(app, lambda text: "Report of claims" in text and "40: " in text)
            await pilot.press("escape", "v", "tab", "enter")
            await until(app, lambda text: "go on the ledger" in text)
            await type_in(pilot, "claims")
            await pilot.press("enter")
            await until(app, lambda text: "row 3" in text and "user      │ q 3" in text)

    asyncio.run(walk())
    revealed = full.client.search_ledger(action="dataset.reveal").entries
    assert revealed and revealed[0].objects[:1] == [full.client.dataset("claims").object_id]


def test_a_shred_shows_its_lineage_and_asks_for_the_name(full: Appliance) -> None:
    import_rows(full.client, "goes", ROWS)

    async def walk() -> None:
        async with console(full.home.authority_socket) as (app, pilot):
            await pilot.press("2", "w")
            await until(app, lambda text: "goes" in text and "ARMED" in text)
            await pilot.press("slash")
            await type_in(pilot, "goes")
            await pilot.press("enter")
            await until(app, lambda text: "claims" not in text.replace("1 Overview", ""))
            await pilot.press("D")
            asked = await until(app, lambda text: "cannot be undone" in text)
            assert "goes" in asked and "dataset" in asked
            await type_in(pilot, "claims")
            await pilot.press("enter")
            await until(app, lambda text: "that is not its name" in text)
            await pilot.press(*["backspace"] * 6)
            await type_in(pilot, "goes")
            await pilot.press("enter")
            await until(app, lambda text: "Shredded goes" in text)

    asyncio.run(walk())
    assert "goes" not in [one.name for one in full.client.datasets()]


def test_a_key_is_shown_once_and_revoked(full: Appliance) -> None:
    async def walk() -> None:
        async with console(full.home.authority_socket) as (app, pilot):
            await pilot.press("6", "w", "n")
            await until(app, lambda text: "Issue an API key" in text)
            await type_in(pilot, "desk")
            await pilot.press("enter", "enter", "enter")
            await until(app, lambda text: "clo-" in text and "shown this once" in text)
            await pilot.press("escape")
            after = await until(app, lambda text: "● works" in text)
            assert "clo-" not in after
            await pilot.press("x")
            await until(app, lambda text: "Revoke a key" in text)
            await type_in(pilot, "desk")
            await pilot.press("enter")
            await until(app, lambda text: "■ revoked" in text and "no longer works" in text)

    asyncio.run(walk())


def test_an_entry_is_proved_on_the_spot(full: Appliance) -> None:
    async def walk() -> None:
        async with console(full.home.authority_socket) as (app, pilot):
            await pilot.press("7")
            await until(app, lambda text: "dataset.import" in text)
            await pilot.press("p")
            found = await until(app, lambda text: "● verified" in text)
            assert "root" in found

    asyncio.run(walk())


def test_system_tells_of_this_machine_and_its_policies(full: Appliance) -> None:
    async def walk() -> None:
        async with console(full.home.authority_socket, size=(120, 40)) as (app, pilot):
            await pilot.press("8")
            await until(app, lambda text: "unlock slots" in text)
            await pilot.press("d")
            await until(app, lambda text: "● fit" in text or "bad" in text)
            await pilot.press("e")
            await until(app, lambda text: "Explain a decision" in text)
            await type_in(pilot, "run.start")
            await pilot.press("enter", "enter", "enter")
            await until(app, lambda text: "Who may: run.start" in text)

    asyncio.run(walk())


def test_the_vault_gets_another_way_and_loses_it_again(full: Appliance) -> None:
    other = "another way in"

    async def walk() -> None:
        async with console(full.home.authority_socket) as (app, pilot):
            await pilot.press("8", "w")
            await until(app, lambda text: "1 way to open" in text and "ARMED" in text)
            await pilot.press("x")
            await until(app, lambda text: "The last way to open the vault stays" in text)
            await pilot.press("n")
            await until(app, lambda text: "Another way to open the vault" in text)
            await pilot.press("tab")
            for secret in (other, other, None, None, PASSPHRASE):
                if secret is not None:
                    await type_in(pilot, secret)
                await pilot.press("enter")
            await until(app, lambda text: "2 ways to open" in text)
            await pilot.press("x", "tab")
            await type_in(pilot, other)
            await pilot.press("enter")
            await until(app, lambda text: "Remove a way" in text and "slot 1" in text)
            await type_in(pilot, "slot 1")
            await pilot.press("enter")
            await until(app, lambda text: "Slot 1 is gone" in text and "1 way to open" in text)
            await pilot.press("n", "enter", "down", "enter", "tab", "tab", *["tab"] * 3)
            await type_in(pilot, other)
            await pilot.press("enter")
            await until(app, lambda text: "any 2 of these open the vault" in text)
            await pilot.press("escape")
            await until(app, lambda text: "2 ways to open" in text)
            await pilot.press("n", "tab")  # and the passphrase as it was
            for secret in (PASSPHRASE, PASSPHRASE, None, None, other):
                if secret is not None:
                    await type_in(pilot, secret)
                await pilot.press("enter")
            await until(app, lambda text: "3 ways to open" in text)

    asyncio.run(walk())


def test_a_backup_is_made_and_its_keys_are_noted_as_gone(full: Appliance, tmp_path: Path) -> None:
    async def walk() -> None:
        async with console(full.home.authority_socket) as (app, pilot):
            await pilot.press("8", "w")
            await until(app, lambda text: "0 whose keys are kept" in text and "ARMED" in text)
            await pilot.press("b")
            await until(app, lambda text: "Back up state" in text)
            await type_in(pilot, str(tmp_path))
            await pilot.press("enter", "enter")
            await type_in(pilot, "of the archive")
            await pilot.press("enter")
            await type_in(pilot, "of the archive")
            await pilot.press("enter")
            await until(app, lambda text: "The backup is made" in text)
            await pilot.press("escape")
            await until(app, lambda text: "1 whose keys are kept" in text)
            await pilot.press("D", "tab", "enter")
            name = full.client.backups()[0].backup_id
            await until(app, lambda text: "note that it is gone" in text)
            await type_in(pilot, name)
            await pilot.press("enter")
            await until(app, lambda text: "noted as destroyed" in text)

    asyncio.run(walk())
    assert list((tmp_path / "keys").iterdir()) and full.client.backups()[0].discarded_at is not None


def test_a_person_is_forgotten_by_keys(full: Appliance) -> None:
    import_rows(full.client, "letters", ROWS)

    async def walk() -> None:
        async with console(full.home.authority_socket) as (app, pilot):
            await pilot.press("2", "w")
            await until(app, lambda text: "letters" in text and "ARMED" in text)
            await pilot.press("slash")
            await type_in(pilot, "letters")
            await pilot.press("enter")
            await until(app, lambda text: "claims" not in text.replace("1 Overview", ""))
            await pilot.press("g")
            await until(app, lambda text: "Forget a person" in text)
            await type_in(pilot, "q 17")
            await pilot.press("enter", "enter", "enter", "tab", "enter")
            found = await until(app, lambda text: "Forgotten in letters" in text)
            assert "1 of 1" in found and "q 17" not in found

    asyncio.run(walk())
    assert full.client.dataset("letters").counts["rows"] == 39


def test_a_proof_is_saved_and_holds(full: Appliance, tmp_path: Path) -> None:
    async def walk() -> None:
        async with console(full.home.authority_socket) as (app, pilot):
            await pilot.press("7")
            await until(app, lambda text: "vault." in text or "dataset." in text)
            await pilot.press("t")
            await until(app, lambda text: "Save the proof of entry" in text)
            await pilot.press("end", *["backspace"] * 40)
            await type_in(pilot, str(tmp_path / "one.proof"))
            await pilot.press("enter")
            await until(app, lambda text: "verifier checks it" in " ".join(text.split()))

    asyncio.run(walk())
    assert verify_proof(
        (tmp_path / "one.proof").read_bytes(), [parse_vkey(full.client.log_state("control").vkey)]
    )


def test_copies_for_who_looks_from_outside_are_written(full: Appliance, tmp_path: Path) -> None:
    """Both ledgers, and the support bundle."""

    async def walk() -> None:
        async with console(full.home.authority_socket) as (app, pilot):
            await pilot.press("7", "w")
            await until(app, lambda text: "vault." in text or "dataset." in text)
            await pilot.press("o")
            await until(app, lambda text: "Copy both ledgers out" in text)
            await type_in(pilot, str(tmp_path / "ledgers"))
            await pilot.press("enter")
            await until(app, lambda text: "checks it with the verifier" in " ".join(text.split()))
            await pilot.press("8", "o")
            await until(app, lambda text: "An archive for who helps" in text)
            await type_in(pilot, str(tmp_path / "support.tar.gz"))
            await pilot.press("enter")
            await until(app, lambda text: "look before it goes" in " ".join(text.split()))

    asyncio.run(walk())
    assert (tmp_path / "ledgers" / "control").is_dir() and (tmp_path / "support.tar.gz").stat().st_size > 0


def test_the_palette_finds_and_does(full: Appliance) -> None:
    async def walk() -> None:
        async with console(full.home.authority_socket) as (app, pilot):
            await until(app, lambda text: "→ train" in text)
            await pilot.press("colon")
            await type_in(pilot, "go.audit")
            await pilot.press("enter")
            await until(app, lambda text: "decided" in text)
            await pilot.press("question_mark")
            await until(app, lambda text: "Help: audit" in text)
            await pilot.press("escape")
            await until(app, lambda text: "dataset.import" in text)
            await pilot.press("y")
            await until(app, lambda text: "clipboard" in text)
            assert app.clipboard

    asyncio.run(walk())


def test_an_import_goes_on_whose_console_was_cut_off(full: Appliance, tmp_path: Path) -> None:
    """The line goes once the source was handed over: nobody reads the import's report any more."""
    source = tmp_path / "left.jsonl"
    source.write_text('{"prompt": "a", "completion": "b"}\n' * 20_000 + '{"prompt": "a"}\n')

    def imports() -> list[Job]:
        return [job for job in full.client.jobs() if job.verb == "import"]

    before = len(imports())
    with console_at(full.home.root) as terminal:
        terminal.shows("→ train")
        terminal.press("2", "w", "i")
        terminal.shows("Bring data in")
        terminal.press(str(source), "enter", "left", "enter", *["\t"] * 10, "end", "\x7f", "1", "enter")
        wait_until(
            lambda: len(imports()) > before and all(job.state != "waiting-source" for job in imports())
        )
        terminal.hang_up()
        assert terminal.ended() == 128 + signal.SIGHUP
    wait_until(lambda: all(job.state not in ("queued", "running") for job in imports()))
    assert full.client.dataset("left").counts["rows"] == 20_000


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_two_operators_see_the_same_thing_move(full: Appliance) -> None:
    """What one does, the other sees without a key."""

    async def walk() -> None:
        async with (
            console(full.home.authority_socket) as (one, keys),
            console(full.home.authority_socket, size=(120, 40)) as (other, others_keys),
        ):
            for app, pilot in ((one, keys), (other, others_keys)):
                await pilot.press("6")
                await until(app, lambda text: "6 Clients" in text and "Reading" not in text)
            await keys.press("w", "n")
            await until(one, lambda text: "Issue an API key" in text)
            await type_in(keys, "seen-by-both")
            await keys.press("enter", "enter", "enter")
            await until(one, lambda text: "shown this once" in text)
            seen = await until(other, lambda text: "seen-by-both" in text and "● works" in text)
            assert "clo-" not in seen and "read-only" in seen, "the key and the arming are one operator's own"
            await keys.press("escape")
            full.client.revoke_client("seen-by-both")
            for app in (one, other):
                await until(app, lambda text: "seen-by-both" in text and "● works" not in text)

    asyncio.run(walk())


def test_locked_and_away_are_said_and_recovered_from(full: Appliance) -> None:
    async def walk() -> None:
        async with console(full.home.authority_socket) as (app, _pilot):
            await until(app, lambda text: "● open" in text)
            full.client.lock(LockRequest(mode="cut"))
            await until(app, lambda text: "▲ LOCKED" in text)
            full.restart_authority()
            await until(app, lambda text: "● open" in text)
            assert "AWAY" not in shown(app)

    asyncio.run(walk())


def test_an_authority_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    """Whatever is done meanwhile: nothing fails, and it comes up by itself."""
    home = Home(tmp_path / "home")

    async def walk() -> None:
        async with console(lambda: Client(home.authority_socket)) as (app, pilot):
            await until(app, lambda text: "AUTHORITY AWAY" in text)
            for place in "12345678":
                await pilot.press(place)
                await pilot.pause()
            await pilot.press("question_mark", "escape", "colon", "escape", "y", "w", "slash", "escape", "1")
            await asyncio.to_thread(embedded.start, home, gateway=False)
            await until(app, lambda text: "no vault yet" in text)

    try:
        asyncio.run(walk())
    finally:
        embedded.stop(home)


def test_a_file_is_mapped_brought_in_and_removed(full: Appliance, tmp_path: Path) -> None:
    source, mapped = tmp_path / "spoken.jsonl", tmp_path / "map.yaml"
    line = '{"log": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "id": 1}\n'
    source.write_text(line * 3)
    mapped.write_text("messages: log\n")

    async def walk() -> None:
        async with console(full.home.authority_socket, size=(120, 40)) as (app, pilot):
            await pilot.press("2", "w")
            await until(app, lambda text: "ARMED" in text)
            await pilot.press("i")
            await until(app, lambda text: "Bring data in" in text)
            await type_in(pilot, str(source))
            await pilot.press("tab")
            await type_in(pilot, "spoken")
            await pilot.press(*["tab"] * 8)
            await type_in(pilot, str(mapped))
            await pilot.press("tab", "enter", "down", "enter", "tab", "enter", "enter")  # after it: remove
            told = await until(app, lambda text: "Remove spoken.jsonl after the import" in text)
            assert "It lies on" in told and "Other copies are not touched" in told
            assert source.exists()
            await type_in(pilot, "spoken.jsonl")
            await pilot.press("enter")
            await until(app, lambda text: "sealed: 3 rows (chat, chat)" in text)

    asyncio.run(walk())
    assert not source.exists()
    removed = [
        entry.objects[0] for entry in full.client.search_ledger(action="dataset.remove-source").entries
    ]
    assert removed.count(full.client.dataset("spoken").object_id) == 1


def test_several_files_in_another_encoding_become_one_dataset_and_are_removed(
    full: Appliance, tmp_path: Path
) -> None:
    for number in range(2):
        rows = "".join(f"Schaden {n} an der Tür;Müll {number}\n" for n in range(20))
        (tmp_path / f"teil-{number}.csv").write_bytes(f"frage;antwort\n{rows}".encode("latin-1"))

    async def walk() -> None:
        async with console(full.home.authority_socket, size=(120, 50)) as (app, pilot):
            await pilot.press("2", "w")
            await until(app, lambda text: "ARMED" in text)
            await pilot.press("i")
            await until(app, lambda text: "Bring data in" in text)
            await type_in(pilot, str(tmp_path / "teil-*.csv"))
            await pilot.press("tab")
            await type_in(pilot, "umlaute")
            await pilot.press(*["tab"] * 4, "enter", *["down"] * ENCODINGS.index("latin-1"), "enter", "tab")
            await type_in(pilot, "frage")
            await pilot.press("tab")
            await type_in(pilot, "antwort")
            await pilot.press("tab", "tab", "tab", "enter", "down", "enter", "tab", "enter", "enter")
            told = await until(app, lambda text: "Remove 2 files after the import" in text)
            assert "teil-0.csv, teil-1.csv: on" in told
            await type_in(pilot, "umlaute")
            await pilot.press("enter")
            await until(app, lambda text: "sealed: 40 rows (csv, chat)" in text)

    asyncio.run(walk())
    assert not list(tmp_path.iterdir())
    removed = [
        entry.objects[0] for entry in full.client.search_ledger(action="dataset.remove-source").entries
    ]
    assert full.client.dataset("umlaute").object_id in removed


def test_a_line_names_one_file_or_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.csv", "b.csv", "c, d.csv", "e[1].csv"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert files_in(" c, d.csv ") == [Path("c, d.csv")], "what is a path as it stands is one"
    assert files_in("e[1].csv") == [Path("e[1].csv")]
    assert files_in("b.csv, a.csv") == [Path("b.csv"), Path("a.csv")]
    assert [path.name for path in files_in(f"{tmp_path}/?.csv")] == ["a.csv", "b.csv"]
    assert files_in("gone.csv") == [Path("gone.csv")], "opening it says so"
    for wrong, why in (("x*.csv", "no file fits"), (" , ", "name a file"), ("a.csv, ?.csv", "named twice")):
        with pytest.raises(InvalidInput, match=why):
            files_in(wrong)
