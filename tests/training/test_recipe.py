"""The recipe on a real small model: what it reports, keeps, refuses and survives."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from cloister.datasets.rows import Message, Row
from cloister.errors import Conflict, Interrupted, InvalidInput, JobFailed
from cloister.evaluation.loss import mean_loss
from cloister.models.adapter import adapter_state, set_adapter_state
from cloister.training.checkpoint import CheckpointStore
from cloister.training.outcome import WentWrong
from cloister.training.reached import DIVERGED_STEPS
from cloister.training.rows import RowSource, tokenise


def store(folder: Path) -> CheckpointStore:
    return CheckpointStore(folder, object_id="ad-0123456789ab", kind="adapter", key=bytes(32))


def test_it_learns_and_says_how() -> None:
    measured: list[tuple[int, dict[str, float]]] = []
    stages: list[tuple[str, int, int]] = []
    model = tiny.adapted()
    outcome = tiny.fine_tune(
        made=model,
        on_metrics=lambda step, values: measured.append((step, values)),
        on_progress=lambda stage, done, total: stages.append((stage, done, total)),
    )
    assert outcome.steps == 12
    assert outcome.losses[-1] < outcome.losses[0] - 0.2
    assert outcome.holdout_loss == min(loss for _, loss in outcome.holdout_losses)
    assert outcome.train_loss == pytest.approx(sum(outcome.losses[-6:]) / 6)
    assert [step for step, _ in outcome.holdout_losses] == [6, 12]
    held_out = [(step, values["holdout_loss"]) for step, values in measured if "holdout_loss" in values]
    assert held_out == [(0, outcome.holdout_start), *outcome.holdout_losses]
    assert tiny.same_adapter(outcome.last, adapter_state(model))
    names = {name for _, values in measured for name in values}
    assert {"loss", "learning_rate", "holdout_loss", "tokens_per_s", "supervised_tokens_per_s"} <= names
    assert [done for stage, done, _ in stages if stage == "train"] == list(range(13))
    assert {stage for stage, _, _ in stages} == {"tokenise", "train", "evaluate"}


def test_the_hold_out_is_measured_before_the_first_step() -> None:
    """An adapter begins as nothing: what a run has learnt is told from the base's own loss, on the same rows."""
    made = tiny.adapted()
    base = tokenise(RowSource(tiny.rows(64), range(48, 64)), tiny.tokenizer(), 128)
    with made.disable_adapter(), torch.no_grad():
        told = mean_loss(made, [base.batch(range(len(base)))])
    outcome = tiny.fine_tune(made=made)
    assert outcome.holdout_start == pytest.approx(told, rel=1e-5)
    assert outcome.holdout_loss is not None and outcome.holdout_loss < 0.9 * told
    assert tiny.fine_tune(holdout=0).holdout_start is None


def test_best_is_the_step_with_the_lowest_holdout_loss() -> None:
    draw = random.Random(1)  # answers that cannot be guessed: learning them by heart makes the hold-out worse
    data = [Row((row.messages[0], Message("assistant", draw.choice(tiny.WORDS)))) for row in tiny.rows(64)]
    outcome = tiny.fine_tune(tiny.config(learning_rate=0.02, epochs=20, eval_every=10), data=data)
    assert outcome.best_step == min(outcome.holdout_losses, key=lambda pair: pair[1])[0]
    assert outcome.best_step < outcome.steps
    assert not tiny.same_adapter(outcome.best, outcome.last)


def test_without_a_holdout_the_last_is_the_best_and_someone_is_told() -> None:
    said: list[tuple[str, str]] = []
    outcome = tiny.fine_tune(holdout=0, on_notice=lambda *notice: said.append(notice))
    assert outcome.holdout_loss is None
    assert outcome.best_step == outcome.steps
    assert tiny.same_adapter(outcome.best, outcome.last)
    assert said[0][0] == "warning"


@pytest.mark.parametrize("every", [0, 1, 4])
def test_metrics_and_checkpoints_follow_their_intervals(tmp_path: Path, every: int) -> None:
    kept = store(tmp_path / "c")
    outcome = tiny.fine_tune(tiny.config(eval_every=every, checkpoint_every=every), checkpoints=kept)
    steps = [6, 12] if every == 0 else list(range(every, 13, every))
    assert [step for step, _ in outcome.holdout_losses] == steps
    assert kept.steps() == steps[-2:]


def test_evaluations_and_checkpoints_may_come_several_times_an_epoch(tmp_path: Path) -> None:
    kept = store(tmp_path / "c")
    outcome = tiny.fine_tune(tiny.config(evals_per_epoch=2, checkpoints_per_epoch=1.5), checkpoints=kept)
    assert [step for step, _ in outcome.holdout_losses] == [3, 6, 9, 12]
    assert kept.steps() == [8, 12]


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    model = tiny.adapted()
    with torch.no_grad():
        model.get_base_model().model.norm.weight.fill_(math.inf)
    with pytest.raises(JobFailed, match="step 1"):
        tiny.fine_tune(made=model)


def going_wrong(at: int) -> tuple[Any, Callable[[str, int, int], None]]:
    """A model, and what makes its loss no number from the step after `at` on: a weight that is not finite any more."""
    model = tiny.adapted()

    def progress(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("train", at):
            with torch.no_grad():
                model.get_base_model().model.norm.weight.fill_(math.nan)

    return model, progress


def test_of_a_run_whose_loss_becomes_no_number_the_best_before_is_kept(tmp_path: Path) -> None:
    model, progress = going_wrong(7)
    with pytest.raises(WentWrong, match="step 8") as caught:
        tiny.fine_tune(tiny.config(eval_every=3), made=model, on_progress=progress)
    kept = caught.value.kept
    assert kept is not None and caught.value.code == "diverged" and isinstance(caught.value, JobFailed)
    assert kept.best_step == min(kept.holdout_losses, key=lambda pair: pair[1])[0] == 6
    steps = [0]

    def count(stage: str, done: int, total: int) -> None:
        steps[0] = done if stage == "train" else steps[0]

    with pytest.raises(Interrupted):  # the same run, cut off where it was best
        tiny.fine_tune(
            tiny.config(eval_every=3),
            checkpoints=store(tmp_path / "c"),
            on_progress=count,
            should_stop=lambda: steps[0] == 6,
        )
    there = store(tmp_path / "c").latest()
    assert there is not None and tiny.same_adapter(kept.best, there.groups["adapter"])
    assert tiny.same_adapter(adapter_state(model), kept.best), "the model holds what is kept"
    assert kept.last == {} and kept.steps == 7 and len(kept.losses) == 7
    assert kept.train_loss == pytest.approx(sum(kept.losses[:6]) / 6)
    assert "adapter of step 6" in caught.value.message


@pytest.mark.parametrize("missing", ["hold-out", "measured"])
def test_nothing_is_kept_of_a_run_that_went_wrong_before_it_was_measured(missing: str) -> None:
    model, progress = going_wrong(4)
    settings = tiny.config(eval_every=2 if missing == "hold-out" else 6)
    with pytest.raises(WentWrong, match="Nothing was measured before") as caught:
        tiny.fine_tune(settings, made=model, on_progress=progress, holdout=0 if missing == "hold-out" else 16)
    assert caught.value.kept is None


@pytest.mark.parametrize("wrong", ["no number", "far above"])
def test_what_a_run_had_come_to_within_its_first_epoch_is_measured_when_it_goes_wrong(
    tmp_path: Path, wrong: str
) -> None:
    """Nothing was looked at: the hold-out's turn would have come after step 96."""
    settings = tiny.config(epochs=2, batch_size=1, micro_batch_size=1, evals_per_epoch=0.5)
    model = tiny.adapted()
    told: list[tuple[int, dict[str, float]]] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "train" and done >= 43:
            worse = math.nan if wrong == "no number" else 10.0
            set_adapter_state(
                model, {name: torch.full_like(one, worse) for name, one in adapter_state(model).items()}
            )

    with pytest.raises(WentWrong, match=r"is kept is the adapter of step 40") as caught:
        tiny.fine_tune(
            settings,
            made=model,
            on_progress=progress,
            on_metrics=lambda *numbers: told.append(numbers),
        )
    kept = caught.value.kept
    assert kept is not None and kept.holdout_loss is not None and kept.best_step == 40
    assert [step for step, _ in kept.holdout_losses] == [40] and (
        40,
        {"holdout_loss": kept.holdout_loss},
    ) in told
    assert kept.holdout_start is not None and kept.holdout_loss < kept.holdout_start
    assert tiny.same_adapter(adapter_state(model), kept.best), "the model holds what is kept"
    steps = [0]

    def count(stage: str, done: int, total: int) -> None:
        steps[0] = done if stage == "train" else steps[0]

    with pytest.raises(Interrupted):  # the same run, without the fault
        tiny.fine_tune(
            settings,
            checkpoints=store(tmp_path / "c"),
            on_progress=count,
            should_stop=lambda: steps[0] == 40,
        )
    there = store(tmp_path / "c").latest()
    assert there is not None and tiny.same_adapter(kept.best, there.groups["adapter"])


def test_a_hold_out_loss_that_is_no_number_ends_it_too() -> None:
    """Damaged after the last step and before its measuring: the step itself went well."""
    model = tiny.adapted()
    stages: list[str] = []

    def progress(stage: str, done: int, total: int) -> None:
        stages.append(stage)
        if (stage, done) == ("train", 12):
            with torch.no_grad():
                model.get_base_model().model.norm.weight.fill_(math.inf)

    with pytest.raises(
        WentWrong, match=r"hold-out loss is not a finite number after step 12.*of step 6"
    ) as caught:
        tiny.fine_tune(made=model, on_progress=progress)
    assert caught.value.kept is not None and caught.value.kept.best_step == 6


def test_a_run_that_diverges_keeps_the_adapter_from_before() -> None:
    """From step 8 on the weights give wrong answers, a hundred times as sure of them: numbers, but far above."""
    model = tiny.adapted()

    def progress(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("train", 8):
            with torch.no_grad():
                model.get_base_model().model.norm.weight.mul_(100)

    with pytest.raises(WentWrong) as caught:
        tiny.fine_tune(tiny.config(epochs=6, eval_every=4), made=model, on_progress=progress)
    error, kept = caught.value, caught.value.kept
    assert "The loss grew from" in error.message, "it diverged, and was a number to the end"
    assert kept is not None
    assert kept.best_step == 4 and kept.steps == 8 + DIVERGED_STEPS
    assert kept.holdout_loss == min(loss for _, loss in kept.holdout_losses)
    assert kept.holdout_loss is not None and kept.holdout_loss < kept.losses[0]
    assert f"adapter of step {kept.best_step}," in error.message


def test_a_frozen_adapter_ends_the_run() -> None:
    model = tiny.adapted()
    for name, parameter in model.named_parameters():
        if "layers.1.mlp.up_proj.lora_B" in name:
            parameter.requires_grad_(False)
    with pytest.raises(JobFailed) as caught:
        tiny.fine_tune(made=model)
    assert "layers.1.mlp.up_proj" in str(caught.value)


def test_a_stop_in_the_middle_of_an_evaluation_is_made_up_for(tmp_path: Path) -> None:
    whole = tiny.fine_tune(tiny.config(micro_batch_size=2))
    stages: list[str] = []
    settings = tiny.config(micro_batch_size=2)
    for passes, step in ((3, 0), (8 + 3, 6)):  # a look at the hold-out takes eight
        stages.clear()
        with pytest.raises(Interrupted, match=f"step {step} of 12"):
            tiny.fine_tune(
                settings,
                checkpoints=store(tmp_path / "c"),
                resume=True,
                on_progress=lambda stage, done, total: stages.append(stage),
                should_stop=lambda passes=passes: stages.count("evaluate") == passes,
            )
    outcome = tiny.fine_tune(settings, checkpoints=store(tmp_path / "c"), resume=True)
    assert outcome.holdout_start == whole.holdout_start is not None
    assert outcome.holdout_losses == whole.holdout_losses
    assert tiny.same_adapter(outcome.last, whole.last)


def test_a_resumed_run_tells_the_losses_that_it_would_have_told(tmp_path: Path) -> None:
    """Cut off between two reports, at step 7 of 12: the next is of steps 6 to 10 all the same."""
    told: dict[str, dict[int, float]] = {"whole": {}, "cut": {}}

    def keep(name: str) -> Callable[[int, dict[str, float]], None]:
        return lambda step, values: told[name].update({step: values["loss"]}) if "loss" in values else None

    outcome = tiny.fine_tune(on_metrics=keep("whole"))
    assert told["whole"][10] == pytest.approx(sum(outcome.losses[5:10]) / 5)
    steps = [0]

    def progress(stage: str, done: int, total: int) -> None:
        steps[0] = done if stage == "train" else steps[0]

    kept = store(tmp_path / "c")
    with pytest.raises(Interrupted):
        tiny.fine_tune(
            checkpoints=kept, on_metrics=keep("cut"), on_progress=progress, should_stop=lambda: steps[0] == 7
        )
    tiny.fine_tune(checkpoints=kept, resume=True, on_metrics=keep("cut"))
    assert told["cut"] == told["whole"] and set(told["whole"]) == {5, 10, 12}


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    tiny.fine_tune(checkpoints=store(tmp_path / "c"))
    with pytest.raises(Conflict):
        tiny.fine_tune(tiny.config(learning_rate=1e-4), checkpoints=store(tmp_path / "c"), resume=True)
    with pytest.raises(Conflict):
        tiny.fine_tune(data=tiny.rows(64, seed=5), checkpoints=store(tmp_path / "c"), resume=True)


def test_rows_of_the_same_lengths_are_other_rows_all_the_same(tmp_path: Path) -> None:
    rows = tiny.rows(64)
    tiny.fine_tune(data=rows, checkpoints=store(tmp_path / "c"))
    moved = [*rows[1:48], rows[0], *rows[48:]]
    with pytest.raises(Conflict):
        tiny.fine_tune(data=moved, checkpoints=store(tmp_path / "c"), resume=True)


def test_a_base_that_lies_otherwise_in_memory_is_noticed(tmp_path: Path) -> None:
    tiny.fine_tune(checkpoints=store(tmp_path / "c"))
    damaged = tiny.adapted()
    weight = next(p for p in damaged.parameters() if not p.requires_grad and p.ndim == 2)
    weight.data.view(torch.uint8)[0, 0] ^= 1
    with pytest.raises(JobFailed, match="bit for bit"):
        tiny.fine_tune(made=damaged, checkpoints=store(tmp_path / "c"), resume=True)


def test_a_finished_run_resumed_does_nothing_more(tmp_path: Path) -> None:
    first = tiny.fine_tune(checkpoints=store(tmp_path / "c"))
    again = tiny.fine_tune(checkpoints=store(tmp_path / "c"), resume=True)
    assert again.losses == first.losses
    assert tiny.same_adapter(again.best, first.best)


def test_no_rows_are_refused() -> None:
    from cloister.training.recipe import train

    with pytest.raises(InvalidInput):
        train(tiny.adapted(), tiny.tokenizer(), RowSource([], []), tiny.config())


def test_gradient_checkpointing_changes_nothing() -> None:
    plain = tiny.fine_tune()
    saving = tiny.fine_tune(tiny.config(gradient_checkpointing=True))
    assert saving.losses == pytest.approx(plain.losses, rel=1e-5)


def test_a_long_epoch_is_not_all_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    save = CheckpointStore.save
    monkeypatch.setattr(
        CheckpointStore, "save", lambda self, step, *rest: kept.append(step) or save(self, step, *rest)
    )
    ticks = iter(range(10**6))

    def clock() -> float:
        return 100.0 * next(ticks)

    outcome = tiny.fine_tune(checkpoints=store(tmp_path / "slow"), clock=clock)
    assert {6, 12} < set(kept) and outcome.seconds > 900
    assert tiny.fine_tune().losses == outcome.losses
    kept.clear()
    tiny.fine_tune(tiny.config(checkpoint_every=5), checkpoints=store(tmp_path / "told"), clock=clock)
    assert kept == [5, 10, 12], "who says when is asked no further"


def test_what_one_pass_has_is_told() -> None:
    outcome = tiny.fine_tune(tiny.config(max_steps=7))
    assert outcome.epoch_rows == 48 and outcome.steps == 7
    whole = tiny.fine_tune()
    assert whole.tokens == 2 * whole.epoch_tokens == 2 * outcome.epoch_tokens
