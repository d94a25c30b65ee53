"""The rows of one optimizer step laid end to end in bins, and shared among processes: pure functions of lengths.

Packing changes neither which rows a step has nor what they weigh; only padding goes. Knows lengths, no tokens.
"""

from __future__ import annotations

from collections.abc import Sequence


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Positions in `lengths` in bins of at most `capacity`, each once; longest first, into the first bin with room.

    Among equal lengths the earlier comes first, so the same lengths give the same bins (first-fit decreasing uses
    at most 11/9 of the fewest bins possible, plus one: Johnson 1973). What is longer than a bin gets one of its own.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[position]
        for number, left in enumerate(room):
            if length <= left:
                bins[number].append(position)
                room[number] -= length
                break
        else:
            bins.append([position])
            room.append(capacity - length)
    return bins


def share(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Positions in `lengths` in `parts` shares of about equal length, each position once; some may be empty.

    The longest first, to whoever has least; among equals the first. Positions of a share come in order.
    """
    shares: list[list[int]] = [[] for _ in range(parts)]
    held = [0] * parts
    for position in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        least = min(range(parts), key=held.__getitem__)
        shares[least].append(position)
        held[least] += lengths[position]
    return [sorted(each) for each in shares]
