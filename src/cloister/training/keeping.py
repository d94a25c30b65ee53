"""What a run keeps so that it goes on from there exactly: all that the next step depends on, and the best adapter.

Knows the adapter, the optimizer, random generators and how far the run is; where checkpoints lie it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from cloister.api import TrainConfig
from cloister.errors import Conflict, JobFailed
from cloister.models.adapter import set_adapter_state
from cloister.training.checkpoint import CheckpointStore
from cloister.training.fingerprint import rows_fingerprint, weights_fingerprint
from cloister.training.optimizer import AdapterOptimizer, load_optimizer, optimizer_state
from cloister.training.ranks import Ranks
from cloister.training.reached import Reached
from cloister.training.rows import TokenRows

Adapter = Mapping[str, Tensor]


class Keeping:
    """One run's part in its checkpoints. Every process restores; the first one writes, with what the others say."""

    def __init__(
        self,
        checkpoints: CheckpointStore,
        model: nn.Module,
        rows: TokenRows,
        config: TrainConfig,
        optimizer: AdapterOptimizer,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        self._checkpoints, self._model, self._config = checkpoints, model, config
        self._optimizer, self._ranks, self._device = optimizer, ranks, device
        self._rows, self._weights = rows_fingerprint(rows), weights_fingerprint(model)

    def restore(self, damaged: Callable[[str], None]) -> tuple[Reached, Adapter] | None:
        """Take up the newest good checkpoint: how far it is, and the best adapter then; None where there is none.

        Raises:
            Conflict: it is of another configuration or other rows.
            JobFailed: the base model in memory is another one, or processes read different checkpoints.
        """
        found = self._checkpoints.latest(damaged)
        # Told also by one that finds none: another that finds one would wait for it.
        steps = self._ranks.gather(torch.tensor([-1 if found is None else found.step]))
        if len({int(step) for step in steps}) > 1:
            raise JobFailed(
                "The processes of this run do not read the same checkpoint.", remedy="Resume it once more."
            )
        if found is None:
            return None
        state = found.state
        if TrainConfig.frozen(state["config"]) != self._config or state["rows"] != self._rows:
            raise Conflict(
                "The checkpoint is of another configuration or other rows.", remedy="Start a new run."
            )
        if state["weights"] != self._weights:
            raise JobFailed(
                "The base model in memory is not, bit for bit, the one that this run began with.",
                remedy="Resume it once more; if that fails too, have this machine's memory tested.",
            )
        set_adapter_state(self._model, found.groups["adapter"])
        trainer = dict(found.groups["trainer"])
        torch.set_rng_state(trainer[_of_rank("rng.cpu", self._ranks.rank)])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(trainer[_of_rank("rng.cuda", self._ranks.rank)], self._device)
        load_optimizer(self._optimizer, trainer, state["optimizer"])
        reached = Reached.read(state["reached"])
        best: Adapter = {}
        if reached.best_step:
            best = found.groups["adapter" if reached.best_step == found.step else "best"]
        return reached, best

    def save(self, reached: Reached, adapter: Callable[[], Adapter], best: Adapter) -> None:
        """Write the checkpoint of the step reached. `adapter` gives the adapter as it is now, on the CPU."""
        tensors, document = optimizer_state(self._optimizer)
        for rank, drawn in enumerate(self._ranks.gather(torch.get_rng_state())):
            tensors[_of_rank("rng.cpu", rank)] = drawn
        if self._device.type == "cuda":
            for rank, drawn in enumerate(self._ranks.gather(torch.cuda.get_rng_state(self._device))):
                tensors[_of_rank("rng.cuda", rank)] = drawn
        if self._ranks.rank:
            return
        groups: dict[str, Adapter] = {"adapter": adapter(), "trainer": tensors}
        if best and reached.best_step != reached.step:
            groups["best"] = best
        state = {
            "config": self._config.model_dump(mode="json"),
            "rows": self._rows,
            "weights": self._weights,
            "optimizer": document,
            "reached": dict(vars(reached)),
        }
        self._checkpoints.save(reached.step, groups, state)


def _of_rank(name: str, rank: int) -> str:
    return name if rank == 0 else f"{name}.{rank}"
