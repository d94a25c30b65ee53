"""The claims desk: deterministic, well formed, and the answers are in the messages."""

from __future__ import annotations

import json
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.demo.claims import CATEGORIES, URGENCIES, generate, json_lines

CANARY = "CANARY-7f3a9c1e"


def pairs(rows: int, seed: int, canary: str | None = None) -> list[tuple[str, dict[str, str]]]:
    found = []
    for row in generate(rows, seed, canary):
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        found.append((user["content"], json.loads(assistant["content"])))
    return found


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_the_answer_is_compact_json_whose_copied_fields_stand_in_the_message(seed: int) -> None:
    for row in generate(20, seed):
        text, reply = (message["content"] for message in row["messages"])
        answer = json.loads(reply)
        assert list(answer) == ["category", "urgency", "policy", "name"]
        assert answer["category"] in CATEGORIES
        assert answer["urgency"] in URGENCIES
        assert text.count(answer["policy"]) == 1
        assert text.count(answer["name"]) == 1
        assert reply == json.dumps(answer, separators=(",", ":"))
        assert not set("{}[]|") & set(text)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    assert list(generate(50, 3)) == list(generate(50, 3))
    assert list(generate(50, 3)) != list(generate(50, 4))
    assert list(generate(80, 3))[:50] == list(generate(50, 3))


def test_no_two_rows_are_alike_and_every_class_is_common() -> None:
    found = pairs(1500, 0)
    assert len({text for text, _ in found}) == 1500
    categories = Counter(answer["category"] for _, answer in found)
    urgencies = Counter(answer["urgency"] for _, answer in found)
    assert set(categories) == set(CATEGORIES)
    assert min(categories.values()) > 120
    assert set(urgencies) == set(URGENCIES)
    assert min(urgencies.values()) > 400


def test_a_canary_is_planted_in_some_messages_and_changes_nothing_else() -> None:
    plain, planted = pairs(300, 1), pairs(300, 1, CANARY)
    carriers = [index for index, (text, _) in enumerate(planted) if CANARY in text]
    assert carriers == [3, 100, 197, 294]
    for (text, answer), (with_canary, same_answer) in zip(plain, planted, strict=True):
        assert with_canary.startswith(text)
        assert answer == same_answer
        assert CANARY not in json.dumps(answer)


def test_json_lines_are_the_rows() -> None:
    lines = list(json_lines(10, 2, CANARY))
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    assert [json.loads(line) for line in lines] == list(generate(10, 2, CANARY))
