"""Exact elementwise functions on the CPU from the first call on.

torch hands contiguous `cos`, `exp`, `sqrt` and the like to oneMKL's VML, which looks for each function's kernel
when that is first called. Where several threads make that call at once, one of them may compute its share with
a kernel of low accuracy, once, silently: cosines off in the fourth digit, a rotary embedding of other numbers,
a run that is not repeated (pytorch issue 188792; oneMKL 2024.2). One element does not thread. Knows no model.
"""

from __future__ import annotations

import functools

import torch

FUNCTIONS = (
    "acos",
    "asin",
    "atan",
    "cos",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "log",
    "log10",
    "log2",
    "sin",
    "sqrt",
    "tan",
    "tanh",
    "trunc",
)
"""What `ATen/cpu/vml.h` gives to oneMKL, in single and in double precision."""


@functools.cache
def resolve_kernels() -> None:
    """Have oneMKL look for every kernel now, in this thread alone. Inherited by fork; costs less than 1 ms."""
    for dtype in (torch.float32, torch.float64):
        one = torch.full((1,), 0.5, dtype=dtype, device="cpu")
        for name in FUNCTIONS:
            getattr(torch, name)(one)
