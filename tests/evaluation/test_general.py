"""The shipped check: that every item can be answered, that nonsense does not pass, and what is told of a change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cloister.evaluation import general
from cloister.evaluation.general import Item, check, compared, items

RIGHT = {
    "says": str,
    "same": str,
    "number": str,
    "starts": lambda v: f"{v} is good.",
    "ends": lambda v: f"A train{v}",
}
RIGHT |= {
    "upper": lambda v: v.upper(),
    "words": lambda v: "word " * v,
    "lines": lambda v: "\n".join("ab"[i % 2] for i in range(v)),
    "keys": lambda v: "{" + ",".join(f'"{name}": 1' for name in v) + "}",
    "commas": lambda v: ", ".join(v),
}


def right(item: Item) -> str:
    return str(RIGHT[item.check](item.value))


def test_every_item_can_be_answered_and_nonsense_passes_none() -> None:
    assert set(Counter(item.kind for item in items()).values()) == {12} and len(items()) == 48
    assert len({item.prompt for item in items()}) == 48
    for item in items():
        assert check(item, right(item)), item.prompt
        for nonsense in ("", "I do not know what to say about this, sorry, really", '{"category":"water"}'):
            assert not check(item, nonsense), item.prompt


def test_a_model_that_thinks_aloud_is_asked_until_it_says_something() -> None:
    """Else it could do nothing before, and nothing is ever lost."""
    answers = [right(item) for item in items()]
    asked: list[tuple[int, int]] = []

    def said(prompts: Sequence[Sequence[int]], most: int) -> list[str]:
        asked.append((len(prompts), most))
        thoughts = [f"<think>\n{'hm ' * (200 if number % 3 == 0 else 2)}" for (number,) in prompts]
        ends = [most > 100 or number % 3 for (number,) in prompts]
        return [
            thought + (f"\n</think>\n\n{answers[number]}" if end else "")
            for thought, end, (number,) in zip(thoughts, ends, prompts, strict=True)
        ]

    given = general.patiently(said, [[number] for number in range(48)], 4096)
    assert asked == [(48, general.MAX_NEW_TOKENS), (16, general.MOST_THOUGHT)]
    assert all(check(item, answer) for item, answer in zip(items(), given, strict=True))
    assert general.patiently(lambda prompts, most: answers, [[0]] * 48, 4096) == answers
    asked.clear()
    general.patiently(said, [[number] for number in range(48)], 64)
    assert len(asked) == 1, "a context that has no room for a thought"


def test_what_was_lost_shows() -> None:
    good, lost = [right(item) for item in items()], ["{}" for _ in items()]
    fell = compared(good, lost, 0)
    assert fell.base.value == 1 and fell.tuned.value == 0 and fell.change.high < 0
    assert fell.kinds["copying"] == (1.0, 0.0)
    same = compared(good, good, 0)
    assert same.change.low < 0 < same.change.high
    assert len(general.rows()) == 48
