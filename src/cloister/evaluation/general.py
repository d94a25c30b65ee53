"""A small general check, shipped with Cloister: what a model could do before it was tuned, and can still do.

Four dozen items of four kinds (following instructions, copying, arithmetic in words, choosing), each checked by a
program, before and after. It tells that something was lost, not how good a model is. Knows answers as text; no model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from cloister.evaluation.metrics import spoken, thinks_on
from cloister.evaluation.statistics import Floats, Interval, difference, mean

if TYPE_CHECKING:
    from cloister.datasets.rows import Row

MAX_NEW_TOKENS = 48
MOST_THOUGHT = 1024
"""Tokens of an answer that a model thinks about aloud, of a small context no more than half."""
CANNOT = 0.1
"""A base below that cannot do these either: nothing can be lost."""


class Item(msgspec.Struct, frozen=True):
    """One question. `check` names the rule, `value` is what it wants."""

    kind: str
    prompt: str
    check: str
    value: str | int | list[str]


class General(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of the items that were answered right, and by kind; `change` is tuned less base."""

    items: int
    base: Interval
    tuned: Interval
    change: Interval
    kinds: dict[str, tuple[float, float]]


@cache
def items() -> tuple[Item, ...]:
    """All of them, in order."""
    text = resources.files("cloister.evaluation").joinpath("general.json").read_bytes()
    return tuple(msgspec.json.decode(text, type=list[Item]))


def rows() -> list[Row]:
    """The items as rows to ask."""
    from cloister.datasets.rows import Message, Row  # whoever only shows a table loads no room of data

    return [Row((Message("user", item.prompt), Message("assistant", "-"))) for item in items()]


def check(item: Item, answer: str) -> bool:
    """Whether an answer does what the item asks, the thought before it aside."""
    return _RULES[item.check](spoken(answer).strip(), item.value)


def patiently(
    said: Callable[[Sequence[Sequence[int]], int], list[str]], prompts: Sequence[Sequence[int]], context: int
) -> list[str]:
    """The answers that `said` gives to prompts within so many tokens. Those that still think get more."""
    answers = said(prompts, MAX_NEW_TOKENS)
    thinking = [number for number, answer in enumerate(answers) if thinks_on(answer)]
    most = min(MOST_THOUGHT, context // 2)
    if thinking and most > MAX_NEW_TOKENS:
        longer = said([prompts[number] for number in thinking], most)
        for number, answer in zip(thinking, longer, strict=True):
            answers[number] = answer
    return answers


def compared(base: Sequence[str], tuned: Sequence[str], seed: int) -> General:
    """Both models' answers to all items."""
    before, after = _right(base), _right(tuned)
    kinds = {}
    for kind in dict.fromkeys(item.kind for item in items()):
        those = np.array([item.kind == kind for item in items()])
        kinds[kind] = (float(before[those].mean()), float(after[those].mean()))
    return General(
        items=len(items()),
        base=mean(before, seed),
        tuned=mean(after, seed),
        change=difference(after, before, seed),
        kinds=kinds,
    )


def _right(answers: Sequence[str]) -> Floats:
    return np.array([check(item, answer) for item, answer in zip(items(), answers, strict=True)], np.float64)


def _plain(text: str) -> str:
    return text.strip().strip("\"'`*.! ").casefold()


def _number(answer: str, value: Any) -> bool:
    """The last number that is said is the right one, in figures."""
    found = re.findall(r"-?\d+(?:\.\d+)?", answer.replace(",", ""))
    return bool(found) and float(found[-1]) == float(value)


def _keys(answer: str, value: Any) -> bool:
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and set(found) == set(value)


_RULES: dict[str, Callable[[str, Any], bool]] = {
    "same": lambda answer, value: answer == value,
    "says": lambda answer, value: _plain(answer) == str(value).casefold(),
    "number": _number,
    "words": lambda answer, value: len(answer.split()) == value,
    "lines": lambda answer, value: len([line for line in answer.splitlines() if line.strip()]) == value,
    "upper": lambda answer, value: _plain(answer) == str(value).casefold() and answer == answer.upper(),
    "starts": lambda answer, value: answer.startswith(str(value)),
    "ends": lambda answer, value: answer.endswith(str(value)),
    "keys": _keys,
    "commas": lambda answer, value: [_plain(part) for part in answer.split(",")] == value,
}
