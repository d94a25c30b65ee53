"""`cloister.worker.ranks` with a base that holds no number any more after the seventh step."""

import math
import sys
from typing import Any

import torch

from cloister.training import recipe


def breaking(take_step: Any) -> Any:
    """`take_step` of a run, which breaks the base in memory before the eighth."""

    def take(run: Any) -> None:
        if run.reached.step == 7:
            with torch.no_grad():
                run.model.get_base_model().model.norm.weight.fill_(math.nan)
        take_step(run)

    return take


if __name__ == "__main__":
    from cloister.worker import ranks

    recipe._Run.take_step = breaking(recipe._Run.take_step)  # type: ignore[method-assign]
    sys.exit(ranks.main())
