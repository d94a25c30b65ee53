"""The command line as an operator types it: its output, its exit codes, and what it refuses."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_shell import CLOISTER, Shell
from tests.conftest import BASE_FOLDER, PASSPHRASE

from cloister import __version__, embedded


@pytest.fixture(scope="module")
def cloister(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("cli") / "home")
    shell.home.root.mkdir()
    shell.settings()
    assert shell.json("up")["started"] == ["launcher", "authority", "gateway"]
    assert shell.json("up")["started"] == []
    assert shell.json("init", "--passphrase-fd", "0", stdin=PASSPHRASE)["ok"]
    yield shell
    embedded.stop(shell.home)


@pytest.mark.parametrize(
    "command", [["dataset", "curve"], ["dataset", "import"], ["plan"], ["approval", "give"]]
)
def test_a_help_is_broken_by_the_terminal_and_not_by_the_code(command: list[str]) -> None:
    """A line that ends early at 80 columns does so where the next word has no room, or its paragraph ends."""
    words = {**os.environ, "COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}
    done = subprocess.run(
        [CLOISTER, *command, "--help"], capture_output=True, text=True, env=words, check=True
    )
    lines = [line.strip() for line in done.stdout.split("╭─")[0].splitlines()]
    assert len(lines) > 3
    for line, after in itertools.pairwise(lines):
        if line and after and not after.startswith("ssh-keygen"):
            assert len(line) + 1 + len(after.split()[0]) > 74, line


def test_help_names_every_command_and_exit_code() -> None:
    shown = subprocess.run([CLOISTER, "--help"], capture_output=True, text=True, check=True).stdout
    nouns = [
        "init",
        "up",
        "down",
        "status",
        "doctor",
        "unlock",
        "lock",
        "dataset",
        "base",
        "run",
        "model",
        "serve",
        "client",
        "audit",
        "demo",
    ]
    assert all(f" {noun} " in shown for noun in nouns)
    assert "Exit codes" in shown
    for noun in ("dataset", "base", "run", "model", "serve", "client", "audit"):
        done = subprocess.run([CLOISTER, noun, "--help"], capture_output=True, text=True)
        assert done.returncode == 0 and "Usage" in done.stdout


def test_the_version_is_told() -> None:
    shown = subprocess.run([CLOISTER, "--version"], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == __version__


def test_completion_is_offered() -> None:
    environment = {
        **os.environ,
        "_CLOISTER_COMPLETE": "complete_bash",
        "COMP_WORDS": "cloister ru",
        "COMP_CWORD": "1",
    }
    done = subprocess.run([CLOISTER], capture_output=True, text=True, env=environment)
    assert "run" in done.stdout.split()


def test_status_says_what_runs(cloister: Shell) -> None:
    status = cloister.json("status")
    assert status["initialised"] and not status["locked"]
    assert {process["name"]: process["state"] for process in status["processes"]} == {
        "authority": "running",
        "launcher": "running",
        "gateway": "running",
    }
    assert "UNWITNESSED" in cloister("status").stderr


def test_doctor_finds_this_machine_fit(cloister: Shell) -> None:
    findings = {finding["check"]: finding["state"] for finding in cloister.json("doctor")["findings"]}
    assert findings["sandbox"] == "good"
    assert findings["folders"] == "good"


def test_a_wrong_passphrase_and_a_missing_terminal(cloister: Shell) -> None:
    cloister("lock")
    wrong = cloister("unlock", "--passphrase-fd", "0", stdin="wrong", code=6)
    assert "passphrase" in wrong.stderr and "wrong" not in wrong.stdout
    assert "--passphrase-fd" in cloister("unlock", code=2).stderr
    refused = cloister.json("client", "issue", "early", code=5)
    assert refused == {"ok": False, "error": refused["error"]} and refused["error"]["code"] == "locked"
    cloister("unlock", "--passphrase-fd", "0", stdin=PASSPHRASE)


def test_engines_are_asked_for_their_load(cloister: Shell) -> None:
    assert cloister.json("serve", "load") == []
    shown = cloister("serve", "load")
    assert "No engine is ready." in shown.stdout + shown.stderr


def test_unknown_names_bad_names_and_bad_options(cloister: Shell) -> None:
    assert "cloister run list" in cloister("run", "show", "nothing", code=3).stderr
    assert "name" in cloister("client", "issue", "../../etc/passwd", code=2).stderr
    cloister("run", "start", "--dataset", "x", code=2)
    cloister("no-such-command", code=2)
    cloister("run", "start", "-d", "none", "-b", "none", "-n", "x", code=3)


def import_(cloister: Shell, path: Path, *options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    return cloister("dataset", "import", str(path), "--name", path.stem, *options, code=code)


def test_a_dry_run_tells_what_an_import_would_do_and_keeps_nothing(cloister: Shell, tmp_path: Path) -> None:
    source = tmp_path / "tried.csv"
    source.write_text("question;reply;site\nwhat?;that;Ulm\nwho?;they;Graz\n")
    dataset = ("dataset", "import", str(source), "--dry-run")
    refused = cloister(*dataset, code=2)
    assert "tried.csv:1: prompt: no such column in the header" in refused.stderr
    assert "It would be refused" in refused.stderr
    mapped = tmp_path / "map.yaml"
    mapped.write_text("input: question\noutput: reply\ngroups: site\n")
    found = cloister.json(*dataset, "--map", str(mapped))
    assert (found["would_import"], found["rows"], found["groups"]) == (True, 2, ["site"])
    source.write_text(source.read_text() + "why?;;Ulm\n")
    found = cloister.json(*dataset, "--map", str(mapped), code=2)
    assert (found["would_import"], found["bad_rows"], found["problems"]) == (False, 1, 1)
    assert found["first_problems"] == ["tried.csv:4: reply: is empty"]
    assert cloister("dataset", "import", str(source), code=2).stderr.count("--name") == 1
    mapped.write_text("input: question\nanswer: reply\n")
    assert "answer" in cloister(*dataset, "--map", str(mapped), code=2).stderr
    assert [d["name"] for d in cloister.json("dataset", "list")] == []
    entries = cloister("audit", "search", "--action", "dataset.import", "--json").stdout
    assert entries.count('"dry_run":true') + entries.count('"dry_run": true') == 3


def test_a_source_is_removed_once_its_rows_are_sealed(cloister: Shell, tmp_path: Path) -> None:
    source = tmp_path / "leaving.parquet"
    pq.write_table(pa.table({"text": ["A paragraph,\nof two lines.", "Another one."]}), source)
    remove = ("dataset", "import", str(source), "--name", "leaving", "--remove-source")
    assert "--yes" in cloister(*remove, code=2).stderr
    link = tmp_path / "link.parquet"
    link.symlink_to(source)
    assert "symbolic link" in cloister(*remove[:2], str(link), *remove[3:], "--yes", code=2).stderr
    assert [d["name"] for d in cloister.json("dataset", "list")] == []
    assert source.exists()
    done = cloister.json(*remove, "--yes")
    assert done["counts"]["rows"] == 2
    assert done["details"]["task"] == "text"
    assert done["source_removed"]["promise"]
    assert not source.exists()
    (told,) = cloister.json("audit", "search", "--action", "dataset.remove-source")["entries"]
    assert told["objects"][0] == done["object_id"] and told["details"]["name"] == "leaving"
    assert str(source.name) not in json.dumps(told)
    cloister("dataset", "shred", "leaving", "--yes", "leaving")


def test_several_files_are_mapped_by_yaml_imported_as_one_and_removed(
    cloister: Shell, tmp_path: Path
) -> None:
    spoken = {"log": [{"who": "customer", "text": "Wo?"}, {"who": "agent", "text": "Da."}], "id": 1}
    sources = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for source in sources:
        source.write_text(json.dumps(spoken) + "\n", encoding="utf-16")
    mapped = tmp_path / "map.yaml"
    mapped.write_text("role: who\ncontent: text\nroles: {customer: user, agent: assistant}\n")
    command = ["dataset", "import", *map(str, sources), "--name", "both", "--map", str(mapped)]
    assert "--messages" in cloister(*command, code=2).stderr
    done = cloister.json(*command, "--messages", "log", "--holdout", "0", "--remove-source", "--yes")
    assert done["counts"]["rows"] == 2
    assert len(done["source_removed"]) == 2 and not any(source.exists() for source in sources)
    row = cloister.json("dataset", "show", "both", "--row", "1")[0]
    assert [turn["content"] for turn in row["messages"]] == ["Wo?", "Da."]
    cloister("dataset", "shred", "both", "--yes", "both")
    table = tmp_path / "latin.csv"
    table.write_bytes("prompt;completion\nGrüße?;ja\n".encode("windows-1252"))
    command = ["dataset", "import", str(table), "--name", "latin", "--holdout", "0"]
    assert "--encoding windows-1252" in cloister(*command, code=2).stderr
    assert "1 rows (csv, chat)" in cloister(*command, "--encoding", "windows-1252").stderr
    cloister("dataset", "shred", "latin", "--yes", "latin")


def test_every_bad_row_is_named_and_none_is_shown(cloister: Shell, tmp_path: Path) -> None:
    source = tmp_path / "bad-rows.jsonl"
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    secret = "do not echo me"
    source.write_text(
        "\n".join(
            [
                json.dumps(good),
                json.dumps({"messages": [{"role": "user", "content": secret}]}),
                '{"messages": ' + secret,
                json.dumps({"messages": [{"role": "robot", "content": secret}, good["messages"][1]]}),
                json.dumps(good),
            ]
        )
    )
    refused = import_(cloister, source, code=2)
    for line in (2, 3, 4):
        assert f"bad-rows.jsonl:{line}: " in refused.stderr
    assert secret not in refused.stderr + refused.stdout
    assert [d["name"] for d in cloister.json("dataset", "list")] == []
    import_(cloister, source, "--max-dropped", "3", "--holdout", "0")
    assert cloister.json("dataset", "show", "bad-rows")["counts"]["dropped"] == 3


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("empty.jsonl", b"", ()),
        ("utf8.jsonl", b'{"prompt": "\xff\xfe", "completion": "b"}\n', ()),
        ("nul.csv", b"text,category\nhel\x00lo,a\n", ("--input", "text", "--label", "category")),
        ("column.csv", b"text,kind\nhello,a\n", ("--input", "text", "--label", "category")),
        ("long.jsonl", b'{"prompt": "' + b"x" * (3 << 20) + b'", "completion": "b"}\n', ()),
        ("binary.jsonl", bytes(range(256)) * 64, ()),
    ],
)
def test_hostile_sources_are_refused(
    cloister: Shell, tmp_path: Path, name: str, content: bytes, options: tuple[str, ...]
) -> None:
    source = tmp_path / name
    source.write_bytes(content)
    refused = import_(cloister, source, *options, code=2)
    assert refused.stderr.strip()
    assert source.stem not in [d["name"] for d in cloister.json("dataset", "list")]


def test_sources_that_are_no_file(cloister: Shell, tmp_path: Path) -> None:
    assert "No such file" in import_(cloister, tmp_path / "missing.jsonl", code=2).stderr
    import_(cloister, tmp_path, code=2)


def test_base_models_are_let_in_by_allow_list(cloister: Shell, tmp_path: Path) -> None:
    import pickle
    import shutil

    for trick in ("pickle", "symlink", "python", "missing"):
        folder = tmp_path / trick
        shutil.copytree(BASE_FOLDER, folder)
        weights = folder / "model.safetensors"
        if trick == "pickle":
            weights.write_bytes(pickle.dumps({"a": 1}))
        elif trick == "symlink":
            weights.rename(tmp_path / "elsewhere.safetensors")
            weights.symlink_to(tmp_path / "elsewhere.safetensors")
        elif trick == "python":
            (folder / "modeling_evil.py").write_text("print('hello')")
        else:
            weights.unlink()
        refused = cloister("base", "import", str(folder), "--name", trick, code=2)
        assert "error: " in refused.stderr and "try: " in refused.stderr
    assert cloister.json("base", "list") == []
    assert cloister.json("base", "import", str(BASE_FOLDER), "--name", "small")["kind"] == "base"


def test_keys_are_issued_once_and_revoked(cloister: Shell) -> None:
    key = cloister("client", "issue", "desk").stdout.strip()
    assert key.startswith("clo-")
    assert key not in cloister("client", "list").stdout
    cloister("client", "issue", "desk", code=4)
    cloister("client", "revoke", "desk")
    cloister("client", "revoke", "desk")


def test_the_ledger_is_shown_verified_and_exported(cloister: Shell, tmp_path: Path) -> None:
    shown = cloister("audit", "show").stdout
    assert "client.revoke" in shown
    assert cloister.json("audit", "verify")["ok"]
    copy = tmp_path / "copy"
    cloister("audit", "export", str(copy))
    key = cloister("audit", "key").stdout.strip()
    assert cloister.json("audit", "verify", str(copy / "control"), "--key", key)["ok"]
    cloister("audit", "export", str(copy), code=4)
    victim = next(path for path in sorted((copy / "control" / "tile").rglob("*")) if path.is_file())
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    broken = cloister("audit", "verify", str(copy / "control"), "--key", key, code=7)
    assert victim.name in broken.stdout


def test_settings_that_do_not_fit_keep_everything_from_starting(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "home")
    shell.home.root.mkdir()
    shell.home.settings_file.write_text("sandbox: maybe\nsurprise: 1\n")
    refused = shell("up", code=2)
    assert "appliance.yaml" in refused.stderr
    assert "sandbox: " in refused.stderr and "surprise: " in refused.stderr
    assert not any(embedded.running(shell.home).values())


def test_evaluate_without_a_run_or_its_files(cloister: Shell, tmp_path: Path) -> None:
    assert cloister.json("evaluate", "nothing", code=3)["error"]["where"] == "nothing"
    assert cloister.json("evaluate", "--rows", "5", "nothing", code=3)["error"]["code"] == "not-found"
    assert cloister.json("evaluate", "errors", "nothing", code=3)["error"]["where"] == "nothing"
    assert (
        "FUNCTION" in cloister.json("evaluate", "nothing", "--metric", "ours.py", code=2)["error"]["remedy"]
    )
    gone = str(tmp_path / "gone.py")
    assert cloister.json("evaluate", "nothing", "--metric", f"{gone}:score", code=3)["error"]["where"] == gone
    assert "--html" in cloister.json("evaluate", "export", "nothing", code=2)["error"]["remedy"]
    assert "measure" in cloister("evaluate", "--help").stdout
