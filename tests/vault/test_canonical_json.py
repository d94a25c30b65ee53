"""Canonical JSON of ours gives the bytes that the `rfc8785` package gives."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from cloister.vault.canonical import canonical_json

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(values)
@example({"\U0001f600": 1, "\ufb33": 2, "a\x7f\u2028\x00\x1f": 3})
def test_same_bytes_as_the_package(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@given(st.integers(0, 2**64 - 1))
@example(1)
@example(0x44B52D02C7E14AF6)
@example(0x444B1AE4D6E2EF50)
@example(0x3EB0C6F7A0B5ED8D)
def test_every_float_as_the_package_says_it(bits: int) -> None:
    (number,) = struct.unpack(">d", bits.to_bytes(8, "big"))
    if math.isfinite(number):
        assert canonical_json(number) == rfc8785.dumps(number)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 2**53, b"x", {1: 2}, {"a": {3}}, "\ud800", object], ids=str
)
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        canonical_json(value)


def test_deep_nesting_is_refused() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="deep"):
        canonical_json(value)
