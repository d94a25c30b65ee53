"""Was it worth it: `cloister evaluate` on Banking77, on the demo's task, and on one for which looking up is enough.

A whole appliance in a home of its own, with the demo's base. Banking77 (10,003 questions with one of 77 labels, 3,080
to measure on) lies beside the project (`CLOISTER_SHARED`); without it that part is left out. Money is by the prices
below. The last line is one JSON object: of each line the deciding figure with its interval, what a query takes, and
the verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[2]))

from tests.conftest import Appliance, import_base, import_rows, start_appliance  # noqa: E402
from tests.pipeline.test_evaluate import lookups  # noqa: E402

from cloister import embedded  # noqa: E402
from cloister.api import (  # noqa: E402
    ColumnMap,
    DatasetImport,
    EvaluateConfig,
    EvaluationRequest,
    ImportConfig,
    LoraConfig,
    RunRequest,
    TableConfig,
    TrainConfig,
)
from cloister.demo.claims import generate  # noqa: E402
from cloister.demo.story import TRAIN  # noqa: E402
from cloister.evaluation import columns, table  # noqa: E402

PRICES = {
    "watts": 120,
    "kwh": 0.30,
    "staff_hour": 60,
    "preparation_hours": 4,
    "case_minutes": 2,
}
"""A small machine, and a person who takes two minutes a case and took half a day to make the data ready."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--epochs", type=float, default=8, help="on Banking77")
    parser.add_argument("--rows", type=int, default=300, help="to measure on, each")
    parser.add_argument("--tasks", nargs="*", default=["banking77", "claims", "lookups"])
    options = parser.parse_args()
    shared = Path(os.environ.get("CLOISTER_SHARED", HERE.parents[3] / "shared")) / "data" / "banking77"
    found: dict[str, Any] = {"bench": "evaluate", "prices": PRICES}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        appliance = start_appliance(Path(folder) / "home", gateway=False, settings={"prices": PRICES})
        try:
            import_base(appliance.client)
            for task in options.tasks:
                if task == "banking77" and not shared.is_dir():
                    continue
                run = {"banking77": banking, "claims": claims, "lookups": numbers}[task]
                request, asked = run(appliance, shared, options)
                found[task] = measured(appliance, request, asked)
        finally:
            appliance.client.close()
            embedded.stop(appliance.home)
    print(json.dumps(found))


def banking(
    appliance: Appliance, shared: Path, options: argparse.Namespace
) -> tuple[RunRequest, EvaluateConfig]:
    for name in ("train", "test"):
        with (shared / f"{name}.csv").open("rb") as file:
            config = ImportConfig(
                source_name=f"{name}.csv",
                columns=ColumnMap(input="text", label="category"),
                holdout=0.02 if name == "train" else 0.0,
            )
            request = DatasetImport(name=name, config=config)
            job = appliance.client.import_dataset(request, {"source": file.fileno()})
        appliance.client.finished_job(job.job_id)
    train = TrainConfig(
        lora=LoraConfig(rank=32, alpha=32.0),
        learning_rate=2e-3,
        batch_size=32,
        micro_batch_size=32,
        epochs=options.epochs,
    )
    run = RunRequest(name="bank", dataset="train", base="small", holdout="test", train=train, evaluate=None)
    return run, EvaluateConfig(max_rows=options.rows, max_new_tokens=32, table=TableConfig())


def claims(
    appliance: Appliance, shared: Path, options: argparse.Namespace
) -> tuple[RunRequest, EvaluateConfig]:
    import_rows(appliance.client, "claims", list(generate(1500, seed=0)))
    run = RunRequest(name="claims", dataset="claims", base="small", train=TRAIN, evaluate=None)
    return run, EvaluateConfig(max_rows=options.rows, table=TableConfig(few_shot=3, retrieve=3))


def numbers(
    appliance: Appliance, shared: Path, options: argparse.Namespace
) -> tuple[RunRequest, EvaluateConfig]:
    import_rows(appliance.client, "lookups", lookups(100, seed=5), holdout=0.4)
    train = TrainConfig(lora=LoraConfig(rank=16, alpha=32.0), learning_rate=3e-3, epochs=5, max_length=320)
    run = RunRequest(name="lookups", dataset="lookups", base="small", train=train, evaluate=None)
    wanted = TableConfig(few_shot=2, retrieve=1)
    return run, EvaluateConfig(max_rows=options.rows, max_new_tokens=32, table=wanted)


def measured(appliance: Appliance, request: RunRequest, asked: EvaluateConfig) -> dict[str, Any]:
    """Train, measure, print the table; its figures."""
    client = appliance.client
    print(f"training {request.name}", flush=True)
    client.finished_job(client.start_run(request).train_job.job_id)
    job = client.evaluate_run(request.name, EvaluationRequest(config=asked), {})
    full = client.finished_job(job.job_id).result["full"]
    made = table.of(full["table"])
    for part in (columns.figures(made), columns.effort(made), columns.general(made)):
        print("\n".join(columns.lines(part)), end="\n\n", flush=True)
    print("\n".join([*full["notes"], *full["verdict"]["sentences"]]), flush=True)
    return figures(full)


def figures(full: dict[str, Any]) -> dict[str, Any]:
    """Of each line the deciding figure and what was asked, and the verdict."""
    made = table.of(full["table"])
    found: dict[str, Any] = {"rows": made.rows, "figure": made.primary}
    for line in made.lines:
        one = line.figures[made.primary]
        found[line.name] = {
            "value": f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]",
            "prompt_tokens": round(line.prompt_tokens, 1),
            "examples": round(line.examples, 1),
            "query_ms": round(line.seconds * 1000, 1),
        }
        if line.pays_after is not None:
            found[line.name]["pays_after"] = line.pays_after
        if line.consistency is not None:
            found[line.name]["alike"] = round(line.consistency.value, 3)
    if made.general is not None:
        found["general"] = f"{made.general.base.value:.3f} to {made.general.tuned.value:.3f}"
    found["verdict"] = " ".join(full["verdict"]["sentences"])
    return found


if __name__ == "__main__":
    main()
