"""A run's numbers as other tools keep them: an event file for TensorBoard, a folder of MLflow's file store.

Names of metrics, numbers, settings; no content, and nobody is called.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from cloister.api import Curve, Run
from cloister.cli.output import flattened
from cloister.errors import Conflict, InvalidInput


def write_tensorboard(folder: Path, curve: Curve) -> Path:
    """One event file in `folder`/<run>. Errors: InvalidInput where it cannot be written; Conflict where one is."""
    target = folder / curve.name
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar

    with _whole(target):
        # Not its `SummaryWriter`: that one writes in a thread, whose error nobody hears, and waits for it without end.
        writer = EventsWriter(str(target / "events"))
        for point in curve.points:
            for name, value in point.values.items():
                writer.write_event(Event(wall_time=time.time(), step=point.step, summary=scalar(name, value)))
        writer.close()
    return target


@contextlib.contextmanager
def _whole(target: Path) -> Iterator[None]:
    """What is written into a new folder is there whole, or not at all. Errors: Conflict, InvalidInput."""
    try:
        target.mkdir(parents=True)
    except FileExistsError:
        raise Conflict(
            "is there already", where=str(target), remedy="Name another folder, or remove it."
        ) from None
    except OSError as error:
        raise InvalidInput(f"cannot be written: {error.strerror}", where=str(target)) from None
    try:
        yield
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, OSError):
            raise InvalidInput(f"cannot be written: {error.strerror}", where=str(target)) from None
        raise


_STATUS = {"queued": 2, "done": 3, "failed": 4, "cancelled": 5, "interrupted": 5}
"""MLflow's RunStatus: scheduled, finished, failed, killed; what has not ended is running, 1."""


def write_mlflow(folder: Path, run: Run, curve: Curve) -> Path:
    """One run in an `mlruns` folder, experiment 0, as MLflow's file store lays it out.

    A file a metric holds a line `milliseconds value step` a point; `params`, one value a file; `meta.yaml` the rest.
    Times are the run's start and end, spread evenly over the points.

    Source: mlflow/mlflow, `mlflow/store/tracking/file_store.py`.
    """
    import yaml

    started = int(run.created_at.timestamp() * 1000)
    over = run.train_job.ended_at
    ended = int((over.timestamp() if over is not None else time.time()) * 1000)
    run_id = run.run_id.replace("-", "").ljust(32, "0")
    experiment = folder / "0"
    target = experiment / run_id
    with _whole(target):
        for part in ("metrics", "params", "tags", "artifacts"):
            (target / part).mkdir()
        described = experiment / "meta.yaml"
        if not described.exists():
            begun = target / "experiment.yaml"
            begun.write_text(
                yaml.safe_dump(
                    {
                        "artifact_location": experiment.absolute().as_uri(),
                        "creation_time": started,
                        "experiment_id": "0",
                        "last_update_time": started,
                        "lifecycle_stage": "active",
                        "name": "Default",
                    }
                ),
                encoding="utf-8",
            )
            begun.replace(described)
        lines: dict[str, list[str]] = {}
        for number, point in enumerate(curve.points):
            at = started + (ended - started) * number // max(1, len(curve.points) - 1)
            for name, value in point.values.items():
                lines.setdefault(name, []).append(f"{at} {value!r} {point.step}\n")
        for name, told in lines.items():
            (target / "metrics" / name).write_text("".join(told), encoding="utf-8")
        for name, value in flattened(run.train.model_dump(), ".").items():
            (target / "params" / name).write_text(str(value), encoding="utf-8")
        (target / "tags" / "mlflow.runName").write_text(run.name, encoding="utf-8")
        (target / "meta.yaml").write_text(
            yaml.safe_dump(
                {
                    "artifact_uri": (target / "artifacts").absolute().as_uri(),
                    "end_time": ended if over is not None else None,
                    "entry_point_name": "",
                    "experiment_id": "0",
                    "lifecycle_stage": "active",
                    "run_id": run_id,
                    "run_name": run.name,
                    "run_uuid": run_id,
                    "source_name": "",
                    "source_type": 4,
                    "source_version": "",
                    "start_time": started,
                    "status": _STATUS.get(run.train_job.state, 1),
                    "tags": [],
                    "user_id": run.created_by,
                }
            ),
            encoding="utf-8",
        )
    return target
