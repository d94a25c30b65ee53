"""What `cloister plan` says a run takes, against the peak that it took: resident memory, eleven configurations.

Each run is a process of its own over a base at random weights, as a worker would load and train it. Prints plan,
peak and ratio; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

BASES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
              "num_key_value_heads": 4, "vocab_size": 32_000},
    "wide": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 6, "num_attention_heads": 12,
             "num_key_value_heads": 12, "vocab_size": 128_000},
    "deep": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 14, "num_attention_heads": 16,
             "num_key_value_heads": 4, "vocab_size": 32_000},
}  # fmt: skip

RUNS: list[dict[str, Any]] = [
    {"base": "small", "rows": 8, "length": 128},
    {"base": "small", "rows": 16, "length": 512},
    {"base": "small", "rows": 2, "length": 2048, "answer": 0.9},
    {"base": "small", "rows": 8, "length": 512, "gradient_checkpointing": True},
    {"base": "small", "rows": 4, "length": 256, "lora": {"rank": 128, "alpha": 128}},
    {"base": "wide", "rows": 4, "length": 256, "answer": 0.9},
    {"base": "wide", "rows": 2, "length": 1024, "answer": 0.1},
    {"base": "deep", "rows": 2, "length": 512},
    {"base": "deep", "rows": 1, "length": 1024, "method": "lora"},
    {"base": "deep", "rows": 4, "length": 512, "gradient_checkpointing": True},
    # Long enough, and with a hold-out, for all copies of its adapter.
    {"base": "small", "rows": 4, "length": 256, "lora": {"rank": 128}, "steps": 41, "held_out": True},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", type=int, help="the number of one configuration")
    parser.add_argument("--child")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run(json.loads(options.child), options.folder)))
        return
    ratios = []
    with tempfile.TemporaryDirectory() as work:
        for name, shape in BASES.items():
            child("make", {"base": name, "shape": shape}, Path(work) / name)
        for number, config in enumerate(RUNS):
            if options.only not in (None, number):
                continue
            told = child("run", config, Path(work) / config["base"])
            ratios.append(told["plan"] / told["peak"])
            parts = " ".join(f"{name}={size >> 20}" for name, size in told["parts"].items())
            print(
                f"{number}: plan {told['plan'] >> 20} MiB, peak {told['peak'] >> 20}, {ratios[-1]:.2f}  ({parts})",
                flush=True,
            )
    worst = max(ratios, key=lambda ratio: abs(ratio - 1))
    print(
        json.dumps(
            {
                "bench": "plan",
                "ratio": round(worst, 3),
                "aim": "within 0.85 to 1.15",
                "ratios": [round(r, 3) for r in ratios],
            }
        )
    )


def child(what: str, config: dict[str, Any], folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(HERE), "--child", json.dumps({"what": what, **config}), "--folder", str(folder)],
        capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def run(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    import torch

    import tiny

    if config.pop("what") == "make":
        made = tiny.model(
            dtype=torch.bfloat16, max_position_embeddings=4096, initializer_range=0.02, **config["shape"]
        )
        tiny.save_base(folder, made)
        return {}
    torch.set_num_threads(os.cpu_count() or 1)
    from cloister.api import TrainConfig
    from cloister.datasets.rows import Message, Row
    from cloister.models.adapter import add_adapter
    from cloister.models.base import base_details
    from cloister.models.files import Folder
    from cloister.models.load import load_base
    from cloister.planning.lengths import Lengths
    from cloister.planning.memory import training_parts
    from cloister.planning.shape import ModelShape
    from cloister.training.recipe import train
    from cloister.training.rows import RowSource

    config.pop("base")
    count, length, answer = config.pop("rows"), config.pop("length"), config.pop("answer", 0.3)
    steps, held_out = config.pop("steps", 2), config.pop("held_out", False)
    config.setdefault("gradient_checkpointing", False)
    train_config = TrainConfig(
        batch_size=count,
        micro_batch_size=count,
        max_length=length,
        max_steps=steps,
        epochs=steps,
        eval_every=10,
        **config,
    )
    shape = ModelShape.from_details(base_details(Folder(folder)))
    assert shape is not None
    replies = round((length - 8) * answer)
    row = Row((Message("user", "a" * (length - 8 - replies)), Message("assistant", "b" * replies)))
    rows = [row] * count
    model, tokenizer = load_base(Folder(folder), method=train_config.method)
    model = add_adapter(model, train_config.lora)
    source = RowSource(rows, range(count))
    train(model, tokenizer, source, train_config, holdout=source if held_out else None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    lengths = Lengths(count, count * (length - 4), length - 4, answer, measured=True)
    tokens = lengths.tokens if held_out else 0
    parts = training_parts(shape, train_config, lengths, "cpu", held_out=tokens)
    return {
        "peak": peak,
        "plan": sum(part.bytes for part in parts),
        "parts": {part.name: part.bytes for part in parts},
    }


if __name__ == "__main__":
    main()
