"""Loading a sealed model against loading the same tensors in the open.

Both sides are what vLLM's loaders iterate over: its own safetensors iterator on a plain file, and ours
on a sealed one. Each tensor is copied into a parameter, as a model's `load_weights` does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from cloister.models.tensors import SafetensorsReader, SafetensorsWriter, TensorSpec
from cloister.vault import ObjectReader, ObjectWriter

HIDDEN, INTERMEDIATE = 2048, 5632


def specs(total: int) -> list[TensorSpec]:
    """Layers of a 1B-class Llama until `total` bytes are reached."""
    made: list[TensorSpec] = [TensorSpec("model.embed_tokens.weight", torch.bfloat16, (32_000, HIDDEN))]
    layer = 0
    while sum(spec.nbytes for spec in made) < total:
        shapes = {
            "input_layernorm": (HIDDEN,),
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (HIDDEN // 4, HIDDEN),
            "self_attn.v_proj": (HIDDEN // 4, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
            "mlp.up_proj": (INTERMEDIATE, HIDDEN),
            "mlp.down_proj": (HIDDEN, INTERMEDIATE),
        }
        made += [
            TensorSpec(f"model.layers.{layer}.{name}.weight", torch.bfloat16, s) for name, s in shapes.items()
        ]
        layer += 1
    return made


def write(folder: Path, key: bytes | None, total: int) -> None:
    writer = ObjectWriter(folder, object_id="mm-000000000001", kind="model", key=key)
    with writer.create("model.safetensors") as file:
        out = SafetensorsWriter(file, specs(total))
        for spec in out.order:
            noise = torch.frombuffer(bytearray(os.urandom(spec.nbytes)), dtype=torch.uint8)
            out.write(spec.name, noise.view(spec.dtype).reshape(spec.shape))
        out.finish()
    writer.finish(created_at="2026-01-01T00:00:00Z")


def load(parameters: dict[str, torch.Tensor], weights: Iterator[tuple[str, torch.Tensor]]) -> float:
    began = time.perf_counter()
    for name, tensor in weights:
        parameters[name].copy_(tensor)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where to put the files")
    options = parser.parse_args()

    from vllm.model_executor.model_loader.weight_utils import safetensors_weights_iterator

    torch.set_num_threads(1)  # the copying is the same on both sides, and busy threads would only blur it
    total = int(options.gib * (1 << 30))
    root = Path(tempfile.mkdtemp(prefix="bench-load-", dir=options.folder))
    key = os.urandom(32)
    try:
        write(root / "plain", None, total)
        write(root / "sealed", key, total)

        def plain() -> Iterator[tuple[str, torch.Tensor]]:
            yield from safetensors_weights_iterator([str(root / "plain" / "model.safetensors")], False)

        def sealed() -> Iterator[tuple[str, torch.Tensor]]:
            with SafetensorsReader.of(ObjectReader(root / "sealed", key=key)) as reader:
                yield from reader.stream()

        parameters = {spec.name: torch.zeros(spec.shape, dtype=spec.dtype) for spec in specs(total)}
        size = sum(tensor.nbytes for tensor in parameters.values()) / (1 << 30)
        sides: dict[str, Callable[[], Iterator[tuple[str, torch.Tensor]]]] = {
            "plain": plain,
            "sealed": sealed,
        }
        best = {name: float("inf") for name in sides}
        for _ in range(options.rounds):  # sides take turns, so that a busy moment does not hit one alone
            for name, weights in sides.items():
                best[name] = min(best[name], load(parameters, weights()))
    finally:
        shutil.rmtree(root)

    for name, seconds in best.items():
        print(f"{name:>7}: {seconds:6.2f} s, {size / seconds:5.2f} GiB/s")
    ratio = best["sealed"] / best["plain"]
    print(f"a sealed model takes {ratio:.2f} times as long to load as one in the open")
    print(json.dumps({"benchmark": "load", "gib": round(size, 2), "seconds": best, "ratio": round(ratio, 3)}))


if __name__ == "__main__":
    main()
