"""Loading a base: the same numbers as transformers, NF4 as bitsandbytes has it, and never a hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import bitsandbytes
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cloister.api import LoraConfig
from cloister.errors import CloisterError, InvalidInput, NotFound, Tampered
from cloister.models import nf4
from cloister.models.adapter import add_adapter
from cloister.models.files import Folder
from cloister.models.load import load_base
from cloister.models.loss import supervised_loss

IDS = torch.randint(6, 262, (2, 21), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def copy(base_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base_folder, tmp_path / "copy"))


def test_the_same_logits_as_transformers(base: Folder, base_folder: Path) -> None:
    model, tokenizer = load_base(base)
    reference = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.bfloat16)
    assert torch.equal(model(IDS).logits, reference(IDS).logits)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    expected = AutoTokenizer.from_pretrained(base_folder)
    chat = [{"role": "user", "content": "héllo"}]
    assert tokenizer.apply_chat_template(chat) == expected.apply_chat_template(chat)


def test_sealed_sharded_and_plain_load_alike(
    base: Folder, base_folder: Path, sharded: Folder, make_object
) -> None:
    plain, _ = load_base(base, dtype=torch.float32)
    for other in (make_object(base_folder), make_object(base_folder, sealed=False, kind="base"), sharded):
        model, _ = load_base(other, dtype=torch.float32)
        assert torch.equal(model(IDS).logits, plain(IDS).logits)


def test_the_whole_house_of_files_is_read_without_a_network(base: Folder, no_network: list[str]) -> None:
    load_base(base, method="qlora")
    assert not no_network


def test_qlora_on_a_cpu_is_linear4bit_in_training_mode_bit_for_bit(base: Folder) -> None:
    pristine, _ = load_base(base)
    quantised, _ = load_base(base, method="qlora")
    before, after = nf4.linear_layers(pristine), nf4.linear_layers(quantised)
    assert before.keys() == after.keys() and len(before) == 14
    for name, layer in before.items():
        real = nf4.quantised_linear(layer.weight, layer.bias, torch.device("cpu")).train()
        hidden = torch.randn(5, 7, layer.in_features, dtype=torch.bfloat16, requires_grad=True)
        twin = hidden.detach().clone().requires_grad_()
        ours, theirs = after[name](hidden), real(twin)
        assert torch.equal(ours, theirs)
        ours.float().sum().backward()
        theirs.float().sum().backward()
        assert torch.equal(hidden.grad, twin.grad)
        assert not torch.equal(layer.weight, after[name].weight)
    assert torch.equal(pristine.model.embed_tokens.weight, quantised.model.embed_tokens.weight)


@pytest.mark.parametrize("shape", [(3, 6), (64, 64), (96, 200), (257, 130), (1030, 1026)])
def test_round_trip_at_odd_sizes(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    real = bitsandbytes.nn.Linear4bit(
        shape[1],
        shape[0],
        bias=False,
        compute_dtype=torch.bfloat16,
        quant_type="nf4",
        compress_statistics=True,
    )
    real.load_state_dict({"weight": weight})
    real = real.to("cpu").train()
    hidden = torch.randn(4, shape[1], dtype=torch.bfloat16, requires_grad=True)
    once = nf4.round_trip(weight)
    assert torch.equal(torch.nn.functional.linear(hidden, once), real(hidden))


def test_evaluating_a_quantised_layer_does_not_spoil_it_for_training() -> None:
    weight = torch.randn(64, 64).bfloat16()
    layer = nf4.quantised_linear(weight, None, torch.device("cpu"))
    quiet = torch.randn(3, 64, dtype=torch.bfloat16)
    layer.eval()(quiet)
    hidden = torch.randn(3, 64, dtype=torch.bfloat16, requires_grad=True)
    layer.train()(hidden).float().sum().backward()
    expected = torch.ones(3, 64).bfloat16() @ nf4.round_trip(weight)
    assert torch.equal(hidden.grad, expected)


def edit(folder: Path, name: str, **changes: object) -> None:
    document = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(document | changes))


@pytest.mark.parametrize(
    ("name", "changes", "error"),
    [
        ("config.json", {"auto_map": {"AutoModel": "evil.Model"}}, InvalidInput),
        ("config.json", {"quantization_config": {"quant_method": "gptq"}}, InvalidInput),
        ("config.json", {"model_type": "never-heard-of"}, InvalidInput),
        ("config.json", {"hidden_size": 128}, Tampered),
        ("config.json", {"num_hidden_layers": 3}, Tampered),
        ("config.json", {"num_hidden_layers": 1}, InvalidInput),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}, InvalidInput),
    ],
)
def test_what_does_not_fit_is_refused(
    copy: Path, name: str, changes: dict, error: type[CloisterError]
) -> None:
    edit(copy, name, **changes)
    with pytest.raises(error):
        load_base(Folder(copy))


def test_no_weights_no_model(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(NotFound):
        load_base(Folder(copy))


def test_an_adapter_trains_through_real_4_bit_layers_as_through_round_tripped_ones(base: Folder) -> None:
    """What runs on CUDA, here on the CPU: same loss, same gradients, also after an evaluation."""
    results = []
    for real in (False, True):
        model, _ = load_base(base, method="none" if real else "qlora")
        if real:
            for name, layer in nf4.linear_layers(model).items():
                parent, _, leaf = name.rpartition(".")
                quantised = nf4.quantised_linear(layer.weight, layer.bias, torch.device("cpu"))
                setattr(model.get_submodule(parent), leaf, quantised)
        torch.manual_seed(3)
        adapted = add_adapter(model, LoraConfig(rank=2, alpha=4.0))
        with torch.no_grad():
            supervised_loss(adapted.eval(), IDS, torch.ones_like(IDS).bool())
        loss = supervised_loss(adapted.train(), IDS, torch.ones_like(IDS).bool())
        loss.nats.backward()
        grads = {n: p.grad for n, p in adapted.named_parameters() if p.requires_grad and "lora_B" in n}
        results.append((loss.nats, grads))
    (plain, expected), (quantised_loss, got) = results
    assert torch.equal(plain, quantised_loss) and len(got) == 14
    assert all(torch.equal(expected[name], grad) and bool(grad.any()) for name, grad in got.items())
