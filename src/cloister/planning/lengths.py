"""How long the rows of a dataset are for one tokenizer: measured by a report, or guessed from their bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace

BYTES_A_TOKEN = 4.0
"""English text, roughly; other languages and small vocabularies take more tokens."""


@dataclass(frozen=True)
class Lengths:
    """Of one side of a dataset, in tokens. `supervised_share` is how many of all tokens are learned from. `texts` are
    read in windows, where conversations are taken whole or not at all."""

    rows: int
    tokens: int
    longest: int
    supervised_share: float
    measured: bool
    texts: bool = False

    def of(self, rows: int) -> Lengths:
        """The same lengths on so many rows."""
        tokens = round(self.tokens * rows / max(1, self.rows))
        return replace(self, rows=rows, tokens=tokens)

    def windowed(self, max_length: int) -> Lengths:
        """As a run reads them: a window of a text is a row, and begins with the last token of the one before."""
        if not self.texts or (self.measured and self.longest <= max_length):
            return self
        windows = max(self.rows, round(self.tokens / (max_length - 1) + self.rows / 2))
        longest = min(self.longest, max_length)
        return replace(self, rows=windows, tokens=self.tokens + windows - self.rows, longest=longest)

    @classmethod
    def guessed(cls, rows: int, sealed_bytes: int, max_length: int) -> Lengths:
        """From the size of the rows, before anybody has counted: the longest is taken to be as long as may be."""
        tokens = round(sealed_bytes / BYTES_A_TOKEN)
        return cls(rows, max(rows, tokens), max_length, 0.3, measured=False)
