"""Parameters as parts of one vector, and their gradients of another: one operation then serves all of them.

An adapter is many small tensors, and on a CPU as much time goes into handing each to the optimizer as into its
arithmetic. Knows tensors only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Vector:
    """Puts `parameters`, all of one type and device, side by side; to their model they are what they were.

    Attributes:
        whole: the parameters one after the other, [sum of their sizes], with its gradient. What an optimizer is given.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        sizes = [each.numel() for each in self._parameters]
        values = torch.cat([each.detach().reshape(-1) for each in self._parameters])
        self._gradient = torch.zeros_like(values)
        self.whole = nn.Parameter(values)
        self.whole.grad = self._gradient
        self._parts: list[Tensor] = []
        places = zip(
            self._parameters, torch.split(values, sizes), torch.split(self._gradient, sizes), strict=True
        )
        for parameter, value, gradient in places:
            parameter.data = value.view_as(parameter)
            self._parts.append(gradient.view_as(parameter))

    def clear(self) -> None:
        """No gradient, and room for the next one where it belongs."""
        self._gradient.zero_()
        for parameter, part in zip(self._parameters, self._parts, strict=True):
            parameter.grad = part

    def gather(self) -> None:
        """Take in the gradients that were made elsewhere; a parameter without one has a gradient of zero."""
        for parameter, part in zip(self._parameters, self._parts, strict=True):
            if parameter.grad is None:
                part.zero_()
            elif parameter.grad is not part:
                part.copy_(parameter.grad)
            parameter.grad = part

    def changed(self) -> None:
        """To be said after `whole` was written to: autograd counts it as a change of each parameter."""
        torch.autograd.graph.increment_version(self._parameters)
