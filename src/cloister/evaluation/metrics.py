"""Numbers about answers: exact match, labels, JSON fields, ROUGE-L, house terms. Strings only; no model, no torch."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_WORDS = re.compile(r"\w+")
_THOUGHT = r"(?:think|thinking|thought|reasoning)>"
_THOUGHT_BEGINS = re.compile(rf"\s*<{_THOUGHT}", re.IGNORECASE)
_THOUGHT_ENDS = re.compile(rf"</{_THOUGHT}", re.IGNORECASE)
_FENCE = re.compile(r"\A```(?:json)?\s*(.*?)\s*```\Z", re.DOTALL)
_NAME_BEFORE = re.compile(r"([A-Za-z_][\w.-]*)\s*\Z")
_DECODER = json.JSONDecoder()
MISSING = object()


def exact_match(answers: Sequence[str], expected: Sequence[str]) -> float:
    """The share of answers equal to what is expected, thoughts before them and white space at the ends aside."""
    pairs = _paired(answers, expected)
    return sum(same(answer, wanted) for answer, wanted in pairs) / len(pairs)


def accuracy(answers: Sequence[str], labels: Sequence[str]) -> float:
    """The share of answers that name the right label, as `exact_match` has it."""
    return exact_match(answers, labels)


def macro_f1(answers: Sequence[str], labels: Sequence[str]) -> float:
    """The mean over the labels that occur of each one's F1.

    An answer that is no label counts against the label it should have been, and makes no class of its own.
    """
    pairs = [(spoken(answer).strip(), label.strip()) for answer, label in _paired(answers, labels)]
    hits = Counter(label for answer, label in pairs if answer == label)
    said = Counter(answer for answer, _ in pairs)
    wanted = Counter(label for _, label in pairs)
    # F1 = 2·hits / (said + wanted), and no label of `wanted` has a zero below the line.
    return sum(2 * hits[label] / (said[label] + count) for label, count in wanted.items()) / len(wanted)


def agreement(answers: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> float:
    """The share of rows whose two answers are the same tokens from first to last."""
    if len(answers) != len(others) or not answers:
        raise ValueError("agreement needs two lists of answers of one length, not empty")
    return sum(list(a) == list(b) for a, b in zip(answers, others, strict=True)) / len(answers)


class Labels:
    """The labels of a task, and which of them an answer names.

    A model that was not tuned may answer in a sentence, in other case, or between quotes: a program that asks it
    would read that, so it counts. The first line decides where it names a label, else the whole answer; several labels
    there name none. A thought before the answer (`<think>…</think>`) is no part of it.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.names = sorted({label.strip() for label in labels})
        self._exact = {name: number for number, name in enumerate(self.names)}
        self._numbers = {_plain(name): number for number, name in enumerate(self.names)}
        by_length = sorted(self._numbers, key=len, reverse=True)
        self._any = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, by_length)) + r")(?!\w)")

    def number(self, answer: str) -> int:
        """Of the label that `answer` names, from 0; -1 where it names none, or more than one."""
        said = spoken(answer)
        if said.strip() in self._exact:
            return self._exact[said.strip()]
        plain = _plain(said)
        if plain in self._numbers:
            return self._numbers[plain]
        for text in (plain.partition("\n")[0], plain):
            found = set(self._any.findall(text))
            if found:
                return self._numbers[found.pop()] if len(found) == 1 else -1
        return -1


def spoken(answer: str) -> str:
    """An answer without the thought that a model writes before it; nothing where the thought never ends."""
    ends = [found.end() for found in _THOUGHT_ENDS.finditer(answer)]
    if ends:
        return answer[ends[-1] :]
    return "" if _THOUGHT_BEGINS.match(answer) else answer


def same(answer: str, expected: str) -> bool:
    """Whether an answer is, to the letter, what is expected: the thoughts before both and white space aside."""
    return spoken(answer).strip() == spoken(expected).strip()


def thinks_on(answer: str) -> bool:
    """Whether an answer is a thought that has not ended: it was cut off before it said anything."""
    return bool(_THOUGHT_BEGINS.match(answer)) and not _THOUGHT_ENDS.search(answer)


def calls_of(answer: str) -> list[dict[str, Any]]:
    """The functions that an answer calls, in order, each its `name` and `arguments`, as templates write them in JSON.

    A call is an object with a name and arguments (or `parameters`), or its arguments alone behind the name.
    """
    found: list[dict[str, Any]] = []
    at, read_to = 0, 0
    while (at := answer.find("{", at)) >= 0:
        try:
            value, end = _DECODER.raw_decode(answer, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        named = _NAME_BEFORE.search(answer, read_to, at)
        inner = value.get("function")
        call = _call(inner if isinstance(inner, dict) else value)
        if call is None and named is not None:
            call = {"name": named[1], "arguments": value}
        if call is not None:
            found.append(call)
        at = read_to = end
    return found


def _call(value: dict[str, Any]) -> dict[str, Any] | None:
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return {"name": name, "arguments": arguments}


def call_text(answer: str) -> str:
    """What an answer calls, in one spelling; where it calls nothing, what it says. A thought before counts for neither.

    Words beside a call are left out.
    """
    said = spoken(answer)
    calls = calls_of(said)
    return json.dumps(calls, sort_keys=True, ensure_ascii=False) if calls else said


def json_object(answer: str) -> dict[str, Any] | None:
    """The JSON object that an answer is, also between the fences of a Markdown block or after a thought; None where it
    is none."""
    text = spoken(answer).strip()
    fenced = _FENCE.match(text)
    try:
        found = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def fields_right(answer: Mapping[str, Any] | None, expected: Mapping[str, Any]) -> float:
    """The share of the expected fields that the answer has with their values; strings without white space around.

    A field too many counts like one that is wrong.
    """
    given = answer or {}
    right = sum(_value(given.get(name, MISSING)) == _value(value) for name, value in expected.items())
    return float(right / max(1, len(expected.keys() | given.keys())))


def rouge_l(answer: str, expected: str) -> float:
    """ROUGE-L (Lin, 2004) as an F-measure over words, letter case aside: their longest common subsequence."""
    from rapidfuzz.distance import LCSseq

    said, wanted = words(answer), words(expected)
    if not said or not wanted:
        return float(said == wanted)
    common = int(LCSseq.similarity(said, wanted))
    return 2 * common / (len(said) + len(wanted))


def words(text: str) -> list[str]:
    """Runs of letters and digits, without their case."""
    return _WORDS.findall(text.casefold())


class Glossary:
    """House terms: `term` a line, or `avoided -> term` for what is not to be said. Lines with # are comments."""

    def __init__(self, text: str) -> None:
        self._terms: list[re.Pattern[str]] = []
        self._avoided: list[re.Pattern[str]] = []
        for line in text.splitlines():
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            avoided, arrow, term = (part.strip() for part in line.partition("->"))
            self._terms.append(_whole(term if arrow else avoided))
            if arrow and avoided:
                self._avoided.append(_whole(avoided))

    def __len__(self) -> int:
        return len(self._terms)

    def use(self, answer: str, expected: str) -> float | None:
        """Of the terms in the expected answer, the share that the answer uses; each avoided one that it uses and
        that was not expected is one more that is wrong. None where there is nothing to say."""
        due = [term for term in self._terms if term.search(expected)]
        slips = sum(bool(one.search(answer)) and not one.search(expected) for one in self._avoided)
        if not due and not slips:
            return None
        return sum(bool(term.search(answer)) for term in due) / (len(due) + slips)


def _whole(term: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(term)}(?!\w)", re.IGNORECASE)


def _plain(text: str) -> str:
    return text.strip().strip("\"'`*.,:;! ").casefold()


def _value(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _paired(answers: Sequence[str], expected: Sequence[str]) -> list[tuple[str, str]]:
    if len(answers) != len(expected) or not answers:
        raise ValueError("a metric needs as many answers as expected values, and at least one")
    return list(zip(answers, expected, strict=True))
