"""AdamW over the adapter, and its state as tensors and JSON: fused, or paged 8-bit on CUDA.

Knows parameters and moments; not the schedule, and not files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cloister.api import TrainConfig
from cloister.errors import InvalidInput, Tampered

BETAS = (0.9, 0.999)
EPS = 1e-8

_TENSOR = "tensor:"


def make_optimizer(
    parameters: Sequence[nn.Parameter], config: TrainConfig, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW for `parameters` on `device`: what the configuration says, `auto` being paged 8-bit on CUDA.

    Raises InvalidInput where the paged one is asked for without a GPU.
    """
    options: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": BETAS,
        "eps": EPS,
        "weight_decay": config.weight_decay,
    }
    wanted = config.optimizer
    if wanted == "auto":
        wanted = "paged_adamw_8bit" if device.type == "cuda" else "adamw"
    if wanted == "paged_adamw_8bit":
        if device.type != "cuda":
            raise InvalidInput(
                "paged_adamw_8bit needs a GPU", where="optimizer", remedy="Use `optimizer: auto`."
            )
        from bitsandbytes.optim import PagedAdamW8bit

        optimizer: torch.optim.Optimizer = PagedAdamW8bit(_groups(parameters, config), **options)
        return optimizer
    return torch.optim.AdamW(_groups(parameters, config), fused=True, **options)


def _groups(parameters: Sequence[nn.Parameter], config: TrainConfig) -> list[dict[str, Any]]:
    """All in one group, but for DoRA's lengths where weights decay: they are no differences from the base, and a length
    that decayed would take the base's own weight with it."""
    lengths = [parameter for parameter in parameters if parameter.ndim == 1]
    if not (lengths and config.weight_decay):
        return [{"params": list(parameters)}]
    others = [parameter for parameter in parameters if parameter.ndim != 1]
    return [{"params": others}, {"params": lengths, "weight_decay": 0.0}]


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Any]:
    """The state as tensors by name and a JSON document that says where each belongs."""
    tensors: dict[str, Tensor] = {}

    def split(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value.detach()
            return _TENSOR + path
        if isinstance(value, Mapping):
            # JSON has no integer keys, and bitsandbytes has both kinds.
            return {"map": [[type(k).__name__, str(k), split(v, f"{path}.{k}")] for k, v in value.items()]}
        if isinstance(value, (list, tuple)):
            return {type(value).__name__: [split(v, f"{path}.{i}") for i, v in enumerate(value)]}
        return value

    return tensors, split(optimizer.state_dict(), "optimizer")


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], document: Any) -> None:
    """The inverse of `optimizer_state`. Raises `Tampered` where tensors and document do not fit."""

    def join(value: Any) -> Any:
        if isinstance(value, str) and value.startswith(_TENSOR):
            return tensors[value.removeprefix(_TENSOR)]
        if isinstance(value, dict) and "map" in value:
            return {int(key) if kind == "int" else key: join(v) for kind, key, v in value["map"]}
        if isinstance(value, dict) and "list" in value:
            return [join(v) for v in value["list"]]
        if isinstance(value, dict) and "tuple" in value:
            return tuple(join(v) for v in value["tuple"])
        return value

    try:
        optimizer.load_state_dict(join(document))
    except (KeyError, ValueError) as error:
        raise Tampered("the optimizer's state in the checkpoint does not fit the adapter") from error
