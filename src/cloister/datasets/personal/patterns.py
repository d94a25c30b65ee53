"""What a pattern and its check digits tell: e-mail, IBAN, cards and national ids, by the recognisers of Presidio.

They run on the text alone: no language model, no network, no cache on a disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cloister.datasets.personal.checkdigits import rvnr_check
from cloister.datasets.personal.presidio import recognisers
from cloister.datasets.personal.types import Finding, PersonalType

CERTAIN = 0.6
"""The score from which a pattern counts by itself; below, a word before it has to say what it is."""
BEFORE = 48
"""So many characters before a number may say what it is."""

_EMAIL = re.compile(r"@[\w.-]+\.(?:xn--[a-z0-9-]+|[^\W\d_]{2,})$", re.IGNORECASE)
_NIR = re.compile(
    r"(?<!\d)([12])[ .]?(\d\d)[ .]?(\d\d)[ .]?(\d\d|2[AB])[ .]?(\d{3})[ .]?(\d{3})[ .]?(\d\d)(?!\d)"
)
_RVNR = re.compile(r"(?<!\w)\d{2} ?\d{6} ?[A-Z] ?\d{3}(?!\w)")


@dataclass(frozen=True)
class _Asked:
    """One recogniser: what it finds, whether check digits alone suffice, and words that confirm it."""

    recogniser: Any
    type: PersonalType
    form: str
    words: re.Pattern[str]
    checked: bool


class Patterns:
    """The recognisers, loaded once. Safe to use for any number of texts."""

    def __init__(self) -> None:
        presidio = recognisers()

        plain: Any = presidio["email"]

        class Email(plain):  # type: ignore[misc]
            """Presidio's pattern. Its check asks a list of top-level domains that it would fetch and keep on the
            disk, and that has no domain of a house's own."""

            def validate_result(self, pattern_text: str) -> bool:
                return _EMAIL.search(pattern_text) is not None

        def asked(form: str, type: PersonalType, words: str = "", *, checked: bool = True) -> _Asked:
            recogniser = Email() if form == "email" else presidio[form]()
            known = [*map(re.escape, recogniser.context or ()), *filter(None, [words])]
            return _Asked(
                recogniser, type, form, re.compile(rf"\b(?:{'|'.join(known)})", re.IGNORECASE), checked
            )

        self._all = (
            asked("iban", "iban"),
            asked("card", "card"),
            asked("de_tax_id", "national_id"),
            asked("de_kvnr", "national_id"),
            asked("uk_nino", "national_id", "insurance|ni no"),
            asked("uk_nhs", "national_id", checked=False),
            asked("us_ssn", "national_id", "ss#"),
            asked("es_nif", "national_id"),
            asked("es_nie", "national_id"),
            asked("it_fiscal_code", "national_id"),
        )
        self._email = asked("email", "email")
        for one in (*self._all, self._email):  # their patterns are compiled now
            one.recogniser.analyze("0", one.recogniser.supported_entities, None)

    def find(self, text: str) -> Iterator[Finding]:
        """All of them, overlapping ones too."""
        if "@" in text:
            yield from self._by(self._email, text)
        if sum(character.isdigit() for character in text) < 6:
            return
        for one in self._all:
            yield from self._by(one, text)
        for found in _NIR.finditer(text):
            if is_nir(found[0]):
                yield Finding("national_id", found.start(), found.end(), 0.985, "fr_nir")
        for found in _RVNR.finditer(text):
            bare = found[0].replace(" ", "")
            if bare[-1] == rvnr_check(bare[:-1]):
                yield Finding("national_id", found.start(), found.end(), 0.985, "de_rvnr")

    def _by(self, one: _Asked, text: str) -> Iterator[Finding]:
        for result in one.recogniser.analyze(text, one.recogniser.supported_entities, None):
            said = one.words.search(text, max(0, result.start - BEFORE), result.start) is not None
            certain = result.score >= CERTAIN and one.checked
            certain = certain or (one.form == "us_ssn" and _is_grouped_ssn(text[result.start : result.end]))
            certain = certain or (one.form == "uk_nino" and result.score >= 0.5)
            certain = certain or (
                one.form == "uk_nhs"
                and re.fullmatch(r"\d{3}([ -])\d{3}\1\d{4}", text[result.start : result.end]) is not None
            )
            if said or certain:
                score = 0.99 if one.type in ("iban", "email") else 0.98 if one.type == "card" else 0.95
                yield Finding(one.type, result.start, result.end, score + (0.005 if said else 0), one.form)


def is_nir(text: str) -> bool:
    """Whether the key of a French social security number is right (97 minus the number modulo 97)."""
    number = re.sub("[ .]", "", text).replace("2A", "19").replace("2B", "18")
    return number[3:5] != "00" and 97 - int(number[:13]) % 97 == int(number[13:])


def _is_grouped_ssn(text: str) -> bool:
    return re.fullmatch(r"\d{3}-\d{2}-\d{4}", text) is not None
