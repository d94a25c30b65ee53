"""A run's numbers for TensorBoard and MLflow where something is in the way: whole or not at all, told in a line."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from cloister.api import Curve, CurvePoint, Job, Run, TrainConfig
from cloister.cli.trackers import write_mlflow, write_tensorboard
from cloister.errors import Conflict, InvalidInput

CURVE = Curve(
    run_id="rn-0123456789ab",
    name="first",
    points=[CurvePoint(step=step, values={"loss": 1 / (step + 1)}) for step in range(300)],
)
BEGAN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def run(ended: datetime | None = BEGAN) -> Run:
    job = Job.model_construct(state="running" if ended is None else "done", ended_at=ended)
    return Run.model_construct(
        run_id=CURVE.run_id, name=CURVE.name, created_at=BEGAN, created_by="ann", train_job=job, train=TrainConfig()
    )  # fmt: skip


@contextmanager
def little_room() -> Iterator[None]:
    """No file grows beyond 4 KiB: a full disk, seen from here."""
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handled)


WRITERS: list[Callable[[Path], Path]] = [
    lambda folder: write_tensorboard(folder, CURVE),
    lambda folder: write_mlflow(folder, run(), CURVE),
]


@pytest.mark.parametrize("write", WRITERS, ids=["tensorboard", "mlflow"])
def test_what_finds_no_room_is_told_and_can_be_asked_for_again(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    with little_room(), pytest.raises(InvalidInput, match="cannot be written"):
        write(tmp_path)
    target = write(tmp_path)
    assert sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) > 6_000
    with pytest.raises(Conflict):
        write(tmp_path)
    assert target.is_dir(), "what was there stays"


@pytest.mark.parametrize("write", WRITERS, ids=["tensorboard", "mlflow"])
def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot be written"):
        write(tmp_path / "file")


def test_a_run_that_goes_on_has_no_end_yet(tmp_path: Path) -> None:
    meta = yaml.safe_load((write_mlflow(tmp_path, run(ended=None), CURVE) / "meta.yaml").read_text())
    assert (meta["status"], meta["end_time"]) == (1, None) and meta["start_time"] == BEGAN.timestamp() * 1000
    meta = yaml.safe_load((write_mlflow(tmp_path / "done", run(), CURVE) / "meta.yaml").read_text())
    assert (meta["status"], meta["end_time"]) == (3, meta["start_time"])
