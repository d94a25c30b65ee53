"""Counts of lengths in bounded memory, and the figures that come of them."""

from __future__ import annotations

from collections import Counter

from cloister.api import LengthFigures

EXACT = 256
"""Lengths below this are counted one by one, longer ones in steps of about 3%."""


class Lengths:
    """Takes in lengths, any number of them; a few thousand counters at most."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self.total = 0
        self._longest = 0

    def add(self, length: int, times: int = 1) -> None:
        self._bins[_floor(length)] += times
        self.total += length * times
        self._longest = max(self._longest, length)

    def figures(self, *, columns: int = 12) -> LengthFigures | None:
        """Quantiles and a histogram of at most so many steps; None where there was nothing."""
        count = sum(self._bins.values())
        if not count:
            return None
        ordered = sorted(self._bins.items())

        def quantile(share: float) -> int:
            left = share * (count - 1)
            for length, times in ordered:
                left -= times
                if left < 0:
                    return length
            return ordered[-1][0]

        low, high = ordered[0][0], self._longest
        width = max(1, -(-(high - low + 1) // columns))
        histogram = [(low + width * (n + 1) - 1, 0) for n in range(-(-(high - low + 1) // width))]
        for length, times in ordered:
            place = min((length - low) // width, len(histogram) - 1)
            histogram[place] = (histogram[place][0], histogram[place][1] + times)
        return LengthFigures(
            total=self.total,
            shortest=low,
            longest=high,
            median=quantile(0.5),
            p95=quantile(0.95),
            p99=quantile(0.99),
            histogram=histogram,
        )


def _floor(length: int) -> int:
    """A length with its five highest bits kept."""
    if length < EXACT:
        return length
    shift = length.bit_length() - 6
    return length >> shift << shift
