"""Merging an adapter into its base: W + scale · B·A, tensor by tensor, from files to a file.

With DoRA each output row of that sum is then brought to the length that was trained. Memory stays at about the
largest tensor. Knows nothing of which result is better: that is measured elsewhere, on the candidates that this makes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from cloister.errors import InvalidInput
from cloister.models import nf4
from cloister.models.adapter import WEIGHTS, _join, base_name, read_adapter_config
from cloister.models.files import CONFIG_FILES, TOKENIZER_FILES, Files, read_bytes, read_json
from cloister.models.load import empty_model, read_config
from cloister.models.tensors import SafetensorsReader, SafetensorsWriter, TensorSpec
from cloister.vault import ObjectWriter

Variant = Literal["pristine", "nf4"]
_ROWS_BYTES = 4 << 20


@dataclass(frozen=True)
class Merged:
    """What was merged: tensors written, how many of them the adapter changed, and parameters in all."""

    tensors: int
    adapted: int
    parameters: int


def merge_to(
    writer: ObjectWriter,
    base: Files,
    adapter: Files,
    *,
    base_variant: Variant,
    prefix: str = "best",
    device: str | torch.device = "cpu",
    template: tuple[str, tuple[int, ...]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Merged:
    """Writes the merged model: `model.safetensors`, its configuration, tokenizer and chat template.

    `pristine` adds the adapter to the base's own weights, `nf4` to what they are after NF4 and back,
    which is what a QLoRA adapter was trained on. Sums are done in fp32 and rounded once to bf16.

    Args:
        writer: the object that the files are written to.
        base: the base model; may be sharded; tied embeddings stay tied.
        adapter: the adapter object.
        prefix: which adapter of it, `best` or `last`.
        device: where to compute. The NF4 round trip is that of this device.
        template: the chat template that it was trained with, where that is not the base's own, and the token ids
            that end a turn in it.
        progress: called with bytes done and bytes in all.
    """
    with SafetensorsReader.of(base) as reader, _Delta(adapter, prefix) as delta:
        specs = [_merged_spec(spec) for spec in reader.specs]
        with writer.create("model.safetensors") as file:
            out = SafetensorsWriter(file, specs)
            done, total = 0, sum(spec.nbytes for spec in specs)
            order = [spec.name for spec in out.order]
            for name, tensor in _merged(base, reader, delta, base_variant, torch.device(device), order):
                out.write(name, tensor)
                done += tensor.nbytes
                if progress is not None:
                    progress(done, total)
            out.finish()
        adapted = len(delta.targets)
    _copy_rest(writer, base, template)
    return Merged(len(specs), adapted, sum(spec.nbytes // spec.dtype.itemsize for spec in specs))


def merged_weights(
    base: Files,
    adapter: Files,
    *,
    base_variant: Variant,
    prefix: str = "best",
    device: str | torch.device = "cpu",
) -> Iterator[tuple[str, torch.Tensor]]:
    """The merged tensors one by one, as `merge_to` writes them: to measure a candidate in memory."""
    with SafetensorsReader.of(base) as reader, _Delta(adapter, prefix) as delta:
        yield from _merged(base, reader, delta, base_variant, torch.device(device), list(reader.names))


class _Delta:
    """The adapter's pairs by the base weight that they change."""

    def __init__(self, files: Files, prefix: str) -> None:
        config = read_adapter_config(files)
        self.scale = config.scale
        self._halves = {"A", "B", "m"} if config.dora else {"A", "B"}
        self._reader = SafetensorsReader.of(files, (_join(prefix, WEIGHTS),))
        self.targets: dict[str, dict[str, str]] = {}
        for stored in self._reader.names:
            place = base_name(stored)
            if place is None:
                raise InvalidInput("the adapter holds a tensor that is not LoRA's", where=stored)
            self.targets.setdefault(place[0], {})[place[1]] = stored

    def __enter__(self) -> _Delta:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def parts(self, name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """(A, B, DoRA's lengths or None) of one base weight, in fp32."""
        stored = self.targets[name]
        if stored.keys() != self._halves:
            raise InvalidInput("the adapter lacks one half of a pair", where=name)
        a, b = (self._reader.tensor(stored[half]).float() for half in "AB")
        return a, b, self._reader.tensor(stored["m"]).float() if "m" in stored else None


def _merged(
    base: Files,
    reader: SafetensorsReader,
    delta: _Delta,
    variant: Variant,
    device: torch.device,
    order: list[str],
) -> Iterator[tuple[str, torch.Tensor]]:
    unknown = sorted(delta.targets.keys() - set(reader.names))
    if unknown:
        raise InvalidInput("the adapter is not one for this base model", where=unknown[0])
    rounded = _quantised_names(base) if variant == "nf4" else frozenset()
    for name in order:
        tensor = reader.tensor(name)
        if tensor.is_floating_point():
            tensor = tensor.to(device, torch.bfloat16)
        if name in rounded:
            tensor = nf4.round_trip(tensor)
        if name in delta.targets:
            a, b, lengths = (half if half is None else half.to(device) for half in delta.parts(name))
            assert a is not None and b is not None
            if (b.shape[0], a.shape[1]) != tuple(tensor.shape) or (
                lengths is not None and lengths.shape != tensor.shape[:1]
            ):
                raise InvalidInput("the adapter's shapes do not fit the base model", where=name)
            _add_in_place(tensor, a, b, delta.scale, lengths)
        yield name, tensor
        del tensor


def _add_in_place(
    weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, lengths: torch.Tensor | None
) -> None:
    """weight += scale · b·a, summed in fp32, some rows at a time so that no fp32 copy of it all exists.

    With `lengths` each row is brought to its own afterwards.
    """
    rows = max(1, _ROWS_BYTES // (4 * weight.shape[1]))
    for start in range(0, weight.shape[0], rows):
        part = weight[start : start + rows]
        total = torch.addmm(part.float(), b[start : start + rows], a, alpha=scale)
        if lengths is not None:
            total.mul_((lengths[start : start + rows] / torch.linalg.vector_norm(total, dim=1))[:, None])
        part.copy_(total)


def _quantised_names(base: Files) -> frozenset[str]:
    model = empty_model(read_config(base))
    return frozenset(f"{name}.weight" for name in nf4.linear_layers(model))


def _merged_spec(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(
        spec.name, torch.bfloat16 if spec.dtype.is_floating_point else spec.dtype, tuple(spec.shape)
    )


def with_ends(before: int | list[int] | None, ends: tuple[int, ...]) -> list[int]:
    """The ids that end an answer: those of a generation configuration, and `ends`."""
    own = [] if before is None else [before] if isinstance(before, int) else list(before)
    return own + [number for number in ends if number not in own]


def _copy_rest(writer: ObjectWriter, base: Files, template: tuple[str, tuple[int, ...]] | None) -> None:
    """Configuration and tokenizer as the base has them, but for the data type and the chat template."""
    present = (TOKENIZER_FILES | CONFIG_FILES) & set(base.files)
    written: dict[str, bytes] = {}
    for name in present:
        if name == "config.json":
            config = read_json(base, name)
            config.pop("torch_dtype", None)
            written[name] = _json(config | {"dtype": "bfloat16"})
        else:
            written[name] = read_bytes(base, name)
    if template is not None:
        text, ends = template
        written.pop("chat_template.json", None)
        written["chat_template.jinja"] = text.encode()
        tokenizer = read_json(base, "tokenizer_config.json")
        tokenizer.pop("chat_template", None)
        written["tokenizer_config.json"] = _json(tokenizer)
        name = "generation_config.json"
        generation = read_json(base, name) if name in present else {}
        before = generation.get("eos_token_id", read_json(base, "config.json").get("eos_token_id"))
        written[name] = _json(generation | {"eos_token_id": with_ends(before, ends)})
    for name in sorted(written):
        with writer.create(name) as file:
            file.write(written[name])


def _json(document: dict[str, object]) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True).encode()
