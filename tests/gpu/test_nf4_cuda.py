"""NF4 on a real GPU: real 4-bit layers, the loss trains through them, and memory shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny
from cloister.api import LoraConfig
from cloister.models import nf4
from cloister.models.adapter import adapter_state, add_adapter, movement
from cloister.models.files import Folder
from cloister.models.load import load_base
from cloister.models.loss import supervised_loss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture
def base(tmp_path: Path) -> Folder:
    return Folder(tiny.save_base(tmp_path, tiny.model(dtype=torch.bfloat16, initializer_range=0.1)))


def test_every_linear_layer_but_the_head_is_a_4_bit_layer(base: Folder) -> None:
    import bitsandbytes

    model, _ = load_base(base, method="qlora", device="cuda")
    layers = nf4.linear_layers(model)
    assert len(layers) == 14 and all(isinstance(v, bitsandbytes.nn.Linear4bit) for v in layers.values())
    assert all(parameter.device.type == "cuda" for parameter in model.parameters())
    pristine, _ = load_base(base, device="cuda")
    for name, layer in nf4.linear_layers(pristine).items():
        hidden = torch.randn(5, layer.in_features, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        expected = torch.nn.functional.linear(hidden, nf4.round_trip(layer.weight))
        torch.testing.assert_close(layers[name].train()(hidden), expected, rtol=2e-2, atol=2e-2)


def test_the_adapter_trains_through_them_also_after_an_evaluation(base: Folder) -> None:
    model, _ = load_base(base, method="qlora", device="cuda")
    adapted = add_adapter(model, LoraConfig(rank=4, alpha=8))
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    ids = torch.randint(6, 262, (4, 24), device="cuda")
    supervised = torch.ones_like(ids, dtype=torch.bool)
    losses = []
    for _ in range(8):
        adapted.eval()
        with torch.no_grad():
            supervised_loss(adapted, ids, supervised)
        adapted.train()
        loss = supervised_loss(adapted, ids, supervised)
        (loss.nats / loss.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.nats) / loss.count)
    assert losses[-1] < losses[0]
    assert not movement(adapter_state(adapted)).still


def test_a_wide_model_takes_about_a_quarter(tmp_path: Path) -> None:
    wide = tiny.model(dtype=torch.bfloat16, hidden_size=1024, intermediate_size=4096, num_hidden_layers=4)
    files = Folder(tiny.save_base(tmp_path, wide))
    used = {}
    for method in ("none", "qlora"):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        model, _ = load_base(files, method=method, device="cuda")  # type: ignore[arg-type]
        used[method] = torch.cuda.memory_allocated() - before
        del model
    assert used["qlora"] < 0.35 * used["none"]
