"""What an option or a file says wrongly is named, with what may have been meant, and without its value."""

from __future__ import annotations

import pytest

from cloister.api import RunRequest, TrainConfig
from cloister.cli.validation import MOST, validated
from cloister.errors import InvalidInput

RUN = {"name": "a", "dataset": "d", "base": "b"}


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"learning_rte": 1}, "train.learning_rte: there is no such setting; is `learning_rate` meant?"),
        ({"lora": {"r": 8, "rnk": 8}}, "train.lora.rnk: there is no such setting; is `rank` meant?"),
        ({"gradient_accumulation": 8}, "train.gradient_accumulation: there is no such setting"),
        ({"epochs": float("inf")}, "train.epochs: "),
        ({"lora": {"rank": 0}}, "train.lora.rank: Input should be greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_named(train: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        validated(RunRequest, **RUN, train=train)
    assert told in caught.value.message and "Extra inputs" not in caught.value.message


def test_many_wrong_settings_are_told_in_a_line_of_some_length() -> None:
    with pytest.raises(InvalidInput) as caught:
        validated(TrainConfig, **{f"x{n}" + "y" * 200: n for n in range(100)})
    assert caught.value.message.endswith(f"and {100 - MOST} more") and len(caught.value.message) < 1500


def test_a_name_cannot_act_on_the_terminal() -> None:
    with pytest.raises(InvalidInput) as caught:
        validated(TrainConfig, **{"\x1b[2J": 1})
    assert "\x1b" not in caught.value.message
