"""QLoRA at 1B, 8B and 70B shapes, random weights, 2,048 tokens packed, beside the plain transformers + peft loop.

    .venv/bin/python tests/gpu/bench_shapes.py            # all of it, one process a measurement
    .venv/bin/python tests/gpu/bench_shapes.py --shapes 1b --steps 8

For each: tokens a second, peak memory and model FLOPs utilisation; then DoRA, Liger off, packing off on the 1B shape.
Weights are drawn on the GPU layer by layer, so the 70B shape needs about 40 GiB there and little of the host.
The last line is one JSON object, for tests/benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
LENGTH, ROWS = 2048, 8
RANK, ALPHA = 16, 32.0

LLAMA: dict[str, dict[str, Any]] = {
    # As published in the config.json of Llama-3.2-1B, Llama-3.1-8B and Llama-3.1-70B.
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 128},
    "70b": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
            "num_key_value_heads": 8, "head_dim": 128},
}  # fmt: skip
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16}  # fmt: skip
"""For trying this file where there is no GPU; its figures mean nothing."""

VOCAB = 128_256

PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10": 125.0}
"""Dense bf16 of the makers' data sheets, by a part of the card's name (SXM, where there are several)."""

VARIANTS = ("ours", "plain", "dora", "no-liger", "padded")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shapes", nargs="+", default=list(LLAMA), choices=[*LLAMA, "tiny"])
    parser.add_argument(
        "--steps", type=int, default=6, help="optimizer steps measured, after two that are not"
    )
    parser.add_argument("--one", nargs=2, metavar=("SHAPE", "VARIANT"))
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.steps)))
        return
    import torch

    if not torch.cuda.is_available() and options.shapes != ["tiny"]:
        raise SystemExit("There is no CUDA device.")
    results = []
    for shape in options.shapes:
        for variant in VARIANTS if shape in ("1b", "tiny") else VARIANTS[:2]:
            results.append({"shape": shape, "variant": variant} | _apart(shape, variant, options.steps))
            print("  ".join(f"{name} {value}" for name, value in results[-1].items()), flush=True)
    print(
        json.dumps(
            {
                "bench": "shapes",
                "card": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU",
                "results": results,
            }
        )
    )


def _apart(shape: str, variant: str, steps: int) -> dict[str, Any]:
    """In a process of its own; why not, where it fails (the 70B shape on a small card)."""
    command = [sys.executable, str(HERE), "--one", shape, variant, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["?"])[-1][:200]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(shape: str, variant: str, steps: int) -> dict[str, Any]:
    """Tokens a second, peak GiB and MFU of one way to train one shape."""
    import torch

    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.manual_seed(0)
    run = plain if variant == "plain" else ours
    tokens, seconds, loss = run(shape, variant, steps)
    rate = tokens / seconds
    if not torch.cuda.is_available():
        return {"tokens_per_s": round(rate, 1), "loss": round(loss, 4)}
    card = torch.cuda.get_device_name(0)
    peak = next((value for name, value in PEAK_TFLOPS.items() if name in card), None)
    return {
        "tokens_per_s": round(rate, 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "mfu": None if peak is None else round(rate * flops_per_token(shape, made_rows()) / (peak * 1e12), 4),
        "loss": round(loss, 4),
    }


def flops_per_token(shape: str, rows: Any) -> float:
    """Model FLOPs of a token: forward and the gradient of activations through every frozen weight, 4 a parameter.

    Only what these rows need counts: the head where a token is learnt, attention within a row, and no activation that
    is computed again. The gradient of the weights themselves is the adapter's alone, and left out as it is small.
    Causal attention adds 3 · 2 · 2 · layers · width · length / 2: two products forward, twice as much backward.
    """
    kept = shape_of(shape)
    width, inner, layers = kept["hidden_size"], kept["intermediate_size"], kept["num_hidden_layers"]
    heads = kept["num_attention_heads"] * kept["head_dim"]
    keys = kept["num_key_value_heads"] * kept["head_dim"]
    tokens = float(rows.lengths.sum())
    learnt = float(rows.supervised_counts.sum()) / tokens
    length = float((rows.lengths**2).sum()) / tokens  # of the row that a token is in
    parameters = layers * (2 * width * heads + 2 * width * keys + 3 * width * inner) + learnt * VOCAB * width
    attention = 3 * 2 * 2 * layers * heads * length / 2
    return 4.0 * parameters + attention


def shape_of(name: str) -> dict[str, Any]:
    return TINY if name == "tiny" else LLAMA[name]


def config_of(name: str) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(vocab_size=VOCAB, max_position_embeddings=8192, rope_theta=500000.0, **shape_of(name))


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def now() -> float:
    """Seconds, once the GPU has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def ours(shape: str, variant: str, steps: int) -> tuple[int, float, float]:
    """Our recipe, from token ids on: the base drawn on the GPU into real 4-bit layers, then `training.recipe`."""
    sys.path.insert(0, str(HERE.parents[1]))
    from cloister.api import LoraConfig, TrainConfig
    from cloister.models import loss
    from cloister.models.adapter import add_adapter
    from cloister.training import recipe

    if variant == "no-liger":
        loss.liger_loss = lambda: None
        recipe.liger_loss = lambda: None
    config = config_of(shape)
    model = drawn(config)
    model = add_adapter(model, LoraConfig(rank=RANK, alpha=ALPHA, dora=variant == "dora"))
    settings = TrainConfig(
        max_steps=steps + 2,
        epochs=1000,
        batch_size=ROWS,
        micro_batch_size=2 if shape == "1b" else 1,
        max_length=LENGTH,
        packing="off" if variant == "padded" else "on",
        gradient_checkpointing=True,
    )
    rows = made_rows()
    marks: list[float] = []

    def mark(stage: str, done: int, total: int) -> None:
        if stage == "train":
            marks.append(now())

    recipe.tokenise = lambda *_, **__: rows  # ids stand in for text: a tokenizer is not what is measured
    outcome = recipe.train(model, None, Source(len(rows)), settings, on_progress=mark)
    per_step = outcome.tokens / outcome.steps
    return int(per_step * steps), marks[-1] - marks[2], outcome.losses[-1]


class Source:
    """As many rows as there are; nobody reads them."""

    name = "made up"

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


def made_rows() -> Any:
    """Rows of many lengths whose sum is a whole number of packed lines, half of each supervised."""
    from cloister.training.rows import TokenRows

    draw = random.Random(7)
    lengths = [LENGTH, *(draw.randint(128, LENGTH) for _ in range(ROWS * 8 - 1))]
    return TokenRows.of(
        [
            ([draw.randrange(VOCAB) for _ in range(length)], [at >= length // 2 for at in range(length)])
            for length in lengths
        ]
    )


def drawn(config: Any) -> Any:
    """A model of that configuration with random weights in NF4 on the GPU, one tensor at a time."""
    import torch

    from cloister.models import nf4
    from cloister.models.load import empty_model

    place = torch.device(device())
    model = empty_model(config)
    linear = nf4.linear_layers(model)
    for name, layer in linear.items():
        weight = torch.empty(layer.out_features, layer.in_features, device=place, dtype=torch.bfloat16)
        parent, _, leaf = name.rpartition(".")
        quantised = nf4.quantised_linear(weight.normal_(std=0.02), None, place)
        setattr(model.get_submodule(parent), leaf, quantised)
    for name, parameter in list(model.named_parameters()):
        if parameter.device.type == "meta":
            value = torch.empty(parameter.shape, device=place, dtype=torch.bfloat16)
            value.fill_(1.0) if "norm" in name else value.normal_(std=0.02)
            parent, _, leaf = name.rpartition(".")
            module = model.get_submodule(parent)
            setattr(module, leaf, torch.nn.Parameter(value, requires_grad=False))
    model.tie_weights()
    return model.to(place).requires_grad_(False)


def plain(shape: str, variant: str, steps: int) -> tuple[int, float, float]:
    """What one writes by hand: 4-bit base, PEFT, gradient checkpointing, rows padded to the longest, paged AdamW."""
    import bitsandbytes
    import peft
    import torch

    rows = made_rows()
    model = drawn(config_of(shape))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    model.config.use_cache = False
    adapter = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM", bias="none"
    )
    model = peft.get_peft_model(model, adapter).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    paged = device() == "cuda"
    optimizer = (bitsandbytes.optim.PagedAdamW8bit if paged else torch.optim.AdamW)(trained, lr=2e-4)
    size = 2 if shape == "1b" else 1
    order = list(range(len(rows)))
    started, tokens, value = 0.0, 0, 0.0
    for step in range(steps + 2):
        if step == 2:
            started = now()
            tokens = 0
        random.Random(step).shuffle(order)
        for at in range(0, ROWS, size):
            batch = rows.batch(order[at : at + size], device())
            width = batch.input_ids.shape[1]
            real = torch.tensor([int(rows.lengths[i]) for i in order[at : at + size]], device=device())
            mask = torch.arange(width, device=device())[None] < real[:, None]
            labels = batch.input_ids.masked_fill(~batch.supervised, -100)
            loss = model(input_ids=batch.input_ids, attention_mask=mask.long(), labels=labels).loss
            (loss * size / ROWS).backward()
            value = float(loss.detach())
            tokens += batch.tokens
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return tokens, now() - started, value


if __name__ == "__main__":
    main()
