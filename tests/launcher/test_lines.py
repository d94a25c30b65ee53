"""Numbered lines in bounded memory: properties over any output in any pieces."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.launcher.lines import LineBuffer, LineSplitter, final_kind

quick = settings(max_examples=150, derandomize=True, deadline=None)


@quick
@given(
    lines=st.lists(st.binary(min_size=1, max_size=40).filter(lambda line: b"\n" not in line), max_size=20),
    cuts=st.lists(st.integers(1, 30), max_size=60),
    unfinished=st.booleans(),
)
def test_any_pieces_give_the_same_lines(lines: list[bytes], cuts: list[int], unfinished: bool) -> None:
    data = b"\n".join(lines) + (b"" if unfinished or not lines else b"\n")
    splitter = LineSplitter(max_line=40)
    found: list[bytes] = []
    for size in cuts:
        found += splitter.feed(data[:size])
        data = data[size:]
    found += splitter.feed(data)
    found += splitter.finish()
    assert found == lines


@quick
@given(size=st.integers(11, 200), pieces=st.integers(1, 50))
def test_a_long_line_becomes_one_notice_with_its_size(size: int, pieces: int) -> None:
    splitter = LineSplitter(max_line=10)
    data = b"x" * size + b"\nnext\n"
    found = [line for at in range(0, len(data), pieces) for line in splitter.feed(data[at : at + pieces])]
    assert found[1:] == [b"next"]
    assert f" {size} bytes" in json.loads(found[0])["message"]


@quick
@given(
    sizes=st.lists(st.integers(0, 300), max_size=60),
    final_at=st.integers(0, 59),
    after=st.integers(0, 70),
    limit=st.integers(1, 10),
)
def test_the_buffer_is_bounded_and_keeps_the_final_line(
    sizes: list[int], final_at: int, after: int, limit: int
) -> None:
    buffer = LineBuffer(max_lines=10, max_bytes=2000)
    written = {}
    for index, size in enumerate(sizes):
        line = b'{"event":"result"}' if index == final_at else b"x" * size
        written[buffer.append(line)] = line
    kept: list[tuple[int, bytes]] = []
    number = after
    while batch := buffer.after(number, limit):
        assert len(batch) <= max(limit, 1)
        kept += batch
        number = batch[-1][0]
    assert [one for one, _ in kept] == sorted({one for one, _ in kept})
    assert all(one > after and written[one] == line for one, line in kept)
    assert len(kept) <= 11
    if sizes and after < len(sizes):
        assert kept[-1][0] == len(sizes)
    if final_at < len(sizes) and after < final_at + 1:
        assert (final_at + 1, b'{"event":"result"}') in kept
        assert buffer.final == "result"


def test_only_events_that_end_a_job_are_final() -> None:
    assert final_kind(b'{"values":{},"event":"failure"}') == "failure"
    assert final_kind(b'{"event":"notice","message":"\\"result\\""}') is None
    assert final_kind(b'"result"') is None
    assert final_kind(b'{"event":"result"') is None
    assert final_kind(b'{"event":["result"]}') is None
    assert final_kind(b"[" * 100_000 + b'"result"') is None
