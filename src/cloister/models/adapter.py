"""The LoRA adapter: put on a model, taken off it as tensors, stored, loaded, and asked if it moved.

Stores what PEFT stores, in its names and its `adapter_config.json`, but writes it itself: PEFT's own
`save_pretrained` asks a hub about the base model. Knows nothing of optimisers or steps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cloister.api import LoraConfig
from cloister.errors import InvalidInput, JobFailed, NotFound
from cloister.models import nf4
from cloister.models.files import Files, read_json
from cloister.models.tensors import SafetensorsReader, write_tensors
from cloister.vault import ObjectWriter

CONFIG = "adapter_config.json"
WEIGHTS = "adapter.safetensors"
_PREFIX = "base_model.model."
_MAGNITUDE = ".lora_magnitude_vector"


@dataclass(frozen=True)
class AdapterConfig:
    """What `adapter_config.json` says of an adapter, as far as the arithmetic goes."""

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    rslora: bool = False
    dora: bool = False

    @property
    def scale(self) -> float:
        """What multiplies B·A: alpha / rank, or alpha / sqrt(rank) for rsLoRA (arXiv 2312.03732)."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def lora(self) -> LoraConfig:
        """As it was asked for."""
        return LoraConfig(
            rank=self.rank, alpha=self.alpha, dropout=self.dropout, rslora=self.rslora, dora=self.dora
        )


@dataclass(frozen=True)
class Movement:
    """How many adapted layers there are, and which of them did not move."""

    layers: int
    still: tuple[str, ...]


def add_adapter(model: Any, config: LoraConfig, *, dtype: torch.dtype = torch.float32) -> Any:
    """`model` as a `PeftModel` with a fresh adapter on every linear layer but the output head.

    A is drawn from torch's generator, B is zero, both in `dtype`; only they require gradients. With DoRA (arXiv
    2402.09353) there is a length for each output row, too, at first that of the base's row.
    """
    import peft

    targets = sorted({name.rpartition(".")[2] for name in nf4.linear_layers(model)})
    if not targets:
        raise InvalidInput("the model has no linear layer to adapt")
    adapted = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # a float is what the arithmetic uses; PEFT only types it as int
            lora_dropout=config.dropout,
            use_rslora=config.rslora,
            use_dora=config.dora,
            target_modules=targets,
            bias="none",
            task_type="CAUSAL_LM",
        ),
    )
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            if not _of_adapter(name):
                raise JobFailed(f"parameter {name!r} would be trained although it is not the adapter's")
            parameter.data = parameter.data.to(dtype)
    return adapted


def adapter_state(model: Any) -> dict[str, torch.Tensor]:
    """The adapter's tensors by PEFT's stored names, detached, on their own device."""
    return {
        _stored(name): parameter.detach() for name, parameter in model.named_parameters() if _of_adapter(name)
    }


def set_adapter_state(model: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Copies `state` into the model's adapter. Raises `InvalidInput` unless names and shapes agree."""
    own = {_stored(name): parameter for name, parameter in model.named_parameters() if _of_adapter(name)}
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())
        raise InvalidInput(
            f"the adapter is not one for this base model: {len(odd)} names differ", where=odd[0]
        )
    with torch.no_grad():
        for name, parameter in own.items():
            if parameter.shape != state[name].shape:
                raise InvalidInput("the adapter is not one for this base model: shapes differ", where=name)
            parameter.copy_(state[name])


def save_adapter(model: Any, writer: ObjectWriter, prefix: str = "") -> None:
    """Writes `<prefix>/adapter.safetensors`, and `adapter_config.json` at the top once.

    Raises `JobFailed` where a part of the adapter no longer requires gradients.
    """
    frozen = [n for n, p in model.named_parameters() if "lora_" in n and not p.requires_grad]
    if frozen:
        raise JobFailed(f"{len(frozen)} tensors of the adapter do not train", where=frozen[0])
    if all(record.path != CONFIG for record in writer.records):
        with writer.create(CONFIG) as file:
            file.write(_config_document(model))
    with writer.create(_join(prefix, WEIGHTS)) as file:
        write_tensors(file, adapter_state(model))


def load_adapter(model: Any, files: Files, prefix: str = "", *, dtype: torch.dtype = torch.float32) -> Any:
    """`model` with the stored adapter: as a new `PeftModel`, or into the one that it already is."""
    config = read_adapter_config(files)
    if not hasattr(model, "peft_config"):
        model = add_adapter(model, config.lora(), dtype=dtype)
    set_adapter_state(model, read_adapter(files, prefix))
    return model


def read_adapter(files: Files, prefix: str = "") -> dict[str, torch.Tensor]:
    """The stored adapter's tensors."""
    name = _join(prefix, WEIGHTS)
    if name not in set(files.files):
        raise NotFound("the adapter has no such file", where=name)
    with SafetensorsReader.of(files, (name,)) as reader:
        return dict(reader.stream())


def read_adapter_config(files: Files) -> AdapterConfig:
    """The adapter's configuration. Raises `InvalidInput` for what the arithmetic here does not cover."""
    document = read_json(files, CONFIG)
    for key in ("lora_bias", "rank_pattern", "alpha_pattern", "modules_to_save"):
        if document.get(key):
            raise InvalidInput(f"adapters with {key} are not supported", where=CONFIG)
    try:
        return AdapterConfig(
            rank=int(document["r"]),
            alpha=float(document["lora_alpha"]),
            dropout=float(document.get("lora_dropout", 0.0)),
            targets=tuple(document["target_modules"]),
            rslora=bool(document.get("use_rslora", False)),
            dora=bool(document.get("use_dora", False)),
        )
    except (KeyError, TypeError, ValueError):
        raise InvalidInput("not the configuration of a LoRA adapter", where=CONFIG) from None


def begun_with(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of each layer's B where a model's adapter has learnt something already; empty for a fresh one."""
    b = {name: tensor for name, tensor in adapter_state(model).items() if ".lora_B." in name}
    learnt = any(bool(torch.count_nonzero(tensor)) for tensor in b.values())
    return {name: tensor.to("cpu", copy=True) for name, tensor in b.items()} if learnt else {}


def movement(state: Mapping[str, torch.Tensor], begun: Mapping[str, torch.Tensor] | None = None) -> Movement:
    """Whether each layer of an adapter moved: off what it `begun` with, else off zero, where it adds nothing."""
    b = {name: tensor for name, tensor in state.items() if ".lora_B." in name}
    still = tuple(
        name
        for name, tensor in b.items()
        if (torch.equal(tensor.cpu(), begun[name]) if begun else not bool(torch.count_nonzero(tensor)))
    )
    return Movement(layers=len(b), still=still)


def require_movement(model: nn.Module, begun: Mapping[str, torch.Tensor] | None = None) -> None:
    """Raises `JobFailed` where training left any layer of the adapter as it was, or a tensor of it trains no more."""
    frozen = [name for name, p in model.named_parameters() if "lora_" in name and not p.requires_grad]
    if frozen:
        raise JobFailed(f"{len(frozen)} tensors of the adapter no longer train.", where=frozen[0])
    moved = movement(adapter_state(model), begun)
    if moved.still:
        raise JobFailed(
            f"{len(moved.still)} of {moved.layers} adapted layers never moved",
            where=moved.still[0],
            remedy="Check the learning rate and that rows have supervised tokens.",
        )


def base_name(stored: str) -> tuple[str, str] | None:
    """(weight name in the base model, "A", "B" or "m") of a stored adapter tensor, or None if it is none of them.

    "m" is DoRA's length of each output row.
    """
    for part, suffix in (("A", ".lora_A.weight"), ("B", ".lora_B.weight"), ("m", _MAGNITUDE)):
        if stored.startswith(_PREFIX) and stored.endswith(suffix):
            return stored[len(_PREFIX) : -len(suffix)] + ".weight", part
    return None


def _stored(name: str) -> str:
    """PEFT leaves the adapter's own name (`default`) out of what it stores."""
    name = name.replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")
    return name.replace(f"{_MAGNITUDE}.default.weight", _MAGNITUDE)


def _of_adapter(name: str) -> bool:
    return any(part in name for part in (".lora_A.", ".lora_B.", f"{_MAGNITUDE}."))


def _join(prefix: str, name: str) -> str:
    return f"{prefix.rstrip('/')}/{name}" if prefix else name


def _config_document(model: Any) -> bytes:
    config = model.peft_config["default"].to_dict()
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    plain |= {"inference_mode": True, "base_model_name_or_path": None}
    return json.dumps(plain, indent=2, sort_keys=True, default=str).encode()
