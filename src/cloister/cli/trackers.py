"""A run's numbers as other tools keep them: an event file for TensorBoard, a folder of MLflow's file store.

Names of metrics, numbers, settings; no content, and nobody is called.
"""

from __future__ import annotations

from pathlib import Path

from cloister.api import Curve, Run
from cloister.cli.output import flattened
from cloister.errors import Conflict, InvalidInput


def write_tensorboard(folder: Path, curve: Curve) -> Path:
    """One event file in `folder`/<run>. Errors: InvalidInput where it cannot be written; Conflict where one is."""
    target = folder / curve.name
    if target.exists():
        raise Conflict("is there already", where=str(target), remedy="Name another folder, or remove it.")
    from tensorboardX import SummaryWriter

    try:
        with SummaryWriter(str(target)) as writer:
            for point in curve.points:
                for name, value in point.values.items():
                    writer.add_scalar(name, value, point.step)
    except OSError as error:
        raise InvalidInput(f"cannot be written: {error.strerror}", where=str(target)) from None
    return target


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
    ended = int((run.train_job.ended_at or run.created_at).timestamp() * 1000)
    run_id = run.run_id.replace("-", "").ljust(32, "0")
    experiment = folder / "0"
    target = experiment / run_id
    try:
        if target.exists():
            raise Conflict("is there already", where=str(target), remedy="Name another folder, or remove it.")
        for part in ("metrics", "params", "tags", "artifacts"):
            (target / part).mkdir(parents=True)
        described = experiment / "meta.yaml"
        if not described.exists():
            described.write_text(
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
                    "end_time": ended,
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
    except OSError as error:
        raise InvalidInput(f"cannot be written: {error.strerror}", where=str(target)) from None
    return target
