"""One process of a gang over gloo: `gang_member.py SCENE RANK FOLDER`, its findings as JSON on standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

import tiny
from cloister.errors import JobFailed
from cloister.models.adapter import adapter_state
from cloister.training.checkpoint import CheckpointStore
from cloister.training.ranks import Gang, require_alike

SETTINGS = tiny.config(micro_batch_size=4, eval_every=3, checkpoint_every=3, learning_rate=1e-2)


def store(folder: Path) -> CheckpointStore:
    return CheckpointStore(folder, object_id="ad-0123456789ab", kind="adapter", key=None)


def shared(ranks: Gang, folder: Path) -> Any:
    """Numbers that each drew for itself, after the first one's were shared."""
    numbers = torch.full((3,), float(ranks.rank))
    ranks.share([numbers])
    return numbers.tolist()


def begun_otherwise(ranks: Gang, folder: Path) -> Any:
    """A run whose second process drew another adapter to begin with, as another kind of GPU would."""
    model = tiny.adapted(seed=0)
    if ranks.rank:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_A" in name:
                    parameter.normal_()
    outcome = tiny.fine_tune(SETTINGS, made=model, ranks=ranks)
    norms = {name: float(tensor.norm()) for name, tensor in adapter_state(model).items()}
    return {"losses": outcome.losses, "norms": norms}


def drifted(ranks: Gang, folder: Path) -> Any:
    """A run one of whose processes comes to hold another adapter, after the fourth step."""
    model = tiny.adapted()

    def progress(stage: str, done: int, total: int) -> None:
        if ranks.rank and (stage, done) == ("train", 4):
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad).mul_(1.1)

    try:
        tiny.fine_tune(SETTINGS, made=model, ranks=ranks, checkpoints=store(folder), on_progress=progress)
    except JobFailed as error:
        return {"said": error.message, "kept": store(folder).steps()}
    return None


def rounded(ranks: Gang, folder: Path) -> Any:
    """Adapters that differ by rounding alone."""
    require_alike([torch.ones(1000) * (1 + 1e-6 * ranks.rank), torch.zeros(3)], ranks)
    return "alike"


def missing(ranks: Gang, folder: Path) -> Any:
    """A run to be resumed, whose second process finds no checkpoint."""
    if ranks.rank == 0:
        tiny.fine_tune(SETTINGS, checkpoints=store(folder / "c"))
    ranks.told(True)
    try:
        there = store(folder / ("c" if ranks.rank == 0 else "none"))
        tiny.fine_tune(SETTINGS, checkpoints=there, resume=True, ranks=ranks)
    except JobFailed as error:
        return error.message
    return None


def main() -> None:
    scene, rank, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    with Gang(rank, 2, folder / "meeting", "gloo") as ranks:
        found = globals()[scene](ranks, folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
