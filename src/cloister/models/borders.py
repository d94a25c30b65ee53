"""Where the rows of a packed batch begin and end: what attention must know so that no row sees another.

Knows lengths and positions; no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Borders:
    """Rows of `lengths` lie end to end in one line of tokens.

    `position_ids` [1, tokens] starts anew at each row. `places` [rows, longest] says where each row's tokens lie in
    the line, its last token standing in for those that a shorter row does not have; `flat` [tokens] says where in
    `places`, read line by line, each token is found again. `offsets` [rows + 1], int32, is where rows begin.
    """

    lengths: tuple[int, ...]
    longest: int
    position_ids: Tensor
    places: Tensor
    flat: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, lengths: tuple[int, ...], device: torch.device | str = "cpu") -> Borders:
        """Of rows of these lengths, each at least 1."""
        longest = max(lengths)
        sizes = torch.tensor(lengths)
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
        column = torch.arange(longest)
        inside = column[None, :] < sizes[:, None]
        places = offsets[:-1, None] + torch.minimum(column[None, :], sizes[:, None] - 1)
        return cls(
            lengths=lengths,
            longest=longest,
            position_ids=(places - offsets[:-1, None])[inside][None].to(device),
            places=places.to(device),
            flat=inside.reshape(-1).nonzero().squeeze(1).to(device),
            offsets=offsets.to(torch.int32).to(device),
        )

    def inputs(self) -> dict[str, Any]:
        """What a model of transformers is called with, whose attention reads borders.

        A mask of four dimensions is handed on as it is, and nothing looks at this one.
        """
        return {
            "position_ids": self.position_ids,
            "attention_mask": torch.empty((1, 1, 1, 1), dtype=torch.bool, device=self.flat.device),
            "borders": self,
        }
