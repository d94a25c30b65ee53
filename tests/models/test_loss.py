"""The loss at supervised positions equals the loss of the whole forward, for each architecture."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import tiny
from cloister.api import LoraConfig
from cloister.models import loss as loss_module
from cloister.models.adapter import add_adapter
from cloister.models.loss import liger_loss, supervised_loss

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CASES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 8}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 8}),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, {"head_dim": 8, "final_logit_softcapping": 3.0}),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, {"head_dim": 8, "final_logit_softcapping": 3.0}),
    "phi": (PhiForCausalLM, PhiConfig, {}),
    "phi3": (Phi3ForCausalLM, Phi3Config, {}),
    "cohere": (CohereForCausalLM, CohereConfig, {"logit_scale": 0.25}),
}


def make(name: str) -> Any:
    kind, config, extra = CASES[name]
    torch.manual_seed(0)
    model = kind(config(**SHAPE, **extra)).float()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def batch(rows: int = 3, length: int = 19, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 97, (rows, length), generator=generator)
    return ids, torch.rand(rows, length, generator=generator) > 0.6


def reference(model: Any, ids: torch.Tensor, supervised: torch.Tensor) -> torch.Tensor:
    labels = ids.masked_fill(~supervised, -100)[:, 1:]
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    return functional.cross_entropy(
        logits.reshape(-1, 97), labels.reshape(-1), ignore_index=-100, reduction="sum"
    )


@pytest.mark.parametrize("name", CASES)
def test_equals_the_whole_forward_with_its_gradient(name: str) -> None:
    model = make(name)
    ids, supervised = batch()
    expected = reference(model, ids, supervised)
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    for chunk in (5, 4096):
        loss = supervised_loss(model, ids, supervised, chunk=chunk)
        assert loss.count == int(supervised[:, 1:].sum())
        torch.testing.assert_close(loss.nats, expected, rtol=1e-5, atol=1e-4)
        got = torch.autograd.grad(loss.nats, list(model.parameters()))
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in CASES if name != "cohere"])
def test_rows_packed_behind_one_another_ignore_their_neighbours(name: str) -> None:
    model = make(name).eval()
    first, second = batch(1, 11, 1), batch(1, 17, 2)
    for _, supervised in (first, second):
        supervised[:, 0] = False
    apart = [supervised_loss(model, *row).nats for row in (first, second)]
    ids, supervised = (torch.cat(pair, dim=1) for pair in zip(first, second, strict=True))
    positions = torch.cat([torch.arange(11), torch.arange(17)]).unsqueeze(0)
    together = supervised_loss(model, ids, supervised, position_ids=positions)
    torch.testing.assert_close(together.nats, sum(apart), rtol=1e-5, atol=1e-4)


def test_padding_is_what_lies_behind_whatever_its_token_is() -> None:
    model = make("llama").eval()
    ids, supervised = batch(2, 12)
    alone = supervised_loss(model, ids, supervised)
    for filler in (0, 2, 50):
        padded = functional.pad(ids, (0, 6), value=filler)
        loss = supervised_loss(model, padded, functional.pad(supervised, (0, 6), value=False))
        assert loss.count == alone.count
        torch.testing.assert_close(loss.nats, alone.nats, rtol=1e-5, atol=1e-4)


def test_an_end_of_turn_that_is_also_padding_still_counts() -> None:
    model = make("llama").eval()
    ids, supervised = torch.tensor([[1, 5, 6, 0, 0, 0]]), torch.tensor([[0, 0, 1, 1, 0, 0]]).bool()
    assert supervised_loss(model, ids, supervised).count == 2


def test_left_padding_needs_its_mask_and_positions() -> None:
    model = make("llama").eval()
    ids, supervised = batch(1, 9)
    alone = supervised_loss(model, ids, supervised.index_fill(1, torch.tensor([0]), False))
    mask = torch.tensor([[0] * 4 + [1] * 9])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    padded = functional.pad(supervised, (4, 0), value=False)
    padded[:, 4] = False
    loss = supervised_loss(
        model, functional.pad(ids, (4, 0), value=0), padded, attention_mask=mask, position_ids=positions
    )
    torch.testing.assert_close(loss.nats, alone.nats, rtol=1e-5, atol=1e-4)


def test_through_an_adapter_it_is_the_adapters_loss() -> None:
    model = add_adapter(tiny.model(), LoraConfig(rank=2, alpha=8))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids, supervised = batch()
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1][supervised[:, 1:]]
    expected = functional.cross_entropy(logits, ids[:, 1:][supervised[:, 1:]], reduction="sum")
    loss = supervised_loss(model, ids, supervised)
    torch.testing.assert_close(loss.nats, expected, rtol=1e-5, atol=1e-4)
    loss.nats.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_nothing_supervised_is_nothing() -> None:
    ids, supervised = batch()
    loss = supervised_loss(make("llama"), ids, torch.zeros_like(supervised))
    assert loss.count == 0 and float(loss.nats) == 0.0


def test_ligers_loss_is_left_alone_where_its_kernels_would_not_compile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = SimpleNamespace(LigerFusedLinearCrossEntropyLoss=object)
    monkeypatch.setitem(sys.modules, "liger_kernel", SimpleNamespace(transformers=kernel))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", kernel)
    monkeypatch.setattr(loss_module.compiler, "missing", lambda: None)
    assert liger_loss() is object
    monkeypatch.setattr(loss_module.compiler, "missing", lambda: "a C compiler")
    assert liger_loss() is None
