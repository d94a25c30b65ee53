"""The detector: every recogniser over a text or a row. Knows no policy, and never says what it found in words."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from cloister.datasets.personal.addresses import find_addresses
from cloister.datasets.personal.jsontext import said
from cloister.datasets.personal.names import find_names
from cloister.datasets.personal.numbers import find_numbers
from cloister.datasets.personal.patterns import Patterns
from cloister.datasets.personal.types import TYPES, Finding, PersonalType, settled
from cloister.datasets.rows import Row

Field = str
"""Where in a row a text stands: the role of its turn, `call` (of a tool), `text`, or `group`."""

REPEATED = frozenset({"name", "record_number", "national_id", "phone"})
"""What is looked for again in the whole row once it was found in one place of it."""


class Detector:
    """Finds personal data of some types. Making one loads the recognisers."""

    def __init__(self, types: Collection[PersonalType] = TYPES) -> None:
        self._types = frozenset(types)
        self._patterns = Patterns()

    def find(self, text: str) -> list[Finding]:
        """What one text holds, in order, without overlaps."""
        found = [*self._patterns.find(text), *find_numbers(text), *find_addresses(text)]
        if "name" in self._types:
            found += find_names(text)
        # Settled before types are left out: a card's number is no telephone number where nobody asks for cards.
        return [one for one in settled(found) if one.type in self._types]

    def find_in_row(self, row: Row) -> list[tuple[Field, str, list[Finding]]]:
        """Every text of a row that is searched, and what it holds.

        A name or a number that one place of the row gives away is found in its other places too, as long as it
        is written the same; what JSON writes as an escape is the character that it stands for. Labels, the names of
        functions and their declarations are the steward's, and not searched.
        """
        fields = list(searched(row))
        spoken = [said(text) for _, text in fields]
        found = [self.find(each.text) for each in spoken]
        known: dict[str, PersonalType] = {}
        for each, findings in zip(spoken, found, strict=True):
            for one in findings:
                value = each.text[one.start : one.end]
                if one.type in REPEATED and len(value) > 3:
                    known.setdefault(value, one.type)
        if known and len(fields) > 1:
            again = re.compile(
                r"(?<!\w)(?:" + "|".join(map(re.escape, sorted(known, key=len, reverse=True))) + r")(?!\w)"
            )
            for number, each in enumerate(spoken):
                hits = again.finditer(each.text)
                more = [Finding(known[hit[0]], hit.start(), hit.end(), 0.45) for hit in hits]
                if more:
                    found[number] = settled([*found[number], *more])
        return [
            (field, text, list(map(each.there, findings)))
            for (field, text), each, findings in zip(fields, spoken, found, strict=True)
        ]


def searched(row: Row) -> Iterator[tuple[Field, str]]:
    """The texts of a row in which personal data is looked for, in a fixed order."""
    for message in row.messages:
        if message.content and not (message.role == "assistant" and message.content == row.label):
            yield message.role, message.content
        for call in message.tool_calls:
            yield "call", call.arguments
    if row.text is not None:
        yield "text", row.text
    for value in row.groups.values():
        yield "group", value
