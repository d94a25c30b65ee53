"""What stands in the place of personal data: a placeholder by type, or a consistent made-up value.

The same value becomes the same other value, in every row and every dataset of one key; without the key nobody can
tell which. Knows texts and findings; where the key is kept it does not know.
"""

from __future__ import annotations

import hmac
import re
from collections import Counter
from collections.abc import Callable, Collection
from datetime import date, timedelta
from typing import Literal, Protocol

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from cloister.datasets.personal.checkdigits import CHECKED, iban_check, luhn
from cloister.datasets.personal.detector import Detector, Field, searched
from cloister.datasets.personal.gazetteer import FEMALE, GIVEN, MALE, PARTICLES, SURNAMES
from cloister.datasets.personal.jsontext import exchanged
from cloister.datasets.personal.numbers import national_digits
from cloister.datasets.personal.types import TYPES, Finding, PersonalType
from cloister.datasets.rows import Message, Row, ToolCall

How = Literal["redact", "replace"]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_FEMALE, _MALE, _ANY, _SURNAMES = (tuple(sorted(names)) for names in (FEMALE, MALE, GIVEN, SURNAMES))
_PLACES = _words(
    "Alder Ash Barrow Beck Birk Bram Brook Carl Cliff Dale Eller Elm Fal Fern Glen Grün Hag Hart Hazel Heid Holm Ilm "
    "Kess Lang Linden Mill Moor Nord Oster Pell Quell Rav Rosen Sand Stein Tann Thorn Ulm Wald Wells West Wies Wil"
)
_ENDS = _words(
    "bach berg bury by dale dorf feld field ford furt ham hausen heim leigh ley mere stadt ton well wick wood"
)
_HOSTS = ("mail.example", "post.example", "letters.example", "home.example", "office.example")
_KEPT_WORDS = re.compile(
    r"(?i)^(?:street|st|road|rd|avenue|ave|lane|ln|drive|dr|court|ct|close|way|place|pl|square|sq|boulevard|blvd|terrace|"
    r"crescent|row|gate|hill|gardens|grove|mews|walk|parkway|highway|rise|view|green|straße|strasse|str|weg|gasse|platz|"
    r"allee|ring|damm|ufer|flat|apt|apartment|unit|suite|box|po|p|o|postfach|am|an|auf|im|in|der|dem|den|die|das|zum|zur|"
    r"unter|hinter|rue|place|chemin|impasse|quai|de|la|du|des|le|les|calle|avenida|avda|paseo|plaza|via|viale|piazza|corso|"
    r"vicolo|del|della|dei|di|los|bis|ter|north|south|east|west|n|s|e|w|d|a|ch|upon|on|under|[a-z]{1,2})$"
)
_STREET_END = re.compile(
    r"(?i)(straße|strasse|str|weg|gasse|platz|allee|ring|damm|ufer|hof|steig|chaussee|stieg|pfad|graben|berg)$"
)
_PARTS = re.compile(r"\d+|[^\W\d_]+")
_PARTICLE = re.compile(rf"(?:{PARTICLES})$", re.IGNORECASE)
_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january jan januar", "february feb februar", "march mar märz", "april apr", "may mai", "june jun juni",
            "july jul juli", "august aug", "september sept sep", "october oct oktober", "november nov",
            "december dec dezember",
        ),
        1,
    )
    for name in names.split()
}  # fmt: skip


class Replacement(Protocol):
    """Gives the text for the place of a finding."""

    def __call__(self, value: str, finding: Finding) -> str: ...


def placeholder(value: str, finding: Finding) -> str:
    """`[EMAIL]`, `[NAME]` …"""
    return f"[{finding.type.upper()}]"


class Pseudonyms:
    """Made-up values, a pure function of the key and the value. Lengths, groups and check digits stay plausible.

    Given names and surnames are exchanged apart, so `Ms Weber` and `Anna Weber` stay one person; two people may come
    to share a name. A number keeps its length and separators, a date moves by up to a year and keeps its form.

    Args:
        secret: 32 bytes; the same gives the same pseudonyms.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = HKDFExpand(hashes.SHA256(), 32, b"cloister/pseudonyms@v1").derive(secret)
        self._by_type: dict[PersonalType, Callable[[str, str], str]] = {
            "name": self._name,
            "address": self._address,
            "email": self._email,
            "phone": self._phone,
            "iban": self._iban,
            "card": self._card,
            "national_id": self._national_id,
            "birth_date": self._date,
            "record_number": self._record,
        }

    def __call__(self, value: str, finding: Finding) -> str:
        return self._by_type[finding.type](value, finding.form)

    def _stream(self, kind: str, value: str) -> Callable[[int], int]:
        """Numbers below what is asked for, one after another, that key, kind and value give."""
        state = int.from_bytes(
            b"".join(
                hmac.digest(self._key, f"{kind}\0{block}\0{value}".encode(), "sha256") for block in range(3)
            ),
            "big",
        )

        def below(bound: int) -> int:
            nonlocal state
            state, found = divmod(state, bound)
            return found

        return below

    def _name(self, value: str, form: str) -> str:
        words = re.split(r"([\s,.]+|-)", value)
        named = [n for n, word in enumerate(words) if word[:1].isalpha() and not _PARTICLE.match(word)]
        reversed_order = "," in value
        out = list(words)
        for place, n in enumerate(named):
            first = place > 0 if reversed_order else place < len(named) - 1
            given = first if len(named) > 1 else words[n].title() in GIVEN
            other = self._given(words[n]) if given else self._surname(words[n])
            out[n] = other[0] if len(words[n]) == 1 else _cased(words[n], other)
        return "".join(out)

    def _given(self, word: str) -> str:
        known = word.title()
        names = _FEMALE if known in FEMALE and known not in MALE else _MALE if known in MALE else _ANY
        return names[self._stream("given", word.casefold())(len(names))]

    def _surname(self, word: str) -> str:
        below = self._stream("surname", word.casefold())
        if below(2):
            return _SURNAMES[below(len(_SURNAMES))]
        return _PLACES[below(len(_PLACES))] + ("mann", "er", "son", "ley", "ner", "ski")[below(6)]

    def _address(self, value: str, form: str) -> str:
        def other(found: re.Match[str]) -> str:
            part = found[0]
            below = self._stream("place", part.casefold())
            if part.isdigit():
                return _digits(part, below)
            if _KEPT_WORDS.match(part):
                return part
            end = _STREET_END.search(part)
            stem = _PLACES[below(len(_PLACES))]
            return _cased(part, stem + (end[0].lower() if end else _ENDS[below(len(_ENDS))]))

        return _PARTS.sub(other, value)

    def _email(self, value: str, form: str) -> str:
        below = self._stream("email", value.casefold())
        given = _ANY[below(len(_ANY))]
        local = f"{given}{below(90) + 10}".casefold().translate(str.maketrans("äöüßçé", "aousce"))
        return f"{local}@{_HOSTS[below(len(_HOSTS))]}"

    def _phone(self, value: str, form: str) -> str:
        national = national_digits(value)
        changed = max(1, min(7, len(national) - 3))
        below = self._stream("phone", national)
        fresh = "".join(str(below(10)) for _ in range(changed))
        return _with_digits(value, keep=sum(c.isdigit() for c in value) - changed, fresh=fresh)

    def _iban(self, value: str, form: str) -> str:
        bare = re.sub("[^A-Z0-9]", "", value.upper())
        below = self._stream("iban", bare)
        account = "".join(str(below(10)) if c.isdigit() else chr(65 + below(26)) for c in bare[4:])
        return _into(value, bare[:2] + iban_check(bare[:2], account) + account)

    def _card(self, value: str, form: str) -> str:
        digits = re.sub(r"\D", "", value)
        below = self._stream("card", digits)
        body = digits[0] + "".join(str(below(10)) for _ in digits[1:-1])
        return _into(value, body + luhn(body))

    def _national_id(self, value: str, form: str) -> str:
        bare = re.sub("[^A-Za-z0-9]", "", value).upper()
        make = CHECKED.get(form)
        for attempt in range(64):  # some check digits do not exist
            below = self._stream(f"id{attempt or ''}", bare)
            if make is None:
                fresh = "".join(str(below(10)) if c.isdigit() else c for c in bare)
                if form == "us_ssn":  # neither an area nor a group that was never given out
                    fresh = str(below(8) + 1) + fresh[1:3] + f"{below(98) + 1:02}{below(9998) + 1:04}"
            else:
                fresh = make(bare, below) or ""
            if fresh:
                return _into(value, fresh)
        return "[NATIONAL_ID]"

    def _record(self, value: str, form: str) -> str:
        bare = re.sub("[^A-Za-z0-9]", "", value)
        below = self._stream("record", bare.casefold())
        letters_too = sum(c.isdigit() for c in bare) < 4
        fresh = "".join(
            str(below(10))
            if c.isdigit()
            else chr((65 if c.isupper() else 97) + below(26))
            if letters_too
            else c
            for c in bare
        )
        return _into(value, fresh)

    def _date(self, value: str, form: str) -> str:
        parts = [(m.start(), m.end(), m[0]) for m in re.finditer(r"\d+|[^\W\d_]{3,}", value)]
        read = _day(parts)
        if read is None:
            return placeholder(value, Finding("birth_date", 0, 0))
        day, order = read
        below = self._stream("date", day.isoformat())
        moved = day + timedelta(days=(below(364) + 1) * (1 if below(2) else -1))
        out, last = [], 0
        for (begin, end, text), what in zip(parts, order, strict=False):
            out.append(value[last:begin])
            if what == "m" and not text.isdigit():
                out.append(_month_like(text, moved.month))
            else:
                number = {"y": moved.year, "m": moved.month, "d": moved.day}[what]
                out.append(
                    f"{number % 100:02}" if what == "y" and len(text) == 2 else f"{number:0{len(text)}}"
                )
            last = end
        return "".join([*out, value[last:]])


def _day(parts: list[tuple[int, int, str]]) -> tuple[date, str] | None:
    """The day that three parts of a date say, and in which order: `ymd`, `dmy` or `mdy`. A number above 12 decides
    between the last two, else the day comes first."""
    words = [text for _, _, text in parts if text.isdigit() or text.casefold() in _MONTHS]
    parts[:] = [part for part in parts if part[2] in words]
    if len(words) != 3:
        return None
    months = [n for n, word in enumerate(words) if not word.isdigit()]
    if months:
        order = "mdy" if months[0] == 0 else "dmy"
    elif len(words[0]) == 4:
        order = "ymd"
    else:
        order = "mdy" if int(words[1]) > 12 else "dmy"
    value = {what: _MONTHS.get(word.casefold()) or int(word) for what, word in zip(order, words, strict=True)}
    year = value["y"] if value["y"] > 99 else value["y"] + (1900 if value["y"] > 30 else 2000)
    try:
        return date(year, value["m"], value["d"]), order
    except ValueError:
        return None


def _month_like(word: str, month: int) -> str:
    """A month in the language and the length of another."""
    german = word.casefold() in {"januar", "februar", "märz", "mai", "juni", "juli", "oktober", "dezember"}
    names = (
        "Januar Februar März April Mai Juni Juli August September Oktober November Dezember"
        if german
        else "January February March April May June July August September October November December"
    ).split()
    name = names[month - 1]
    return name[:3] if len(word) == 3 and word.casefold() not in ("may", "mai") else name


def _digits(text: str, below: Callable[[int], int]) -> str:
    return "".join(str(below(9) + 1) if n == 0 else str(below(10)) for n, _ in enumerate(text))


def _with_digits(value: str, *, keep: int, fresh: str) -> str:
    """`value` with its digits after the first `keep` exchanged."""
    out, seen = [], 0
    for character in value:
        if character.isdigit():
            out.append(character if seen < keep else fresh[seen - keep])
            seen += 1
        else:
            out.append(character)
    return "".join(out)


def _into(value: str, fresh: str) -> str:
    """The letters and digits of `fresh` in the places of those of `value`, case kept."""
    rest = iter(fresh)
    return "".join(
        (c2.lower() if c.islower() else c2) if c.isalnum() and (c2 := next(rest, "")) is not None else c
        for c in value
    )


def _cased(like: str, word: str) -> str:
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word.lower() if like.islower() else word


class RowRewriter:
    """Puts something else in the place of what it finds, row by row, and counts.

    `found` counts by (type, field), `rows` those with any. `change` None counts only.
    """

    def __init__(
        self,
        change: Replacement | None,
        types: Collection[PersonalType] = TYPES,
        detector: Detector | None = None,
    ) -> None:
        self._detector = detector or Detector(types)
        self._change = change
        self.found: Counter[tuple[PersonalType, Field]] = Counter()
        self.rows = 0

    def __call__(self, row: Row) -> Row:
        """The row, rewritten."""
        seen = self._detector.find_in_row(row)
        hits = [(field, one.type) for field, _, findings in seen for one in findings]
        if not hits:
            return row
        self.rows += 1
        self.found.update((type, field) for field, type in hits)
        if self._change is None:
            return row
        return rewritten(row, [self._rewrite(text, findings) for _, text, findings in seen])

    def _rewrite(self, text: str, findings: list[Finding]) -> str:
        assert self._change is not None
        return exchanged(text, findings, self._change)

    def counts(self) -> dict[str, dict[str, int]]:
        """By type, then by field."""
        found: dict[str, dict[str, int]] = {}
        for (type, field), count in sorted(self.found.items()):
            found.setdefault(type, {})[field] = count
        return found


def rewritten(row: Row, texts: list[str]) -> Row:
    """The row with other texts in the places that `searched` tells, in its order."""
    assert len(texts) == sum(1 for _ in searched(row))
    rest = iter(texts)
    messages = []
    for message in row.messages:
        content = message.content
        if content and not (message.role == "assistant" and content == row.label):
            content = next(rest)
        calls = tuple(ToolCall(call.name, next(rest)) for call in message.tool_calls)
        messages.append(Message(message.role, content, calls))
    text = next(rest) if row.text is not None else None
    groups = {name: next(rest) for name in row.groups}
    return msgspec.structs.replace(row, messages=tuple(messages), text=text, groups=groups)
