"""Merging: W + scale·B·A in one rounding, close to the adapter, in the memory of a tensor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from shaking import shaken

import tiny
from cloister.api import LoraConfig
from cloister.errors import InvalidInput
from cloister.models import nf4
from cloister.models.adapter import add_adapter, load_adapter, read_adapter, save_adapter
from cloister.models.files import Folder, read_bytes
from cloister.models.load import load_base, load_model
from cloister.models.merge import Variant, merge_to, merged_weights
from cloister.models.tensors import SafetensorsReader
from cloister.vault import ObjectReader

IDS = torch.randint(6, 262, (3, 30), generator=torch.Generator().manual_seed(0))
VARIANTS: list[Variant] = ["pristine", "nf4"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_tensor_is_the_sum_rounded_once(
    base: Folder, trained_adapter: ObjectReader, variant: Variant
) -> None:
    adapter = read_adapter(trained_adapter, "best")
    with SafetensorsReader.of(base) as reader:
        before = dict(reader.stream())
    merged = dict(merged_weights(base, trained_adapter, base_variant=variant))
    assert merged.keys() == before.keys() and "lm_head.weight" not in merged
    changed = 0
    for name, weight in before.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" not in adapter:
            assert torch.equal(merged[name], weight)
            continue
        changed += 1
        start = nf4.round_trip(weight) if variant == "nf4" else weight
        a, b = adapter[f"{stem}.lora_A.weight"], adapter[f"{stem}.lora_B.weight"]
        expected = (start.float() + (12.0 / 4) * (b @ a)).bfloat16()
        assert torch.allclose(merged[name].float(), expected.float(), rtol=2**-8, atol=1e-6)
        assert not torch.equal(merged[name], weight)
    assert changed == 14


@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_is_close_to_the_adapter_it_was_made_of(
    base: Folder, trained_adapter: ObjectReader, make_object, variant: Variant
) -> None:
    """The architecture's promise: merged ≈ adapter, measured, on the base that the adapter sits on."""
    method = "qlora" if variant == "nf4" else "lora"
    adapted = load_adapter(load_base(base, method=method)[0], trained_adapter, "best")
    sealed = make_object(
        fill=lambda writer: merge_to(writer, base, trained_adapter, base_variant=variant, prefix="best")
    )
    merged, tokenizer = load_base(sealed)
    tuned, measured, plain = adapted(IDS).logits, merged(IDS).logits, load_base(base)[0](IDS).logits
    gap = (measured - tuned).float().abs().mean()
    assert gap < 0.05 * (tuned - plain).float().abs().mean()
    assert (measured.argmax(-1) == tuned.argmax(-1)).float().mean() > 0.95
    assert merged.lm_head.weight.data_ptr() == merged.model.embed_tokens.weight.data_ptr()
    assert tokenizer.chat_template == tiny.TEMPLATE
    in_memory = load_model(base, merged_weights(base, trained_adapter, base_variant=variant))
    assert torch.equal(in_memory(IDS).logits, measured)


def test_everything_else_comes_along_and_all_of_it_is_sealed(
    base: Folder, base_folder: Path, trained_adapter: ObjectReader, make_object
) -> None:
    seen: list[tuple[int, int]] = []
    sealed = make_object(
        fill=lambda writer: merge_to(
            writer, base, trained_adapter, base_variant="pristine", progress=lambda *now: seen.append(now)
        )
    )
    assert set(sealed.files) == {path.name for path in base_folder.iterdir()}
    for name in set(sealed.files) - {"config.json", "model.safetensors"}:
        assert read_bytes(sealed, name) == (base_folder / name).read_bytes()
    assert json.loads(read_bytes(sealed, "config.json"))["dtype"] == "bfloat16"
    assert all(record.header for record in sealed.manifest.files)
    assert seen[-1][0] == seen[-1][1] and seen == sorted(seen)


def test_a_sharded_base_merges_to_the_same(
    base: Folder, sharded: Folder, trained_adapter: ObjectReader, make_object
) -> None:
    one, other = (
        make_object(fill=lambda writer, s=source: merge_to(writer, s, trained_adapter, base_variant="nf4"))
        for source in (base, sharded)
    )
    assert torch.equal(load_base(one)[0](IDS).logits, load_base(other)[0](IDS).logits)
    assert "model.safetensors.index.json" not in other.files


def test_an_untied_head_is_copied(tmp_path: Path, make_object) -> None:
    model = tiny.model(dtype=torch.bfloat16, tie_word_embeddings=False)
    base = Folder(tiny.save_base(tmp_path / "untied", model))
    adapted = shaken(add_adapter(load_base(base)[0], LoraConfig(rank=2, alpha=4)))
    adapter = make_object(fill=lambda writer: save_adapter(adapted, writer, "best"))
    merged = dict(merged_weights(base, adapter, base_variant="nf4"))
    assert torch.equal(merged["lm_head.weight"], model.lm_head.weight)


def test_an_adapter_of_another_base_is_refused(
    tmp_path: Path, trained_adapter: ObjectReader, make_object
) -> None:
    small = Folder(tiny.save_base(tmp_path / "small", tiny.model(dtype=torch.bfloat16, hidden_size=32)))
    flat = Folder(tiny.save_base(tmp_path / "flat", tiny.model(dtype=torch.bfloat16, num_hidden_layers=1)))
    for other in (small, flat):
        with pytest.raises(InvalidInput):
            dict(merged_weights(other, trained_adapter, base_variant="pristine"))


@pytest.mark.parametrize("changes", [{"dora": True}, {"rslora": True}, {"dora": True, "rslora": True}])
@pytest.mark.parametrize("variant", VARIANTS)
def test_dora_and_rslora_merge_to_what_they_computed(
    base: Folder, make_object, variant: Variant, changes: dict[str, bool]
) -> None:
    """Against PEFT's own forward, with every part of the adapter moved; reloaded, it is the same adapter."""
    method = "qlora" if variant == "nf4" else "lora"
    lora = LoraConfig(rank=4, alpha=8, **changes)
    adapted = shaken(add_adapter(load_base(base, method=method, dtype=torch.float32)[0], lora))
    for name, parameter in adapted.named_parameters():
        if "magnitude" in name:
            parameter.data.mul_(
                1 + 0.3 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
    adapter = make_object(fill=partial(save_adapter, adapted, prefix="best"))
    again = load_adapter(load_base(base, method=method, dtype=torch.float32)[0], adapter, "best")
    tuned = adapted.eval()(IDS).logits
    assert torch.equal(again.eval()(IDS).logits, tuned)
    merged = load_model(base, merged_weights(base, adapter, base_variant=variant), dtype=torch.float32)
    plain = load_base(base, dtype=torch.float32)[0](IDS).logits
    assert (merged(IDS).logits - tuned).abs().mean() < 0.02 * (tuned - plain).abs().mean()


def test_an_adapter_that_lacks_a_part_of_its_arithmetic_is_refused(
    base: Folder, trained_adapter: ObjectReader, make_object
) -> None:
    def fill(writer) -> None:
        for name in trained_adapter.files:
            content = read_bytes(trained_adapter, name)
            if name == "adapter_config.json":
                content = json.dumps(json.loads(content) | {"use_dora": True}).encode()
            with writer.create(name) as file:
                file.write(content)

    with pytest.raises(InvalidInput, match="lacks one half"):
        dict(merged_weights(base, make_object(fill=fill), base_variant="pristine"))


MEASURED = """
import ctypes, os, sys
from pathlib import Path
from cloister.models.files import Folder
from cloister.models.merge import merge_to
from cloister.vault import ObjectReader, ObjectWriter

variant, key = sys.argv[1], bytes.fromhex(sys.argv[2])
folder, sealed, out = map(Path, sys.argv[3:])
base, adapter = Folder(folder), ObjectReader(sealed, key=key)

def merge(number):
    writer = ObjectWriter(out / f"merged-{number}", object_id="mm-00000000000" + number, kind="model", key=bytes(32))
    merge_to(writer, base, adapter, base_variant=variant)

merge("1")  # whatever is loaded by the first is no part of it
ctypes.CDLL(None).malloc_trim(0)
before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
Path("/proc/self/clear_refs").write_text("5")
merge("2")
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 - before)
"""


@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_is_that_of_a_tensor_not_of_the_model(tmp_path: Path, make_object, variant: Variant) -> None:
    model = tiny.model(dtype=torch.bfloat16, hidden_size=512, intermediate_size=4096, num_hidden_layers=10)
    base = Folder(tiny.save_base(tmp_path / "wide", model))
    adapted = shaken(add_adapter(model, LoraConfig(rank=8, alpha=8)))
    adapter = make_object(fill=partial(save_adapter, adapted, prefix="best"))
    with SafetensorsReader.of(base) as reader:
        total, largest = reader.nbytes, max(spec.nbytes for spec in reader.specs)
    assert total > 120 << 20 and largest == 4 << 20
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            MEASURED,
            variant,
            adapter._key.hex(),
            tmp_path / "wide",
            adapter.folder,
            tmp_path,
        ],
        capture_output=True,
        text=True,
        # What is given back leaves the process at once: the figure is what is held, not what malloc keeps.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 18), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    extra = int(done.stdout)
    assert extra < 10 * largest < 0.4 * total, f"{extra >> 20} MiB"
