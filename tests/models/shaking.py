"""An adapter as it might be after training, without training."""

from __future__ import annotations

import torch


def shaken(adapted: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """Gives every B of the adapter random numbers."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return adapted
