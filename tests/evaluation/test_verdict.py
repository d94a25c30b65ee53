"""The table's figures and the verdict's words, out of measured numbers."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from cloister.api import Costs
from cloister.datasets.rows import Message, Row
from cloister.evaluation import columns, general, table
from cloister.evaluation.table import (
    BASE,
    FEW_SHOT,
    LARGER,
    RETRIEVAL,
    TUNED,
    Measured,
    Table,
    build,
    counted,
)
from cloister.evaluation.tasks import Scored, Task, task_of
from cloister.evaluation.verdict import Verdict, verdict


def answers(rows: int, share: float, seed: int) -> np.ndarray:
    """Right and wrong ones, so many of them right; the same seed fails on the same rows first."""
    order = np.random.default_rng(seed).permutation(rows)
    right = np.zeros(rows)
    right[order[: round(rows * share)]] = 1
    return right


def measured(name: str, right: np.ndarray, **more: Any) -> Measured:
    values: dict[str, Any] = {"seconds": 0.5, "latencies": (0.1, 0.9, 0.4), "prompt_tokens": 10.0, **more}
    return Measured(name, tuple("x" for _ in right), Scored({"exact_match": right}), **values)


def judged(
    rows: int, tuned: float, rivals: dict[str, float], seed: int = 0, **more: Any
) -> tuple[Table, Verdict]:
    task = task_of([Row((Message("user", "q"), Message("assistant", "a")))] * rows, "x")
    lines = [measured(name, answers(rows, share, 3)) for name, share in rivals.items()]
    lines.append(measured(TUNED, answers(rows, tuned, 3 + seed), seconds=0.25))
    settings: dict[str, Any] = {"groups": [], "general": None, "costs": None, "training_s": 3600.0, **more}
    made = build(task, lines, primary="exact_match", seed=0, **settings)
    return made, verdict(made)


def test_fine_tuning_that_is_better_is_said_with_its_interval() -> None:
    made, said = judged(200, 0.9, {BASE: 0.1, FEW_SHOT: 0.5, RETRIEVAL: 0.6})
    assert said.advice == "deploy" and said.against == RETRIEVAL
    assert said.sentences[0].startswith(
        "Fine-tuning is better than prompting with retrieved examples by 30.0 points ["
    )
    gains = {line.name: line.gain for line in made.lines}
    assert gains[TUNED] is None and gains[BASE].value == pytest.approx(0.8)
    assert gains[RETRIEVAL].low == pytest.approx(0.3, abs=0.08) and gains[RETRIEVAL].low < 0.3


def test_prompting_that_does_as_well_is_not_deployed_over() -> None:
    _, said = judged(300, 0.9, {BASE: 0.1, FEW_SHOT: 0.9})
    assert said.advice == "do-not-deploy"
    assert said.sentences[0].startswith(
        "Few-shot prompting is within the noise of fine-tuning here: do not deploy."
    )
    _, better = judged(300, 0.5, {RETRIEVAL: 0.8})
    assert (
        better.advice == "do-not-deploy"
        and "is better than fine-tuning by 30.0 points" in better.sentences[0]
    )
    _, hair = judged(4000, 0.91, {FEW_SHOT: 0.9})
    assert hair.advice == "do-not-deploy" and "makes no difference" in hair.sentences[0]


def test_too_few_rows_are_said_to_be_so_and_how_many_would_do() -> None:
    _, said = judged(30, 0.6, {FEW_SHOT: 0.53}, seed=9)
    assert said.advice == "cannot-tell"
    assert said.sentences[0].startswith("Too few hold-out rows (30)") and "rows would do" in said.sentences[0]
    _, none = judged(12, 1.0, {FEW_SHOT: 1.0})
    assert none.advice == "cannot-tell", "twelve rows that are all right prove little"


def test_a_handful_of_rows_proves_nothing_however_clear_they_look() -> None:
    for rows in (1, 2, 3, 5):
        made, said = judged(rows, 1.0, {FEW_SHOT: 0.0})
        assert said.advice == "cannot-tell" and said.sentences[0].startswith("Too few hold-out rows"), rows
        assert table.bounds(made)["gain_low"] <= 0, "nor may a policy take it for a gain"
    assert judged(12, 1.0, {FEW_SHOT: 0.0})[1].advice == "deploy"


def test_a_base_that_was_given_an_instruction_is_not_called_as_it_is() -> None:
    for instructed, called in ((False, "the base as it is"), (True, "the base with an instruction")):
        task = task_of([Row((Message("user", "q"), Message("assistant", "a")))] * 200, "x")
        lines = [
            measured(BASE, answers(200, 0.2, 3), instructed=instructed),
            measured(TUNED, answers(200, 0.9, 3)),
        ]
        costs = Costs(currency="EUR", hour=3.6, case=None)
        made = build(
            task,
            lines,
            primary="exact_match",
            seed=0,
            groups=[],
            general=None,
            costs=costs,
            training_s=3600.0,
        )
        said = " ".join(verdict(made).sentences)
        assert f"Fine-tuning is better than {called} by " in said
        assert ("as it is" in said) == (not instructed)


def test_where_nobody_can_do_the_task_the_run_is_what_is_to_be_looked_at() -> None:
    _, said = judged(200, 0.02, {BASE: 0.0, FEW_SHOT: 0.03})
    assert said.advice == "do-not-deploy"
    assert said.sentences[1].startswith("Neither can do the task (2.0% and 3.0%): the run has not learnt it.")
    for tuned, rival in ((0.5, 0.0), (0.02, 0.5)):
        assert "Neither" not in " ".join(judged(200, tuned, {FEW_SHOT: rival})[1].sentences)


def test_costs_and_when_they_are_paid_back() -> None:
    costs = Costs(currency="EUR", hour=3.6, case=2.0)
    made, said = judged(200, 0.9, {FEW_SHOT: 0.5}, costs=costs)
    prompted, tuned = made.lines
    assert (prompted.cost, tuned.cost) == (pytest.approx(0.5), pytest.approx(0.25))
    assert made.training_cost == pytest.approx(3.6) and prompted.latency_s == 0.4
    assert prompted.pays_after == 14_400 and tuned.pays_after is None
    assert made.pays_after_person == 2
    assert "paid back after 14,400 queries against few-shot prompting; after 2 cases" in said.sentences[1]
    assert said.sentences[1].endswith("(by times of plain transformers, not of vLLM).")
    _, unknown = judged(200, 0.9, {FEW_SHOT: 0.5})
    assert "the settings name no price" in unknown.sentences[1]
    only_person = Costs(hour=None, case=2.0)
    made, said = judged(200, 0.9, {FEW_SHOT: 0.5}, costs=only_person)
    assert "the settings name no price" in said.sentences[1], "that it never pays is not known"
    _, untimed = judged(200, 0.9, {FEW_SHOT: 0.5}, costs=costs, training_s=None)
    assert "not known" in untimed.sentences[1]
    assert made.pays_after_person is None and made.lines[0].cost is None


def test_a_larger_model_is_weighed_and_not_the_yardstick() -> None:
    made, said = judged(200, 0.9, {FEW_SHOT: 0.5, LARGER: 0.99})
    assert said.against == FEW_SHOT
    assert any("larger untuned model does better by 9.0 points" in text for text in said.sentences)
    assert table.bounds(made)["gain_low"] > 0.3, "a promotion is held to what needs no tuning"
    assert said.advice == "weigh" and said.reservations == ["larger-model-better"]
    assert said.sentences[-1].startswith("Weigh it: a larger model does better untuned")
    assert table.bounds(made)["larger_gain_low"] == pytest.approx(-0.09, abs=0.06)
    made, said = judged(200, 0.9, {FEW_SHOT: 0.5, LARGER: 0.9})
    assert said.advice == "deploy" and said.reservations == [], "as good is not better"
    _, worse = judged(300, 0.5, {RETRIEVAL: 0.8, LARGER: 0.9})
    assert worse.advice == "do-not-deploy" and worse.reservations == ["larger-model-better"]


def test_what_was_lost_is_said() -> None:
    right, wrong = ["{}"] * 48, ["{}"] * 48
    nothing = general.compared(right, wrong, 0)
    _, said = judged(200, 0.9, {FEW_SHOT: 0.5}, general=nothing)
    assert "cannot do the general check either (0% of 48 items)" in said.sentences[-1]
    able = [{"same": str(i.value), "says": str(i.value)}.get(i.check, "") for i in general.items()]
    _, said = judged(200, 0.9, {FEW_SHOT: 0.5}, general=nothing)
    assert said.advice == "deploy" and not said.reservations, "what was never there is not lost"
    lost = general.compared(able, wrong, 0)
    made, said = judged(200, 0.9, {FEW_SHOT: 0.5}, general=lost)
    assert said.sentences[-2].startswith("General abilities fell by ")
    assert said.sentences[-2].endswith("more than half of them are gone.")
    assert said.advice == "weigh" and said.reservations == ["general-abilities-lost"]
    assert "its own task alone" in said.sentences[-1]
    bounds = table.bounds(made)
    assert bounds["general_low"] < 0.1 and bounds["general_change_low"] < -0.2
    _, said = judged(200, 0.9, {FEW_SHOT: 0.5}, general=general.compared(able, able, 0))
    assert said.advice == "deploy"
    _, said = judged(200, 0.9, {FEW_SHOT: 0.5, LARGER: 1.0}, general=lost)
    assert said.reservations == ["general-abilities-lost", "larger-model-better"]


def test_an_evaluation_from_before_these_were_counted_is_still_read() -> None:
    made, _ = judged(20, 0.9, {FEW_SHOT: 0.5})
    numbers = table.plain(made)
    for line in numbers["lines"]:
        del line["cut"], line["longest"]
    del numbers["timed_with"]
    assert table.of(numbers) == made
    assert msgspec.convert({"advice": "deploy", "against": None, "sentences": []}, Verdict).reservations == []


def test_groups_are_numbers_here() -> None:
    made, _ = judged(10, 1.0, {BASE: 0.0}, groups=[[[0, 1, 2], [3]]])
    assert [one.rows for one in made.groups[0]] == [3, 1]
    assert made.groups[0][1].figures == {BASE: 0.0, TUNED: 1.0}


def test_a_group_in_which_nothing_could_be_measured_has_no_figure() -> None:
    task = task_of([Row((Message("user", "q"), Message("assistant", "a")))] * 4, "x")
    lines = [measured(BASE, np.array([1.0, 0.0, np.nan, np.nan])), measured(TUNED, np.ones(4))]
    settings: dict[str, Any] = {
        "groups": [[[0, 1], [2, 3]]],
        "general": None,
        "costs": None,
        "training_s": None,
    }
    made = build(task, lines, primary="exact_match", seed=0, **settings)
    assert [one.figures for one in made.groups[0]] == [{BASE: 0.5, TUNED: 1.0}, {TUNED: 1.0}]
    ((_, rows),) = columns.groups(made)
    assert rows[1][2] == "-" and rows[1][3] != "-"
    assert table.of(table.plain(made)) == made


def test_plain_text_is_told_by_its_loss() -> None:
    task = Task("text", ("",) * 40)
    draw = np.random.default_rng(0)
    counts = tuple(draw.integers(50, 200, 40).tolist())
    base = tuple(3.0 * n + float(draw.normal()) for n in counts)
    tuned = tuple(2.5 * n + float(draw.normal()) for n in counts)
    made = build(
        task,
        [Measured(BASE, nats=base, counts=counts), Measured(TUNED, nats=tuned, counts=counts)],
        primary="loss",
        groups=[],
        general=None,
        costs=None,
        training_s=None,
        seed=0,
    )
    said = verdict(made)
    assert made.lines[0].gain.value == pytest.approx(0.5, abs=0.01)
    assert said.advice == "deploy" and "nats a token" in said.sentences[0]
    assert made.lines[1].figures["perplexity"].value == pytest.approx(np.exp(2.5), rel=0.01)
    assert table.bounds(made)["loss_high"] > made.lines[1].figures["loss"].value


def test_a_metric_that_finds_nothing_right_anywhere_tells_nothing() -> None:
    task = task_of([Row((Message("user", "q"), Message("assistant", "a")))] * 24, "x")
    lines = [Measured(name, ("x",) * 24, Scored({"own": np.zeros(24)})) for name in (BASE, TUNED)]
    made = build(task, lines, primary="own", groups=[], general=None, costs=None, training_s=None, seed=0)
    assert verdict(made).advice == "cannot-tell" and "rows would do" in verdict(made).sentences[0]


def test_a_metric_of_ones_own_decides_by_its_own_scale() -> None:
    task = task_of([Row((Message("user", "q"), Message("assistant", "a")))] * 100, "x")
    draw = np.random.default_rng(1)
    lines = [
        Measured(name, ("x",) * 100, Scored({"own": draw.normal(mid, 5, 100), "exact_match": np.ones(100)}))
        for name, mid in ((BASE, 40.0), (TUNED, 80.0))
    ]
    made = build(task, lines, primary="own", groups=[], general=None, costs=None, training_s=None, seed=0)
    assert verdict(made).advice == "deploy" and "own" in verdict(made).sentences[0]


def test_a_metric_that_says_nothing_of_one_line_leaves_it_out_by_group() -> None:
    task = task_of([Row((Message("user", "q"), Message("assistant", "a")))] * 4, "x")
    own = {"own": np.ones(4), "exact_match": np.ones(4)}
    tuned = Measured(TUNED, ("x",) * 4, Scored(own))
    rest: dict[str, Any] = {"general": None, "costs": None, "training_s": None, "seed": 0}
    lines = [measured(BASE, np.ones(4)), tuned]
    made = build(task, lines, primary="own", groups=[[[0, 1], [2, 3]]], **rest)
    assert [set(group.figures) for group in made.groups[0]] == [{TUNED}, {TUNED}]
    assert made.lines[0].gain is None and verdict(made).advice == "cannot-tell"


def test_queries_are_told_in_three_digits_that_count() -> None:
    told = [counted(value) for value in (1.0, 121.0, 999.0, 1_000.0, 14_400.0, 9_999.0, 3_309_591_907.0)]
    assert told == ["1", "121", "999", "1,000", "14,400", "10,000", "3,310,000,000"]
