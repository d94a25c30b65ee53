"""The safetensors header: what the reference library writes is taken, every broken rule is refused."""

from __future__ import annotations

import json
import pickle
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.errors import InvalidInput
from cloister.models.safetensors_header import MAX_HEADER, header_size, parse_header


def parse(data: bytes):
    size = header_size(data[:8], len(data), "w")
    return parse_header(data[8 : 8 + size], len(data), "w")


def file_of(header: object, payload: int) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(payload)


def tensor(begin: int, end: int, shape=None, dtype: str = "F16", **more):
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 2] if shape is None else shape,
        "data_offsets": [begin, end],
        **more,
    }


def test_a_file_of_the_reference_library_is_taken():
    numpy = pytest.importorskip("numpy")
    from safetensors.numpy import save

    arrays = {
        "a.weight": numpy.ones((3, 4), "float16"),
        "b": numpy.zeros((), "float32"),
        "c": numpy.zeros((0, 5), "int64"),
    }
    data = save(arrays, metadata={"format": "pt"})
    header = parse(data)
    assert header.metadata == {"format": "pt"}
    assert {name: info.shape for name, info in header.tensors.items()} == {
        n: a.shape for n, a in arrays.items()
    }
    info = header.tensors["a.weight"]
    assert data[header.data_start + info.begin :][:24] == arrays["a.weight"].tobytes()


REFUSED = {
    "too short": (b"\1\2\3", 0, "too short"),
    "header past the end": (struct.pack("<Q", 100) + b"{}", None, "does not fit"),
    "huge header": (struct.pack("<Q", 1 << 62) + b"{}", None, "does not fit"),
    "no json": (b"{]", 0, "not valid JSON"),
    "not utf-8": (b'{"\xff":1}', 0, "not valid JSON"),
    "space first": (b' {"a":1}', 0, "begin with an object"),
    "an array": (b"[]", 0, "begin with an object"),
    "nested": (b'{"a":' + b"[" * 100_000, 0, "not valid JSON"),
    "NaN": (b'{"a":NaN}', 0, "not valid JSON"),
    "two values": (b"{}{}", 0, "not valid JSON"),
    "tensor twice": (b'{"a":%s,"a":%s}' % ((json.dumps(tensor(0, 2)).encode(),) * 2), 2, "key twice"),
    "dtype twice": (b'{"a":{"dtype":"F16","dtype":"F16","shape":[1],"data_offsets":[0,2]}}', 2, "key twice"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, 0, "must be texts"),
    "metadata of lists": ({"__metadata__": []}, 0, "must be texts"),
    "no name": ({"": tensor(0, 2)}, 2, "no usable name"),
    "escape in name": ({"a\x1b[2J": tensor(0, 2)}, 2, "no usable name"),
    "long name": ({"a" * 600: tensor(0, 2)}, 2, "no usable name"),
    "no object": ({"a": [1]}, 0, "must have dtype"),
    "missing shape": ({"a": {"dtype": "F16", "data_offsets": [0, 2]}}, 2, "must have dtype"),
    "one more field": ({"a": tensor(0, 2, code="x")}, 2, "nothing else"),
    "unknown dtype": ({"a": tensor(0, 2, dtype="F17")}, 2, "unknown dtype"),
    "dtype no text": ({"a": tensor(0, 2, dtype=None)}, 2, "unknown dtype"),
    "negative shape": ({"a": tensor(0, 2, shape=[-1])}, 2, "shape that is none"),
    "fractional shape": ({"a": tensor(0, 2, shape=[1.0])}, 2, "shape that is none"),
    "boolean shape": ({"a": tensor(0, 2, shape=[True])}, 2, "shape that is none"),
    "huge shape": (
        b'{"a":{"dtype":"F16","shape":[%s],"data_offsets":[0,2]}}' % (b"9" * 5000),
        2,
        "shape that is none",
    ),
    "many dimensions": ({"a": tensor(0, 2, shape=[1] * 100)}, 2, "shape that is none"),
    "three offsets": (
        {"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2, 2]}},
        2,
        "offsets that are none",
    ),
    "backwards": ({"a": {"dtype": "F16", "shape": [1], "data_offsets": [2, 0]}}, 2, "offsets that are none"),
    "size and shape differ": ({"a": tensor(0, 4, shape=[3])}, 4, "different number of bytes"),
    "overflowing product": ({"a": tensor(0, 2, shape=[1 << 33, 1 << 33])}, 2, "different number of bytes"),
    "half a byte": ({"a": tensor(0, 1, shape=[3], dtype="F4")}, 1, "different number of bytes"),
    "overlap": ({"a": tensor(0, 4), "b": tensor(2, 6)}, 6, "overlaps"),
    "same place": ({"a": tensor(0, 4), "b": tensor(0, 4)}, 4, "overlaps"),
    "hole": ({"a": tensor(0, 2), "b": tensor(4, 6)}, 6, "a hole before"),
    "hole at the start": ({"a": tensor(2, 4)}, 4, "a hole before"),
    "cut off": ({"a": tensor(0, 4)}, 3, "cut off"),
    "bytes behind": ({"a": tensor(0, 4)}, 5, "bytes behind"),
    "bytes behind nothing": ({}, 1, "bytes behind"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_rule_is_named(name):
    header, payload, told = REFUSED[name]
    data = header if payload is None or name == "too short" else file_of(header, payload)
    with pytest.raises(InvalidInput, match=told) as refused:
        parse(data)
    assert refused.value.where == "w"
    assert len(str(refused.value)) < 900


def test_spaces_behind_the_header_are_padding():
    assert parse(file_of(b"{}   ", 0)).tensors == {}
    with pytest.raises(InvalidInput):
        parse(file_of(b"{}\n\0", 0))


def test_a_pickle_is_called_one():
    with pytest.raises(InvalidInput, match="Python pickle"):
        header_size(pickle.dumps({"a": [1] * 50})[:8], 500, "w")


def test_a_header_larger_than_the_bound_is_refused_before_it_is_read():
    with pytest.raises(InvalidInput, match="larger than"):
        header_size(struct.pack("<Q", MAX_HEADER + 1), 1 << 40, "w")


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=6),
    st.integers(0, 5),
    st.sampled_from([-2, -1, 1, 2]),
    st.booleans(),
)
def test_any_shift_of_an_offset_is_refused(sizes, which, by, at_end):
    offsets, at = [], 0
    for size in sizes:
        offsets.append([at, at + 2 * size])
        at += 2 * size
    good = {str(n): tensor(*pair) for n, pair in enumerate(offsets)}
    assert len(parse(file_of(good, at)).tensors) == len(sizes)
    changed = offsets[which % len(sizes)]
    changed[at_end] += by
    with pytest.raises(InvalidInput):
        parse(
            file_of(
                {n: {**t, "data_offsets": o} for (n, t), o in zip(good.items(), offsets, strict=True)}, at
            )
        )
