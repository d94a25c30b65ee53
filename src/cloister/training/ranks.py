"""Processes that share the rows of each step: what they add up and agree on.

`Ranks()` is one process alone; `Gang` is several, over torch.distributed. Knows tensors; it starts no process and
knows no key.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from cloister.errors import JobFailed

TIMEOUT = datetime.timedelta(minutes=30)
"""How long a process waits for the others: the first one also writes checkpoints."""
ALIKE = 1e-3
"""So much of a norm may differ between processes: GPUs of two kinds round in two ways."""


class Ranks:
    """One process alone: everything is as it says itself."""

    rank = 0
    size = 1

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""

    def told(self, flag: bool) -> bool:
        """What the first process says."""
        return flag

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every process's tensor, by rank; all of one shape and type."""
        return [tensor]

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by the first process's."""

    def least(self, value: int) -> int:
        """The smallest of what each process says."""
        return min(int(said) for said in self.gather(torch.tensor([value])))


def device_of(rank: int, size: int, backend: str) -> torch.device:
    """Where the process of that rank computes. Raises JobFailed where there are fewer GPUs than processes."""
    if backend != "nccl":
        return torch.device("cpu")
    if torch.cuda.device_count() < size:
        raise JobFailed(
            f"{size} processes need a GPU each, and the job has {torch.cuda.device_count()}.",
            remedy="Run `nvidia-smi`: it was given as many; or start it on fewer with `--devices`.",
        )
    return torch.device("cuda", rank)


def require_alike(tensors: Sequence[Tensor], ranks: Ranks) -> None:
    """See that all processes hold the same numbers, to rounding: they take the same steps, each by itself.

    Raises:
        JobFailed: they do not, in every process.
    """
    if ranks.size == 1 or not tensors:
        return
    norms = torch.stack(
        [torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64) for tensor in tensors]
    )
    said = torch.stack([found.cpu() for found in ranks.gather(norms)])
    spread = said.max(dim=0).values - said.min(dim=0).values
    if not bool((spread <= ALIKE * said.max(dim=0).values + 1e-12).all()):
        raise JobFailed(
            "The processes of this run no longer hold the same adapter.",
            remedy="Resume it from its last checkpoint; if that fails too, have the machine's memory and GPUs tested.",
        )


class Gang(Ranks):
    """Several processes, each calling the same methods in the same order. A context manager.

    With nccl each has the GPU of its rank, counted from 0 as CUDA shows them to it, from the first call on: two on
    one GPU are refused by NCCL, and what is made without naming a GPU must not all lie on the first.

    Args:
        rank, size: of this process, and how many there are.
        meeting: a file, not there yet, in a folder that only they can reach; over it they find one another.
        backend: gloo for the CPU, nccl for GPUs.

    Raises:
        JobFailed: there are fewer GPUs than processes.
    """

    def __init__(self, rank: int, size: int, meeting: Path, backend: str) -> None:
        import torch.distributed as dist

        # All of them are on this machine, and where there is a sandbox `lo` is all the network it has.
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = "lo"
        os.environ["NCCL_IB_DISABLE"] = "1"
        # Sums inside the switch need a fabric manager's channels, which a sandbox has not; an adapter is small.
        os.environ["NCCL_NVLS_ENABLE"] = "0"
        self.rank, self.size = rank, size
        self._device = device_of(rank, size, backend)
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        dist.init_process_group(
            backend,
            store=dist.FileStore(str(meeting), size),  # type: ignore[attr-defined]
            rank=rank,
            world_size=size,
            timeout=TIMEOUT,
            device_id=self._device if self._device.type == "cuda" else None,  # the connections are made now
        )

    def add(self, tensors: Sequence[Tensor]) -> None:
        import torch.distributed as dist

        if not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, total in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def share(self, tensors: Sequence[Tensor]) -> None:
        import torch.distributed as dist

        for tensor in tensors:
            dist.broadcast(tensor, 0)

    def told(self, flag: bool) -> bool:
        import torch.distributed as dist

        said = torch.tensor([flag], dtype=torch.uint8, device=self._device)
        dist.broadcast(said, 0)
        return bool(said.item())

    def gather(self, tensor: Tensor) -> list[Tensor]:
        import torch.distributed as dist

        here = tensor.to(self._device)
        found = [torch.empty_like(here) for _ in range(self.size)]
        dist.all_gather(found, here)
        return [each.to(tensor.device) for each in found]

    def __enter__(self) -> Gang:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import torch.distributed as dist

        if error is None or self._device.type == "cpu":  # nccl would wait for those that are gone
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()
