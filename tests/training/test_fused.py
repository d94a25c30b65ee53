"""The fused layers compute what peft's and transformers' compute, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, MistralConfig, MistralForCausalLM
from transformers.models.llama import modeling_llama

import tiny
from cloister.api import LoraConfig
from cloister.models import nf4
from cloister.models.adapter import add_adapter
from cloister.models.loss import supervised_loss
from cloister.training.fused import fuse
from cloister.training.rotary import use_rotary

LLAMA_ROTARY = modeling_llama.apply_rotary_pos_emb


def moved(model: Any) -> Any:
    """Give B numbers, as after some training."""
    torch.manual_seed(7)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05)
    return model


def batch(rows: int = 3, width: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    ids = torch.randint(6, 200, (rows, width))
    return ids, torch.rand(rows, width) < 0.5


def gradients(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    ids, supervised = batch()
    loss = supervised_loss(model, ids, supervised).nats
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def small(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    return kind(config).requires_grad_(False)


SHAPE: dict[str, Any] = {
    "vocab_size": 262,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}

ARCHITECTURES = {
    "llama": lambda: tiny.model(),
    "biased": lambda: tiny.model(attention_bias=True, mlp_bias=True),
    "window": lambda: small(MistralForCausalLM, MistralConfig(**SHAPE, sliding_window=8)),
    "gemma3": lambda: small(Gemma3ForCausalLM, Gemma3TextConfig(**SHAPE, sliding_window=8)),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fused_equals_unfused(name: str) -> None:
    one, other = (
        moved(add_adapter(ARCHITECTURES[name](), LoraConfig(rank=4, alpha=8))).train() for _ in range(2)
    )
    assert fuse(one) == 14
    loss, grads = gradients(one)
    wanted, wanted_grads = gradients(other)
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert grads.keys() == wanted_grads.keys()
    for key, grad in grads.items():
        torch.testing.assert_close(grad, wanted_grads[key], rtol=1e-3, atol=1e-4)


def test_fusing_twice_changes_nothing_more() -> None:
    model = moved(tiny.adapted()).train()
    fuse(model)
    first = gradients(model)
    model.zero_grad()
    fuse(model)
    second = gradients(model)
    assert first[0] == second[0]
    assert tiny.same_adapter(first[1], second[1])


def test_a_switched_off_adapter_leaves_the_base_alone() -> None:
    model = moved(tiny.adapted()).eval()
    ids, _ = batch()
    fuse(model)
    with torch.no_grad(), model.disable_adapter():
        off = model(ids).logits
    with torch.no_grad():
        on = model(ids).logits
        base = tiny.model()(ids).logits
    torch.testing.assert_close(off, base, rtol=1e-5, atol=1e-5)
    assert float((on - base).abs().max()) > 1e-3


def test_dropout_acts_in_training_alone() -> None:
    model = moved(tiny.adapted(lora=LoraConfig(rank=4, alpha=8, dropout=0.5)))
    ids, _ = batch()
    fuse(model)
    with torch.no_grad():
        model.train()
        assert not torch.equal(model(ids).logits, model(ids).logits)
        model.eval()
        assert torch.equal(model(ids).logits, model(ids).logits)


def test_gradients_keep_flowing_through_a_real_4bit_layer_after_evaluation() -> None:
    """The trap: `Linear4bit` repacks its weight in evaluation mode, and training goes on with no gradient."""
    model = tiny.model(dtype=torch.bfloat16)
    for name, layer in nf4.linear_layers(model).items():
        parent, _, leaf = name.rpartition(".")
        quantised = nf4.quantised_linear(layer.weight.data, None, torch.device("cpu"))
        setattr(model.get_submodule(parent), leaf, quantised)
    torch.manual_seed(1)
    model = moved(add_adapter(model, LoraConfig(rank=4, alpha=8)))
    assert fuse(model) == 14
    model.train()
    loss, grads = gradients(model)
    model.zero_grad()
    model.eval()
    with torch.no_grad():
        model(batch()[0])
    model.train()
    again, grads_again = gradients(model)
    assert again == loss
    assert tiny.same_adapter(grads, grads_again)
    assert all(float(grad.abs().max()) > 0 for grad in grads.values())


def test_round_tripped_layers_equal_real_4bit_ones() -> None:
    rounded = tiny.model(dtype=torch.bfloat16)
    real = tiny.model(dtype=torch.bfloat16)
    for name, layer in nf4.linear_layers(rounded).items():
        parent, _, leaf = name.rpartition(".")
        setattr(
            real.get_submodule(parent),
            leaf,
            nf4.quantised_linear(layer.weight.data, None, torch.device("cpu")),
        )
        layer.weight.data = nf4.round_trip(layer.weight.data)
    results = []
    for model in (rounded, real):
        torch.manual_seed(1)
        made = moved(add_adapter(model, LoraConfig(rank=4, alpha=8))).train()
        fuse(made)
        results.append(gradients(made))
    assert results[0][0] == results[1][0]
    assert tiny.same_adapter(results[0][1], results[1][1])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layers_that_read_the_same_are_computed_once_and_stand_once_in_memory(name: str) -> None:
    model = moved(add_adapter(ARCHITECTURES[name](), LoraConfig(rank=4, alpha=8)))
    fuse(model)
    layers = model.get_base_model().model.layers
    for group in ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"):
        for layer in layers:
            place = layer.self_attn if group[0] == "q_proj" else layer.mlp
            weights = [getattr(place, member).base_layer.weight for member in group]
            (storage,) = {weight.untyped_storage().data_ptr() for weight in weights}
            assert weights[0].untyped_storage().nbytes() == sum(weight.nbytes for weight in weights)
            assert storage == weights[0].data_ptr()


def test_what_waits_for_the_second_layer_is_never_old() -> None:
    model = moved(tiny.adapted()).train()
    other = moved(tiny.adapted()).train()
    fuse(model)
    one, two = (each.get_base_model().model.layers[0].self_attn for each in (model, other))
    x = torch.randn(2, 5, one.q_proj.base_layer.in_features)
    with torch.no_grad():
        one.q_proj(x)  # key and value wait
        for place in (one, two):
            place.k_proj.lora_B["default"].weight.mul_(3)
    torch.testing.assert_close(one.k_proj(x), two.k_proj(x))  # with the new parameter
    with torch.no_grad():
        one.q_proj(x)
    assert one.v_proj(x).requires_grad  # not what was made without a gradient
    for place in (one, two):
        place.v_proj.base_layer.weight.data = place.v_proj.base_layer.weight.data * 2
    torch.testing.assert_close(one.v_proj(x + 1), two.v_proj(x + 1))  # another weight, given since


def test_a_gradient_through_a_frozen_head_is_that_of_torch() -> None:
    model, other = (moved(tiny.adapted()).train() for _ in range(2))
    head = model.get_base_model().get_output_embeddings()
    assert not head.weight.requires_grad
    ids, supervised = batch(5, 40)
    loss = supervised_loss(model, ids, supervised, chunk=16)
    logits = other(input_ids=ids).logits[:, :-1][supervised[:, 1:]]
    expected = torch.nn.functional.cross_entropy(logits, ids[:, 1:][supervised[:, 1:]], reduction="sum")
    torch.testing.assert_close(loss.nats, expected)
    (loss.nats / 7).backward()
    (expected / 7).backward()
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(supervised_loss(model, ids, supervised).nats, expected.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_positions_are_turned_as_transformers_does_to_the_bit(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    def turned() -> list[torch.Tensor]:
        torch.manual_seed(0)
        line = torch.randn(2, 7, 4, 16, dtype=dtype)
        q, k = (each.transpose(1, 2).requires_grad_() for each in (line, line[:, :, :2] * 2))
        cos, sin = (torch.randn(1, 7, 16, dtype=dtype) for _ in range(2))
        got = modeling_llama.apply_rotary_pos_emb(q, k, cos, sin)
        return [*got, *torch.autograd.grad([each.square().sum() for each in got], [q, k])]

    theirs = LLAMA_ROTARY
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", theirs)
    wanted = turned()
    assert use_rotary(tiny.model())
    assert modeling_llama.apply_rotary_pos_emb is not theirs
    for one, two in zip(turned(), wanted, strict=True):
        assert torch.equal(one, two)
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", lambda q, k, cos, sin: (q, k))
    assert not use_rotary(tiny.model())  # another function than Llama's is left alone


def test_gradients_add_up_where_there_is_one_already_and_a_hook_sees_them() -> None:
    model = tiny.adapted()
    fuse(model)
    ids = torch.arange(12).view(2, 6)

    def backward() -> dict[str, torch.Tensor]:
        model(input_ids=ids, labels=ids).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    once, twice = backward(), backward()
    assert once
    assert all(torch.allclose(twice[name], 2 * once[name], rtol=1e-5, atol=1e-9) for name in once)
    name, parameter = next((n, p) for n, p in model.named_parameters() if "lora_B" in n)
    parameter.register_hook(torch.zeros_like)
    assert torch.equal(backward()[name], twice[name])
