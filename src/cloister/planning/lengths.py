"""How long the rows of a dataset are for one tokenizer: measured by a report, or guessed from their bytes."""

from __future__ import annotations

from dataclasses import dataclass

BYTES_A_TOKEN = 4.0
"""English text, roughly; other languages and small vocabularies take more tokens."""


@dataclass(frozen=True)
class Lengths:
    """Of one side of a dataset, in tokens. `supervised_share` is how many of all tokens are learned from."""

    rows: int
    tokens: int
    longest: int
    supervised_share: float
    measured: bool

    def of(self, rows: int) -> Lengths:
        """The same lengths on so many rows."""
        tokens = round(self.tokens * rows / max(1, self.rows))
        return Lengths(rows, tokens, self.longest, self.supervised_share, self.measured)

    @classmethod
    def guessed(cls, rows: int, sealed_bytes: int, max_length: int) -> Lengths:
        """From the size of the rows, before anybody has counted: the longest is taken to be as long as may be."""
        tokens = round(sealed_bytes / BYTES_A_TOKEN)
        return cls(rows, max(rows, tokens), max_length, 0.3, measured=False)
