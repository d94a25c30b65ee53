"""The recipe on a real GPU: varlen attention, Liger's loss, DoRA, resuming, and memory that runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from cloister.api import LoraConfig
from cloister.errors import Interrupted
from cloister.models import loss as loss_module
from cloister.models.adapter import add_adapter
from cloister.models.borders import Borders
from cloister.models.files import Folder
from cloister.models.load import load_base
from cloister.models.loss import liger_loss, supervised_loss
from cloister.training import probe
from cloister.training.checkpoint import CheckpointStore
from cloister.training.fused import fuse
from cloister.training.optimizer import AdapterOptimizer
from cloister.training.rows import RowSource, tokenise

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture
def base(tmp_path: Path) -> Folder:
    return Folder(tiny.save_base(tmp_path, tiny.model(dtype=torch.bfloat16, initializer_range=0.1)))


def ready(base: Folder, **lora: Any) -> Any:
    model, _ = load_base(base, method="qlora", device="cuda")
    torch.manual_seed(1)
    return add_adapter(model, LoraConfig(rank=4, alpha=8, **lora))


def test_packed_rows_come_out_as_alone(base: Folder) -> None:
    model = ready(base)
    fuse(model)
    rows = tokenise(RowSource(tiny.rows(8), range(8)), tiny.tokenizer(), 128)
    assert probe.packing_fault(model, rows, torch.device("cuda")) is None
    model.train()
    parts = [rows.packed([i], "cuda") for i in range(8)]
    whole = rows.packed(range(8), "cuda")
    assert isinstance(whole.borders, Borders)
    together = supervised_loss(model, whole.input_ids, whole.supervised, borders=whole.borders).nats
    alone = sum(supervised_loss(model, p.input_ids, p.supervised, borders=p.borders).nats for p in parts)
    assert float(together) == pytest.approx(float(alone), rel=5e-3)


@pytest.mark.parametrize("changes", [{}, {"dora": True}, {"rslora": True}], ids=["lora", "dora", "rslora"])
@pytest.mark.parametrize("packing", ["on", "off"])
def test_it_learns(base: Folder, changes: dict[str, bool], packing: Any) -> None:
    settings = tiny.config(packing=packing, lora=LoraConfig(rank=4, alpha=8, **changes), learning_rate=1e-2)
    outcome = tiny.fine_tune(settings, made=ready(base, **changes))
    assert outcome.packed == (packing == "on")
    assert outcome.losses[-1] < outcome.losses[0] - 0.2


def test_ligers_loss_is_ours(base: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    if liger_loss() is None:
        pytest.skip("liger-kernel is not installed")
    model = ready(base).train()
    batch = tokenise(RowSource(tiny.rows(8), range(8)), tiny.tokenizer(), 128).batch(range(8), "cuda")
    found = []
    for fused in (True, False):
        if not fused:
            monkeypatch.setattr(loss_module, "liger_loss", lambda: None)
        loss = supervised_loss(model, batch.input_ids, batch.supervised).nats
        loss.backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        found.append((float(loss), grads))
    assert found[0][0] == pytest.approx(found[1][0], rel=2e-3)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=5e-2, atol=2e-2)


@pytest.mark.parametrize("optimizer", ["paged_adamw_8bit", "adamw"])
def test_resumed_goes_on_where_it_was(base: Folder, tmp_path: Path, optimizer: Any) -> None:
    """Kernels on a GPU may add in another order: the losses agree to that."""
    settings = tiny.config(optimizer=optimizer)
    whole = tiny.fine_tune(settings, made=ready(base))

    def store() -> CheckpointStore:
        return CheckpointStore(tmp_path / "c", object_id="ad-0123456789ab", kind="adapter", key=bytes(32))

    asked = iter(range(7))
    with pytest.raises(Interrupted):
        tiny.fine_tune(
            settings,
            made=ready(base),
            checkpoints=store(),
            should_stop=lambda: next(asked, None) is None,
        )
    again = tiny.fine_tune(settings, made=ready(base), checkpoints=store(), resume=True)
    assert again.losses == pytest.approx(whole.losses, rel=2e-2)


def test_a_paged_state_is_taken_up_to_the_last_bit() -> None:
    """Moments of 8 bits in memory that CUDA moves, and of 32 bits where there are few numbers."""
    device = torch.device("cuda")

    def made() -> tuple[AdapterOptimizer, list[torch.nn.Parameter]]:
        torch.manual_seed(0)
        own = [torch.nn.Parameter(torch.randn(size, device=device)) for size in ((400, 300), (64, 80), (50,))]
        return AdapterOptimizer(own, tiny.config(optimizer="paged_adamw_8bit"), device), own

    (first, one), (second, other) = made(), made()
    tensors = tiny.hand_over(first, one, second, other)
    assert first.torch.state[one[0]]["state1"].is_paged
    assert {tensor.dtype for tensor in tensors.values()} == {torch.uint8, torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_memory_that_runs_out_is_no_end(base: Folder) -> None:
    said: list[str] = []
    model = ready(base)
    held = torch.empty(0)

    def fill(module: Any, arguments: Any, known: Any) -> None:
        nonlocal held
        ids = known.get("input_ids", arguments[0] if arguments else None)
        if ids.numel() > 200:  # more than any GPU has
            held = torch.empty(1 << 50, dtype=torch.uint8, device="cuda")

    model.get_base_model().model.register_forward_pre_hook(fill, with_kwargs=True)
    outcome = tiny.fine_tune(made=model, on_notice=lambda level, text: said.append(text))
    assert any("Memory ran out" in text for text in said)
    assert outcome.losses[-1] < outcome.losses[0] and not held.numel()
