"""How examples are chosen and put before a question, and that none is cut."""

from __future__ import annotations

from collections import Counter

import tiny
from cloister.datasets.rows import Message, Row
from cloister.evaluation.prompts import (
    FRAMES,
    Retriever,
    alike_for_all,
    asked,
    few_shot,
    fitted,
    framed,
    plain,
)

POOL = tiny.rows(60, seed=1, labelled=True)
ROWS = tiny.rows(8, seed=2, labelled=True)


def test_few_shot_is_balanced_and_seeded() -> None:
    skewed = [row for row in POOL if row.label == "tree"][:20] + [r for r in POOL if r.label == "other"][:3]
    chosen = few_shot(skewed, 8, 0)
    assert Counter(row.label for row in chosen) == {"tree": 5, "other": 3}
    assert few_shot(skewed, 8, 0) == chosen != few_shot(skewed, 8, 1)
    assert len(few_shot(skewed, 100, 0)) == len(skewed)


def test_the_nearest_examples_stand_next_to_the_question() -> None:
    pool = [
        Row((Message("user", text), Message("assistant", "x"))) for text in ("red fish", "blue fish", "a cow")
    ]
    ask = Row((Message("user", "Red fish?"), Message("assistant", "x")))
    near = Retriever(pool).nearest([ask, Row((Message("user", "…"), Message("assistant", "x")))], 2)
    assert [row.messages[0].content for row in near[0]] == ["blue fish", "red fish"]
    assert len(near[1]) == 2


def test_instruction_and_examples_come_before_the_question() -> None:
    row = Row((Message("system", "s"), Message("user", "q"), Message("assistant", "a")))
    made = asked(row, "Do.", POOL[:1])
    shown = [(turn.role, turn.content) for turn in made.messages]
    first, answer = POOL[0].messages
    assert shown == [
        ("system", "s"),
        ("user", f"Do.\n\n{first.content}"),
        ("assistant", answer.content),
        ("user", "q"),
        ("assistant", "a"),
    ]


def test_as_many_examples_as_fit() -> None:
    tokenizer = tiny.tokenizer()
    bare = max(map(len, plain(ROWS, tokenizer).input_ids))
    for most in (bare + 20, bare + 60, bare + 200):
        found = alike_for_all(ROWS, tokenizer, most, instruction=None, examples=POOL[:6])
        assert max(map(len, found.input_ids)) <= most
        more = fitted(
            ROWS, tokenizer, 10_000, instruction=None, examples=[POOL[: int(found.examples) + 1]] * 8
        )
        assert found.examples == 6 or max(map(len, more.input_ids)) > most
    each = fitted(ROWS, tokenizer, bare + 60, instruction=None, examples=[POOL[:6]] * 8)
    assert 0 < each.examples < 6 and max(map(len, each.input_ids)) <= bare + 60
    dropped = fitted(ROWS, tokenizer, bare + 5, instruction="word " * 50, examples=[()] * 8)
    assert not dropped.instructed and dropped.input_ids == plain(ROWS, tokenizer).input_ids


def test_where_no_example_fits_beside_the_instruction_it_goes() -> None:
    tokenizer, told = tiny.tokenizer(), "word " * 50
    most = max(map(len, fitted(ROWS, tokenizer, 10_000, instruction=told, examples=[()] * 8).input_ids))
    found = alike_for_all(ROWS, tokenizer, most, instruction=told, examples=POOL[:6])
    assert found.examples > 0 and not found.instructed and max(map(len, found.input_ids)) <= most
    roomy = alike_for_all(ROWS, tokenizer, most + 60, instruction=told, examples=POOL[:6])
    assert roomy.examples > 0 and roomy.instructed
    longest = max(map(len, plain(ROWS, tokenizer).input_ids))
    none = alike_for_all(ROWS, tokenizer, longest, instruction=None, examples=POOL[:6])
    assert none.examples == 0 and none.input_ids == plain(ROWS, tokenizer).input_ids


def test_a_frame_changes_the_last_question_alone() -> None:
    made = framed([asked(ROWS[0], None, POOL[:1])], FRAMES[0])[0]
    assert made.messages[0] == POOL[0].messages[0]
    assert made.messages[2].content == FRAMES[0].format(ROWS[0].messages[0].content)
