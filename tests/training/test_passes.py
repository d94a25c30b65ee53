"""Memory that runs out, a loss that grows, patience that ends: the run goes on smaller, or ends and says why."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tiny
from cloister.errors import InvalidInput, JobFailed
from cloister.training import reached
from cloister.training.reached import DIVERGED_STEPS, Reached


def narrow(most: int, after: int = 0) -> Any:
    """The tiny model on a machine that holds `most` tokens at once, `after` so many forward passes."""
    model = tiny.adapted()
    seen = [0]

    def guard(module: Any, arguments: Any, known: Any) -> None:
        seen[0] += 1
        ids = known.get("input_ids", arguments[0] if arguments else None)
        if seen[0] > after and ids.numel() > most:
            raise torch.OutOfMemoryError("made up")

    model.get_base_model().model.register_forward_pre_hook(guard, with_kwargs=True)
    return model


@pytest.mark.parametrize("packing", ["on", "off"])
@pytest.mark.parametrize("after", [0, 9], ids=["at-the-probe", "later"])
def test_out_of_memory_goes_on_with_fewer_rows_and_the_same_result(packing: Any, after: int) -> None:
    settings = tiny.config(packing=packing, gradient_checkpointing=False)
    wanted = tiny.fine_tune(settings)
    said: list[str] = []
    outcome = tiny.fine_tune(
        settings, made=narrow(130, after), on_notice=lambda level, text: said.append(text)
    )
    assert any("Memory ran out" in text for text in said)
    assert outcome.losses == pytest.approx(wanted.losses, rel=1e-4)
    assert outcome.holdout_loss == pytest.approx(wanted.holdout_loss, rel=1e-4)


def test_activations_are_recomputed_first_where_that_may_be() -> None:
    said: list[str] = []
    tiny.fine_tune(
        tiny.config(max_steps=1), made=narrow(130), on_notice=lambda level, text: said.append(text)
    )
    told = [text for text in said if "Memory ran out" in text]
    assert "recomputed" in told[0] and "rows go through" in told[1]


def test_what_no_row_fits_into_ends_the_run_before_it_begins() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        tiny.fine_tune(made=narrow(10))


def test_a_loss_that_grows_and_stays_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.adapted()
    # Random weights cannot get much worse than they are: learn first.
    tiny.fine_tune(tiny.config(epochs=5, learning_rate=1e-2), made=model, holdout=0)
    wild = tiny.config(learning_rate=1.0, max_grad_norm=1e9, lr_scheduler="constant")
    with monkeypatch.context() as patch:
        patch.setattr(reached, "DIVERGED_STEPS", 3)
        with pytest.raises(JobFailed, match="grew from"):
            tiny.fine_tune(wild, made=model, holdout=0)
    calm = Reached(losses=[2.0] + [3.4] * DIVERGED_STEPS)
    assert not calm.diverged()
    assert Reached(losses=[2.0] + [3.6] * DIVERGED_STEPS).diverged()
    assert not Reached(losses=[2.0] + [3.6] * (DIVERGED_STEPS - 1) + [3.4]).diverged()


def test_patience_ends_a_run_that_gets_no_better_and_resumes_to_the_same_end(tmp_path: Any) -> None:
    settings = tiny.config(learning_rate=0.05, epochs=30, eval_every=2, checkpoint_every=2, patience=3)
    said: list[str] = []
    outcome = tiny.fine_tune(settings, on_notice=lambda level, text: said.append(text))
    assert outcome.steps < 180
    losses = [loss for _, loss in outcome.holdout_losses]
    assert losses.index(min(losses)) == len(losses) - 4
    assert outcome.best_step == outcome.holdout_losses[-4][0]
    assert any("lowest after step" in text for text in said)


def test_patience_without_a_holdout_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Patience"):
        tiny.fine_tune(tiny.config(patience=2), holdout=0)


def test_a_paged_optimizer_needs_a_gpu() -> None:
    with pytest.raises(InvalidInput, match="needs a GPU"):
        tiny.fine_tune(tiny.config(optimizer="paged_adamw_8bit"))
