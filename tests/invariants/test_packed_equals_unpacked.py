"""Packed ≡ unpacked: the same loss, gradients and trajectory, and a row's logits ignore its neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import tiny
from cloister.api import LoraConfig
from cloister.datasets.rows import Message, Row
from cloister.errors import Interrupted, InvalidInput
from cloister.models.adapter import add_adapter
from cloister.models.borders import Borders
from cloister.models.loss import supervised_loss
from cloister.training import attention, passes, probe
from cloister.training.checkpoint import CheckpointStore
from cloister.training.fused import fuse
from cloister.training.rows import RowSource, tokenise

SHAPE: dict[str, Any] = {
    "vocab_size": 262,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 5,
}
WINDOW = {"sliding_window": 8, "head_dim": 16}
ARCHITECTURES: dict[str, Any] = {
    "llama": lambda: tiny.model(),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, **WINDOW)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, **WINDOW)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SHAPE)),
}


def ready(make: Any) -> Any:
    """A model of which every part has a say, fused as for training."""
    torch.manual_seed(0)
    model = add_adapter(make().requires_grad_(False), LoraConfig(rank=4, alpha=8)).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05)
    fuse(model)
    return model


def gradients(model: Any, batches: list[tuple[torch.Tensor, torch.Tensor, Borders | None]]) -> Any:
    total = 0.0
    for ids, supervised, borders in batches:
        loss = supervised_loss(model, ids, supervised, borders=borders).nats
        if loss.requires_grad:
            loss.backward()
        total += float(loss)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return total, found


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(
    "lengths",
    [(5, 12, 9, 1, 20), (530, 30), (40, 3, 3, 1, 3, 3, 3, 3)],
    ids=["short", "long", "uneven"],
)
def test_loss_and_gradients_are_those_of_the_rows_alone(name: str, lengths: tuple[int, ...]) -> None:
    model = ready(ARCHITECTURES[name])
    torch.manual_seed(3)
    rows = [torch.randint(6, 200, (1, length)) for length in lengths]
    masks = [torch.rand(1, length) < 0.5 for length in lengths]
    for mask in masks:
        mask[:, 0] = False
    alone = gradients(model, [(ids, mask, None) for ids, mask in zip(rows, masks, strict=True)])
    packed = gradients(model, [(torch.cat(rows, 1), torch.cat(masks, 1), Borders.of(lengths))])
    assert packed[0] == pytest.approx(alone[0], rel=1e-5)
    for key, grad in alone[1].items():
        assert float((grad - packed[1][key]).abs().max()) < 1e-5 * max(1.0, float(grad.abs().max()))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_probe_finds_it_exact(name: str) -> None:
    rows = tokenise(RowSource(tiny.rows(8), range(8)), tiny.tokenizer(), 128)
    assert probe.packing_fault(ready(ARCHITECTURES[name]), rows, torch.device("cpu")) is None


def test_a_model_that_cannot_be_packed_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tokenise(RowSource(tiny.rows(8), range(8)), tiny.tokenizer(), 128)
    capped = ready(lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, **WINDOW)))
    assert "cannot be packed" in str(probe.packing_fault(capped, rows, torch.device("cpu")))
    with pytest.raises(InvalidInput, match="cannot be packed"):
        tiny.fine_tune(tiny.config(packing="on"), made=capped)

    dropping = ready(lambda: tiny.model(attention_dropout=0.1))
    assert "cannot be packed" in str(probe.packing_fault(dropping, rows, torch.device("cpu")))
    assert dropping.training

    def leaking(query: Any, key: Any, value: Any, borders: Any, scale: float, window: Any) -> Any:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=True
        )
        return out.transpose(1, 2)

    monkeypatch.setattr(attention, "_packed", leaking)
    monkeypatch.setattr(passes, "WORTH_ON_CPU", 0.0)
    model = ready(ARCHITECTURES["llama"])
    assert "depend on the row before" in str(probe.packing_fault(model, rows, torch.device("cpu")))
    said: list[str] = []
    tiny.fine_tune(tiny.config(max_steps=1), made=model, on_notice=lambda level, text: said.append(text))
    assert any("not packed" in text for text in said)


def test_by_itself_a_cpu_packs_where_there_is_much_to_pad() -> None:
    """Lengths as alike as these are grouped; with one row of a batch long and the others short, it pays."""
    alike = tiny.fine_tune(tiny.config(max_steps=1))
    long = [Row((Message("user", "x" * 180), row.messages[1])) if i % 4 == 0 else row
            for i, row in enumerate(tiny.rows(64))]  # fmt: skip
    mixed = tiny.fine_tune(
        tiny.config(max_steps=1, batch_size=48, micro_batch_size=48, max_length=256), data=long
    )
    assert not alike.packed and mixed.packed


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_the_trajectory_is_the_same_to_rounding(loss_on: str) -> None:
    """With all tokens learnt, no row's first one is predicted from the row before."""
    packed = tiny.fine_tune(tiny.config(packing="on", micro_batch_size=4, loss_on=loss_on))
    padded = tiny.fine_tune(tiny.config(packing="off", micro_batch_size=4, loss_on=loss_on))
    assert packed.packed and not padded.packed
    assert packed.losses == pytest.approx(padded.losses, rel=1e-4)
    assert packed.tokens == padded.tokens and packed.supervised_tokens == padded.supervised_tokens
    assert [loss for _, loss in packed.holdout_losses] == pytest.approx(
        [loss for _, loss in padded.holdout_losses], rel=1e-4
    )


def test_resumed_packed_equals_uninterrupted(tmp_path: Path) -> None:
    def store() -> CheckpointStore:
        return CheckpointStore(tmp_path / "c", object_id="ad-0123456789ab", kind="adapter", key=bytes(32))

    whole = tiny.fine_tune(tiny.config(packing="on", micro_batch_size=2))
    asked = iter(range(9))
    with pytest.raises(Interrupted):
        tiny.fine_tune(
            tiny.config(packing="on", micro_batch_size=2),
            checkpoints=store(),
            should_stop=lambda: next(asked, None) is None,
        )
    again = tiny.fine_tune(tiny.config(packing="on", micro_batch_size=2), checkpoints=store(), resume=True)
    assert again.losses == whole.losses
    assert tiny.same_adapter(again.last, whole.last)
