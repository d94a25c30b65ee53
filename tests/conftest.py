"""What tests share: a whole appliance of real programs in a home of its own, and one trained model."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from cloister import embedded
from cloister.api import (
    BaseImport,
    BaseImportConfig,
    DatasetImport,
    ImportConfig,
    LoraConfig,
    RunRequest,
    TrainConfig,
)
from cloister.client import Client
from cloister.home import Home
from cloister.sources import open_base_folder
from cloister.vault import ArgonParams, Vault

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What somebody's shell says of the zone, colours, sizes, proxies and modes is theirs: a test says what it expects.
os.environ["TZ"] = "UTC"
time.tzset()
for name in ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "COLUMNS", "LINES", "TERMINAL_WIDTH"):
    os.environ.pop(name, None)
for name in ("http_proxy", "https_proxy", "all_proxy"):
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)
UMASK = 0o022
os.umask(UMASK)
# Properties are tried on the same examples every time, and each may take as long as the machine is slow. Hypothesis
# reads these when a test is defined: before any other file is.
settings.register_profile(
    "tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

LOOPBACK = "127.0.0.1:0"
PASSPHRASE = "correct horse battery staple"
BASE_FOLDER = Path(__file__).parents[1] / "src" / "cloister" / "demo" / "base"


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    """A program of ours that was called within a test changes its process's; the next test has the usual one."""
    yield
    os.umask(UMASK)


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for one test, with a short name: the path of a socket has little room."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Vectors and data that lie beside the project; without them the test is skipped."""
    folder = Path(os.environ.get("CLOISTER_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared vectors at {folder}; name their folder in CLOISTER_SHARED")
    return folder


@dataclass(frozen=True)
class Appliance:
    """A home whose programs run, initialised and open."""

    home: Home
    client: Client

    def restart_authority(self) -> None:
        """End the authority as a crash would, start another, and unlock it."""
        pid = embedded.listener_pid(self.home.authority_socket)
        assert pid is not None
        os.kill(pid, 9)
        embedded.await_end(pid)
        embedded.start(self.home, listen=LOOPBACK)
        self.client.unlock(PASSPHRASE)


QUICK = ArgonParams(memory_kib=8 << 10, iterations=1, lanes=1)
"""A passphrase that takes milliseconds to try. A slot keeps its parameters, so whoever unlocks it later takes them."""


def start_appliance(
    root: Path, *, gateway: bool = True, settings: Mapping[str, object] | None = None
) -> Appliance:
    home = Home(root)
    home.make()
    if settings is not None:
        home.settings_file.write_text(json.dumps(settings))
    Vault.create(home.keys, PASSPHRASE.encode(), argon=QUICK).close()
    embedded.start(home, gateway=gateway, listen=LOOPBACK)
    client = Client(home.authority_socket)
    client.unlock(PASSPHRASE)
    return Appliance(home, client)


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """Launcher and authority of a module's own."""
    started = start_appliance(tmp_path_factory.mktemp("home"), gateway=False)
    yield started
    started.client.close()
    embedded.stop(started.home)


def import_rows(client: Client, name: str, rows: list[dict[str, object]], **config: object) -> None:
    """Import chat rows through a pipe: no source file lies on a disk."""
    source = os.memfd_create("rows")
    with os.fdopen(source, "wb") as file:
        for row in rows:
            file.write(json.dumps(row).encode() + b"\n")
        file.flush()
        file.seek(0)
        request = DatasetImport(name=name, config=ImportConfig(source_name="rows.jsonl", **config))
        job = client.import_dataset(request, {"source": file.fileno()})
    client.finished_job(job.job_id)


def import_base(client: Client, name: str = "small", folder: Path = BASE_FOLDER) -> None:
    files = open_base_folder(folder)
    try:
        request = BaseImport(name=name, config=BaseImportConfig(files=tuple(files)))
        job = client.import_base(request, {f"file:{i}": fd for i, fd in enumerate(files.values())})
        client.finished_job(job.job_id)
    finally:
        for descriptor in files.values():
            os.close(descriptor)


def short_run(name: str, dataset: str = "claims", base: str = "small", **train: object) -> RunRequest:
    """A run of a few seconds on the CPU."""
    values: dict[str, object] = {
        "lora": LoraConfig(rank=8, alpha=16),
        "epochs": 1,
        "learning_rate": 1e-3,
        "batch_size": 16,
        "micro_batch_size": 16,
        "max_length": 320,
        "checkpoint_every": 2,
    }
    return RunRequest(name=name, dataset=dataset, base=base, train=TrainConfig(**(values | train)))
