"""The programs as whoever starts them meets them: where they are started, and what they say where they cannot run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cloister as cloister_package
from cloister import embedded
from cloister.console.commands import cloister
from cloister.errors import InvalidInput
from cloister.home import SERVICE_HOME, Home

PROGRAMS = {"launcher": "cloister-launcher", "appliance": "cloisterd", "gateway": "cloister-gateway"}


@pytest.fixture
def folder_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that one stands in has files named as modules that the programs load."""
    folder = tmp_path / "sources"
    folder.mkdir()
    for name in ("cloister", "json", "pydantic", "structlog", "uvicorn", "uvloop"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'loaded')!r}, 'w')\nraise SystemExit(9)\n")
    monkeypatch.chdir(folder)
    return tmp_path / "loaded"


def test_an_appliance_loads_nothing_of_the_folder_it_is_started_in(
    folder_of_others: Path, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    try:
        started = embedded.start(home, listen="127.0.0.1:0")
    finally:
        embedded.stop(home)
    assert started == ["launcher", "authority", "gateway"]
    assert not folder_of_others.exists()


def test_nor_does_what_the_console_has_done(folder_of_others: Path, tmp_path: Path) -> None:
    assert cloister(str(tmp_path / "home"), "run", "presets")
    assert not folder_of_others.exists()


@pytest.mark.parametrize("module", PROGRAMS)
def test_a_program_that_cannot_start_says_why_in_one_line(module: str, tmp_path: Path) -> None:
    """Where the home cannot be made."""
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", f"cloister.{module}", "--home", str(tmp_path / "file" / "home")]
    more = ["--origin", "cloister/tests/gateway"] if module == "gateway" else []
    ended = subprocess.run([*command, *more], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"{PROGRAMS[module]}: Not a directory: {tmp_path / 'file'}")
    assert ended.stderr.count("\n") == 1


def test_an_account_without_a_folder_is_asked_for_one() -> None:
    """As of whoever runs in a container under a number that it has no name for."""
    if SERVICE_HOME.is_dir():
        pytest.skip("the service is installed here: its home is everybody's")
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "CLOISTER_HOME")}
    command = ["unshare", "--map-user=12345", sys.executable, "-m", "cloister.cli.main", "down"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    if "unshare" in ended.stderr:
        pytest.skip("no user namespace of our own here")
    assert ended.returncode == InvalidInput.exit_code
    assert ended.stderr.startswith("error: $HOME: this account has no folder of its own\n  try: ")


def test_a_command_given_on_a_full_disk_is_there_again_when_it_has_room(tmp_path: Path) -> None:
    """The checkout lies on that disk, and the command is used for the first time."""
    package = tmp_path / "package"
    package.mkdir()
    shutil.copy(Path(cloister_package.__file__), package)
    (package / "seldom.py").write_text("".join(f"name_{n} = {n}\n" for n in range(2_000)))
    steps = (
        f"mount -t tmpfs -o size=256k none {tmp_path}/disk && cp -r {package} {tmp_path}/disk/cloister && "
        f"cd {tmp_path}/disk && mkdir cloister/__pycache__ && "
        "{ head -c 300k /dev/zero > full; truncate -s -8k full; "
        '"$0" -c "import cloister.seldom" && rm full && "$0" -c "import cloister.seldom; print(cloister.__file__)"; }'
    )
    (tmp_path / "disk").mkdir()
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": str(tmp_path / "disk")}
    ended = subprocess.run(
        ["unshare", "-rm", "sh", "-c", steps, sys.executable],
        env=environment,
        capture_output=True,
        text=True,
    )
    if "unshare" in ended.stderr or "mount:" in ended.stderr:
        pytest.skip("no mount namespace of our own here")
    assert ended.stdout == f"{tmp_path}/disk/cloister/__init__.py\n", ended.stderr
