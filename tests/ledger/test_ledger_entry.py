"""Entries: their canonical bytes are RFC 8785, whichever encoder made them."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_samples import sample

from cloister.errors import InvalidInput
from cloister.ledger import Entry
from cloister.ledger.entry import MAX_ENTRY, canonical_json

numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(values)
def test_canonical_bytes_equal_rfc8785(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


def test_every_character_is_written_as_rfc8785_writes_it() -> None:
    characters = [chr(point) for point in range(0x3000) if not 0xD800 <= point < 0xE000]
    everything = "".join(characters) + "\ue000\uffff\U0001f600"
    assert canonical_json([everything]) == rfc8785.dumps([everything])


def test_names_are_sorted_by_utf16_units() -> None:
    value = {"\U0001f600": 1, "\ufb33": 2, "a": 3, "\r": 4}
    assert canonical_json(value) == rfc8785.dumps(value)


class Colour(StrEnum):
    RED = "red"


def test_enumerations_and_other_mappings_become_plain_json() -> None:
    details = MappingProxyType({"colour": Colour.RED, "list": (1, 2), "share": 0.5})
    entry = Entry("t", "a", "b", "c", objects=(Colour.RED,), details=details)
    data = entry.canonical()
    assert b'"details":{"colour":"red","list":[1,2],"share":0.5}' in data
    assert b'"objects":["red"]' in data


@pytest.mark.parametrize(
    "bad", [float("nan"), float("inf"), 2**53, -(2**53), "\ud800", b"bytes", object(), {1: 2}, {1, 2}]
)
def test_values_without_canonical_form_are_refused_without_being_shown(bad: Any) -> None:
    with pytest.raises(InvalidInput) as raised:
        Entry("t", "a", "b", "c", details={"secret": bad}).canonical()
    assert "secret" not in str(raised.value)


def test_nesting_without_end_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    with pytest.raises(InvalidInput):
        Entry("t", "a", "b", "c", details=loop).canonical()


def test_an_entry_stays_under_64_kib() -> None:
    room = MAX_ENTRY - len(sample(0).canonical())
    assert len(sample(0, pad=room).canonical()) == MAX_ENTRY
    with pytest.raises(InvalidInput, match="65536"):
        sample(0, pad=room + 1).canonical()
