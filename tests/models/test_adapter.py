"""The adapter: what is stored is PEFT's, comes back the same, and is known to have moved."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import save_file
from shaking import shaken

from cloister.api import LoraConfig
from cloister.errors import InvalidInput, JobFailed, NotFound, Tampered
from cloister.models.adapter import (
    adapter_state,
    add_adapter,
    load_adapter,
    movement,
    read_adapter,
    require_movement,
    save_adapter,
)
from cloister.models.files import Folder, read_bytes
from cloister.models.load import load_base
from cloister.vault import ObjectReader

IDS = torch.randint(6, 262, (2, 21), generator=torch.Generator().manual_seed(0))
LORA = LoraConfig(rank=4, alpha=12.0)


def test_every_linear_layer_but_the_head_is_adapted(base: Folder) -> None:
    adapted = add_adapter(load_base(base)[0], LORA)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 14 and all("lora_" in name for name in trained)
    assert not any("lm_head" in name or "embed" in name for name in trained)
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}


def test_a_fresh_adapter_changes_nothing_and_has_not_moved(base: Folder) -> None:
    model, _ = load_base(base)
    before = model(IDS).logits
    adapted = add_adapter(model, LORA)
    assert torch.equal(adapted(IDS).logits, before)
    assert len(movement(adapter_state(adapted)).still) == 14
    with pytest.raises(JobFailed):
        require_movement(adapted)
    require_movement(shaken(adapted))


def test_the_names_are_those_that_peft_stores(base: Folder) -> None:
    adapted = add_adapter(load_base(base)[0], LORA)
    reference = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    own = adapter_state(adapted)
    assert own.keys() == reference.keys()
    assert all(torch.equal(own[name], reference[name]) for name in own)


def test_saved_and_loaded_it_is_the_same_model(base: Folder, make_object, no_network: list[str]) -> None:
    adapted = shaken(add_adapter(load_base(base, method="qlora")[0], LORA))

    def fill(writer) -> None:
        save_adapter(adapted, writer, "best")
        save_adapter(shaken(adapted, seed=2), writer, "last")

    stored = make_object(fill=fill, kind="adapter")
    assert sorted(stored.files) == [
        "adapter_config.json",
        "best/adapter.safetensors",
        "last/adapter.safetensors",
    ]
    loaded = load_adapter(load_base(base, method="qlora")[0], stored, "last")
    assert torch.equal(loaded(IDS).logits, adapted(IDS).logits)
    load_adapter(loaded, stored, "best")
    assert torch.equal(loaded(IDS).logits, shaken(adapted)(IDS).logits)
    assert not no_network


def test_peft_itself_opens_what_is_stored(
    base: Folder, trained_adapter: ObjectReader, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_bytes(read_bytes(trained_adapter, "adapter_config.json"))
    save_file(read_adapter(trained_adapter, "best"), tmp_path / "adapter_model.safetensors")
    theirs = peft.PeftModel.from_pretrained(load_base(base)[0], str(tmp_path))
    ours = load_adapter(load_base(base)[0], trained_adapter, "best")
    assert torch.equal(theirs(IDS).logits, ours(IDS).logits)


def test_an_adapter_of_another_base_is_refused(
    base: Folder, trained_adapter: ObjectReader, tmp_path: Path
) -> None:
    import tiny

    other = Folder(tiny.save_base(tmp_path, tiny.model(dtype=torch.bfloat16, hidden_size=32)))
    with pytest.raises(InvalidInput, match="not one for this base"):
        load_adapter(load_base(other)[0], trained_adapter, "best")
    deeper = Folder(tiny.save_base(tmp_path, tiny.model(dtype=torch.bfloat16, num_hidden_layers=3)))
    with pytest.raises(InvalidInput, match="not one for this base"):
        load_adapter(load_base(deeper)[0], trained_adapter, "best")
    with pytest.raises(NotFound):
        load_adapter(load_base(base)[0], trained_adapter, "worst")


def test_one_changed_byte_in_it_is_found(base: Folder, trained_adapter: ObjectReader, tmp_path: Path) -> None:
    path = next(tmp_path.glob("object-*/best/adapter.safetensors"))
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(Tampered):
        load_adapter(load_base(base)[0], trained_adapter, "best")


def test_a_frozen_adapter_is_not_saved_as_if_it_trained(base: Folder, make_object) -> None:
    adapted = shaken(add_adapter(load_base(base)[0], LORA))
    next(p for n, p in adapted.named_parameters() if "lora_A" in n).requires_grad_(False)
    with pytest.raises(JobFailed, match="do not train"):
        make_object(fill=lambda writer: save_adapter(adapted, writer, "best"))


def test_the_stored_configuration_names_no_place(trained_adapter: ObjectReader) -> None:
    document = json.loads(read_bytes(trained_adapter, "adapter_config.json"))
    assert document["base_model_name_or_path"] is None and document["r"] == 4
    assert document["lora_alpha"] == 12.0 and "q_proj" in document["target_modules"]
