"""The shape of a base model, in the numbers that memory and time depend on.

Knows what was written down when the model was imported; no tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelShape:
    """Counts of a decoder. `linear` holds (in, out, how many) of the layers that are quantised and adapted;
    `others` is every parameter outside of them, embeddings and an output head of its own included."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    linear: tuple[tuple[int, int, int], ...]
    others: int

    @property
    def linear_parameters(self) -> int:
        return sum(wide * tall * count for wide, tall, count in self.linear)

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.others

    @property
    def largest_linear(self) -> int:
        """Parameters of the largest linear layer."""
        return max((wide * tall for wide, tall, _ in self.linear), default=0)

    def adapter_parameters(self, rank: int, *, dora: bool = False) -> int:
        """Of A [rank, in] and B [out, rank] on every linear layer; DoRA adds a magnitude an output."""
        return sum(
            (rank * (wide + tall) + (tall if dora else 0)) * count for wide, tall, count in self.linear
        )

    @classmethod
    def from_details(cls, details: Mapping[str, Any]) -> ModelShape | None:
        """What the import wrote down; None for a model that was imported before it did."""
        shape = details.get("shape")
        if not isinstance(shape, Mapping):
            return None
        try:
            return cls(
                layers=int(details["layers"]),
                hidden=int(details["hidden_size"]),
                vocabulary=int(details["vocab_size"]),
                heads=int(shape["heads"]),
                kv_heads=int(shape["kv_heads"]),
                head_dim=int(shape["head_dim"]),
                intermediate=int(shape["intermediate"]),
                linear=tuple((int(wide), int(tall), int(count)) for wide, tall, count in shape["linear"]),
                others=int(details["parameters"])
                - sum(int(wide) * int(tall) * int(count) for wide, tall, count in shape["linear"]),
            )
        except (KeyError, TypeError, ValueError):
            return None
