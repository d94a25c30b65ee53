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
from cloister.training.vector import Vector

BETAS = (0.9, 0.999)
EPS = 1e-8

_TENSOR = "tensor:"


class AdapterOptimizer:
    """AdamW for `parameters` on `device`: what the configuration says, `auto` being paged 8-bit on CUDA.

    A step: `clear`, backward passes, `gradients`, `clip`, `step`. Raises InvalidInput where the paged one is asked for
    without a GPU.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], config: TrainConfig, device: torch.device) -> None:
        options: dict[str, Any] = {
            "lr": config.learning_rate,
            "betas": BETAS,
            "eps": EPS,
            "weight_decay": config.weight_decay,
        }
        wanted = config.optimizer
        if wanted == "auto":
            wanted = "paged_adamw_8bit" if device.type == "cuda" else "adamw"
        self._parameters = list(parameters)
        self._vectors: list[Vector] = []
        self.torch: torch.optim.Optimizer
        if wanted == "paged_adamw_8bit":
            if device.type != "cuda":
                raise InvalidInput(
                    "paged_adamw_8bit needs a GPU", where="optimizer", remedy="Use `optimizer: auto`."
                )
            from bitsandbytes.optim import PagedAdamW8bit

            self.torch = PagedAdamW8bit(_groups(parameters, config), **options)
            return
        groups = _groups(parameters, config)
        for group in groups:
            self._vectors.append(Vector(group["params"]))
            group["params"] = [self._vectors[-1].whole]
        self.torch = torch.optim.AdamW(groups, fused=True, **options)

    def clear(self) -> None:
        """Forget the gradient."""
        for vector in self._vectors:
            vector.clear()
        if not self._vectors:
            self.torch.zero_grad(set_to_none=True)

    def gradients(self) -> list[Tensor]:
        """The gradient, in as many pieces as the optimizer takes. To be added up in place."""
        for vector in self._vectors:
            vector.gather()
        for parameter in self._parameters:
            if parameter.grad is None:  # no row of this step fell to this process
                parameter.grad = torch.zeros_like(parameter)
        return [each.grad for each in self._pieces() if each.grad is not None]

    def clip(self, max_norm: float) -> Tensor:
        """Shorten the gradient to `max_norm`, where it is longer; its length before, [1]."""
        # Of each parameter first: over very many numbers at once float32 would lose digits.
        norm = nn.utils.get_total_norm(
            [each.grad for each in self._parameters if each.grad is not None], foreach=True
        )
        nn.utils.clip_grads_with_norm_(self._pieces(), max_norm, norm, foreach=True)
        return norm

    def step(self, rate: float) -> None:
        """Change the parameters by what the gradient says."""
        for group in self.torch.param_groups:
            group["lr"] = rate
        self.torch.step()
        for vector in self._vectors:
            vector.changed()

    def _pieces(self) -> list[nn.Parameter]:
        return [each for group in self.torch.param_groups for each in group["params"]]


def _groups(parameters: Sequence[nn.Parameter], config: TrainConfig) -> list[dict[str, Any]]:
    """All in one group, but for DoRA's lengths where weights decay: they are no differences from the base, and a length
    that decayed would take the base's own weight with it."""
    lengths = [parameter for parameter in parameters if parameter.ndim == 1]
    if not (lengths and config.weight_decay):
        return [{"params": list(parameters)}]
    others = [parameter for parameter in parameters if parameter.ndim != 1]
    return [{"params": others}, {"params": lengths, "weight_decay": 0.0}]


def optimizer_state(optimizer: AdapterOptimizer) -> tuple[dict[str, Tensor], Any]:
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

    return tensors, split(optimizer.torch.state_dict(), "optimizer")


def load_optimizer(optimizer: AdapterOptimizer, tensors: Mapping[str, Tensor], document: Any) -> None:
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
        optimizer.torch.load_state_dict(_in_pieces(join(document), optimizer.torch))
    except (KeyError, ValueError, TypeError) as error:
        raise Tampered("the optimizer's state in the checkpoint does not fit the adapter") from error


def _in_pieces(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A state in the optimizer's own pieces: earlier versions kept one for each parameter, in the same order."""
    kept = [group["params"] for group in state["param_groups"]]
    if any(len(group["params"]) != 1 or group["params"][0].ndim != 1 for group in optimizer.param_groups):
        return state
    whole: dict[int, dict[str, Any]] = {}
    for number, group in enumerate(kept):
        moments = [state["state"][parameter] for parameter in group if parameter in state["state"]]
        if moments:
            whole[number] = {
                name: value if name == "step" else torch.cat([each[name].reshape(-1) for each in moments])
                for name, value in moments[0].items()
            }
    groups = [group | {"params": [number]} for number, group in enumerate(state["param_groups"])]
    return {"state": whole, "param_groups": groups}
