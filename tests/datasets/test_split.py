"""The hold-out split: same input, same side; near the share asked for; no side empty without need."""

from __future__ import annotations

import hashlib
import itertools
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.datasets import Message, Row
from cloister.datasets.split import InputHash, Splitter, normalised_input


def row(question: str, answer: str = "x") -> Row:
    return Row((Message("user", question), Message("assistant", answer)))


def split(rows: list[Row], share: float, seed: int = 0, batch: int = 3) -> tuple[bytes, list[int]]:
    splitter = Splitter(share, seed)
    parts = [splitter.add(rows[at : at + batch]) for at in range(0, len(rows), batch)]
    return b"".join([*parts, splitter.finish()]), splitter.counts


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40),
    st.floats(0.01, 0.5),
    st.integers(-5, 5),
    st.integers(1, 7),
)
def test_same_inputs_share_a_side_and_neither_is_empty(questions, share, seed, batch):
    rows = [row(question, str(number)) for number, question in enumerate(questions)]
    sides, counts = split(rows, share, seed, batch)
    assert len(sides) == len(rows)
    assert counts == [sides.count(0), sides.count(1)]
    by_question: dict[str, set[int]] = {}
    for question, side in zip(questions, sides, strict=True):
        by_question.setdefault(question, set()).add(side)
    assert all(len(found) == 1 for found in by_question.values())
    assert all(counts) == (len(by_question) > 1)
    assert split(rows, share, seed, 1000)[0] == sides


def test_no_hold_out_when_none_is_asked_for():
    assert split([row("a"), row("b")], 0.0) == (b"\0\0", [2, 0])


def test_the_share_comes_out_near_and_the_seed_changes_the_choice():
    rows = [row(f"question {n}") for n in range(20_000)]
    first, counts = split(rows, 0.1, batch=4000)
    assert 0.09 < counts[1] / len(rows) < 0.11
    second, _ = split(rows, 0.1, seed=1, batch=4000)
    both = sum(a & b for a, b in zip(first, second, strict=True))
    assert both < counts[1] * 0.2


def test_order_makes_no_difference():
    rows = [row(f"question {n}") for n in range(500)]
    sides, _ = split(rows, 0.2, batch=100)
    backwards, _ = split(rows[::-1], 0.2, batch=100)
    assert backwards[::-1] == sides


def test_white_space_case_and_unicode_form_make_no_difference():
    variants = ["Straße  im\tNebel", "strasse im nebel ", "STRASSE IM\u00a0NEBEL"]
    assert len({normalised_input(row(text)) for text in variants}) == 1
    assert normalised_input(row("cafe\u0301")) == normalised_input(row("caf\u00e9"))
    assert normalised_input(row("a")) != normalised_input(row("b"))


def test_a_system_turn_belongs_to_the_input_and_an_answer_does_not():
    question, answer = Message("user", "q"), Message("assistant", "a")
    plain, with_system = Row((question, answer)), Row((Message("system", "s"), question, answer))
    follow_up = Row((question, answer, Message("user", "r"), answer))
    answered_otherwise = Row((question, Message("assistant", "b"), Message("user", "r"), answer))
    assert normalised_input(follow_up) == normalised_input(answered_otherwise)
    for one, two in itertools.combinations((plain, with_system, follow_up), 2):
        assert normalised_input(one) != normalised_input(two)


def alone(item: Row) -> bytes:
    """What `normalised_input` says in words, one text at a time."""
    texts = (
        [item.text] if item.text is not None else [m.content for m in item.messages if m.role != "assistant"]
    )
    return b"\0".join(
        "".join(unicodedata.normalize("NFKC", text).casefold().split()).encode() for text in texts
    )


pieces = st.text(
    st.sampled_from(
        "aZ \n\t\x1c\x01ßİΣςé\u0301\u0327\u1161\u11a8\u1100ﬁ²\u0085\u00a0\u1680\u2009\u2028\u2029\u3000\u00ff🙂"
    )
    | st.characters(codec="utf-8", exclude_characters="\0"),
    min_size=1,
    max_size=12,
)
some_rows = st.builds(lambda text: Row(text=text), pieces) | st.builds(
    lambda system, texts: Row(
        (
            *([Message("system", system)] if system else []),
            *(m for t in texts for m in (Message("user", t), Message("assistant", "x"))),
        )
    ),
    st.none() | pieces,
    st.lists(pieces, min_size=1, max_size=3),
)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(some_rows, max_size=12))
def test_a_row_is_hashed_the_same_in_any_company(some):
    keyed = hashlib.blake2b(digest_size=8, key=b"7", person=b"cloister-split")
    wanted = []
    for item in some:
        assert normalised_input(item) == alone(item)
        state = keyed.copy()
        state.update(alone(item))
        wanted.append(int.from_bytes(state.digest(), "little"))
    assert list(InputHash(7).of(some)) == wanted
