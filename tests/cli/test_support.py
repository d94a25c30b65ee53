"""The support bundle: what is in it, whose names are not, and that a secret keeps it from being written."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_shell import Shell
from tests.conftest import PASSPHRASE, import_rows

from cloister import embedded
from cloister.client import Client
from cloister.errors import CloisterError
from cloister.support import Names, log_lines, wordless

SECRET_NAME = "frankfurt-claims"


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    made = Shell(tmp_path_factory.mktemp("support") / "home")
    made.home.root.mkdir()
    made.settings("console:", f"  name: {SECRET_NAME}-box", "alerts:", "  disk_low_gib: 3")
    made("init", "--passphrase-fd", "0", stdin=PASSPHRASE + "\n")
    yield made
    embedded.stop(made.home)


def members(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        return {
            one.name.removeprefix("cloister-support/"): io.TextIOWrapper(archive.extractfile(one)).read()  # type: ignore[arg-type]
            for one in archive
        }


def test_it_tells_states_and_errors_and_no_name(shell: Shell, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "canary-3fd1"}, {"role": "assistant", "content": "a"}]}
    with Client(shell.home.authority_socket) as client:
        import_rows(client, SECRET_NAME, [row] * 20, holdout=0.1)
        with pytest.raises(CloisterError):
            import_rows(client, f"{SECRET_NAME}-2", [{"prompt": "a"}])
    key = json.loads(shell("client", "issue", f"{SECRET_NAME}-desk", "--json").stdout)["api_key"]
    file = tmp_path / "support.tar.gz"
    assert shell.json("support", "bundle", str(file))["file"] == str(file)
    assert file.stat().st_mode & 0o777 == 0o600
    found = members(file)
    assert set(found) == {
        "README", "machine.json", "settings.json", "status.json", "alerts.json", "jobs.json", "backups.json",
        "slots.json", "logs/authority.jsonl", "logs/launcher.jsonl", "logs/gateway.jsonl",
    }  # fmt: skip
    whole = "\n".join(found.values())
    for hidden in (SECRET_NAME, PASSPHRASE, "canary-3fd1", key, str(shell.home.root), "127.0.0.1"):
        assert hidden not in found["settings.json"] + whole.replace("http://127.0.0.1", ""), hidden
    assert {job["state"] for job in json.loads(found["jobs.json"])} == {"done", "failed"}
    assert json.loads(found["settings.json"])["alerts"]["disk_low_gib"] == 3
    assert json.loads(found["status.json"])["environment"]["name"] == "appliance-1"
    shell("support", "bundle", str(file), code=4)  # it is there already


def test_what_looks_like_a_secret_is_not_written(shell: Shell, tmp_path: Path) -> None:
    log = shell.home.logs / "gateway.log"
    with log.open("a") as out:
        out.write('{"event": "x", "key": "clo-' + "a" * 43 + '"}\n')
    failed = shell("support", "bundle", str(tmp_path / "out"), code=2)
    assert "logs/gateway.jsonl:" in failed.stderr and "aaaa" not in failed.stderr
    assert not (tmp_path / "out").exists()
    log.write_text("")


def test_lines_of_other_programs_are_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(
        b'{"event": "up"}\nTraceback: a row\n[1]\n' + b'{"event": "' + os.urandom(4).hex().encode() + b'"}'
    )
    lines, dropped = log_lines(log)
    assert (len(lines), dropped) == (2, 2)


def test_names_are_numbers_everywhere() -> None:
    names = Names([("ines", "account"), ("ines-2", "account"), ("", "account"), ("ines", "group")])
    assert names.replaced({"by ines": ["ines-2 and ines.", "inest", 4]}) == {
        "by account-1": ["account-2 and account-1.", "inest", 4]
    }
    assert wordless({"a": {"b": ["x", 1, None, True]}}) == {"a": {"b": ["set", 1, None, True]}}
