"""Names of people, by lists, titles and what stands around them. English and German, and names of neighbours.

What it does not find: a surname alone without a title, names that no list has and nothing introduces, most
names in lower case, scripts other than Latin. Knows one text at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from cloister.datasets.personal.gazetteer import AMBIGUOUS, GIVEN, NOT_NAMES, PARTICLES, SURNAMES
from cloister.datasets.personal.types import Finding

_CAP = r"[A-ZÀ-ÖØ-ÞŁŚŻČŠŽĆĐŐŰİ][A-Za-zÀ-öø-ÿŁłŚśŻżŹźĆćŃńČčŠšŽžĐđŐőŰűİıŞşĞğ]*(?:['’][A-Z][a-zà-ÿ]+)?"
_WORD = rf"{_CAP}(?:-{_CAP})?"
_GAP = r"[ \t]+"
_MORE = rf"(?:{_GAP}(?:(?:{PARTICLES}){_GAP}){{0,2}}(?:[A-Z]\.{_GAP})?{_WORD})"
_TITLES = (
    r"Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Doctor|Sir|Lady|Nurse|Judge|Herrn|Herr|Frau|Monsieur|Madame|Mme|"
    r"Señora|Señor|Sr|Sra|Signora|Signor"
)
_DEGREES = r"med|dent|vet|jur|phil|rer|nat|pol|oec|theol|habil|mult|sc|h\. ?c|Ing|Dipl\.-\w+"
_INITIALS = r"(?:[A-Z](?:\.[ \t]*|[ \t]+)){0,3}"
_NOBLE = rf"(?:(?:von|van|zu|de|di|da|del|della|du|le|la|ten|ter)(?:{_GAP}(?:und|zu|der|den|dem|la|los)){{0,2}}{_GAP})?"
_TITLED = re.compile(
    rf"\b(?:{_TITLES})\b\.?{_GAP}(?:(?:{_TITLES}|{_DEGREES})\b\.?{_GAP}){{0,4}}"
    rf"({_INITIALS}{_NOBLE}{_WORD}{_MORE}{{0,2}})"
)
_NAMED = re.compile(
    r"(?i:\b(?:my (?:full )?name is|i am called|the name is|name on (?:the )?(?:file|policy|account) is|"
    r"signed(?: by)?|mein name ist|mein name lautet|ich hei(?:ß|ss)e|name lautet|unterzeichnet(?: von)?|je m'appelle|"
    r"me llamo|mi chiamo|patient(?:in)?|insured(?: person)?|claimant|policyholder|beneficiary|tenant|"
    r"versicherte(?:r|n)?|versicherungsnehmer(?:in)?|kund(?:e|in)|mandant(?:in)?|mieter(?:in)?)"
    rf"[,:]?){_GAP}({_WORD}{_MORE}{{1,3}})"
)
_FIELD = re.compile(
    r"(?i:\b(?:(?:full|last|first|family|given|customer|patient|client|contact|account)[ _]?)?"
    r"(?:name|surname|vorname|nachname|familienname|kundenname|patientenname|ansprechpartner(?:in)?|contact)"
    rf"[\"']?\s*[:=]\s*[\"']?)({_WORD}(?:,?{_MORE}){{0,3}})"
)
_INTRODUCED = re.compile(
    r"(?i:\b(?:i am|i'm|this is|here is|it is|ich bin(?: die| der)?|hier ist|hier spricht|spoke (?:to|with)|"
    r"told|contact|ask for|attention|attn\.?:?|c/o|regards,?|sincerely,?|wishes,?|thanks,?|thank "
    r"you,?|yours,?|cheers,?|grüße|"
    r"grüßen,?|gruß,?|grüsse|gruss)"
    rf")[ \t]*\n?[ \t]*({_WORD}{_MORE}{{1,2}})"
)
_GREETED = re.compile(
    r"(?i:\b(?:dear|hi|hello|hey|good (?:morning|afternoon|evening)|liebe(?:r)?|hallo|guten (?:tag|morgen|abend)|"
    rf"ciao|hola|bonjour|cher|chère|regards,?|wishes,?|thanks,?|cheers,?|love,?|grüße,?)){_GAP}?\n?({_WORD}{_MORE}?)"
)
_RUN = re.compile(rf"{_WORD}(?:{_GAP}(?:(?:(?:{PARTICLES}){_GAP}){{0,2}}(?:[A-Z]\.|{_WORD})))*")
_ACTING = re.compile(
    rf"\b({_WORD}{_MORE}{{1,2}})(?= (?:can confirm|called|wrote|said|says|told|asked|lives|complained|phoned|reported|"
    rf"here\b|writing\b|speaking\b|hat (?:angerufen|gesagt|geschrieben|gemeldet)|rief an|schreibt|wohnt|bittet|meldet))"
)
_JOINED = re.compile(
    rf"\b({_WORD}{_GAP}(?:[A-Z]\.{_GAP}{_WORD}|(?:von der|von und zu|von|van der|van den|van|zu){_GAP}{_WORD}))"
)
_REVERSED = re.compile(rf"\b({_WORD}),{_GAP}({_WORD})\b")
_PLAIN = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)?")
_TOKEN = re.compile(r"\S+")

_GAELIC = re.compile(r"(?:O['’]|Mc|Mac|Fitz)[A-Z][a-zà-ÿ]+(?:-\w+)?\Z")
"""Surnames that no list has to name: nothing else is written so."""

_LOWER_GIVEN = frozenset(name.casefold() for name in GIVEN)
_LOWER_SURNAMES = frozenset(name.casefold() for name in SURNAMES)
_LOWER_AMBIGUOUS = frozenset(word.casefold() for word in AMBIGUOUS)
_LOWER_PARTICLES = frozenset(PARTICLES.replace("\\", "").split("|"))
_LOWER_NOT = frozenset(word.casefold() for word in NOT_NAMES) - _LOWER_PARTICLES


def find_names(text: str) -> Iterator[Finding]:
    """Where a person is named, titles left out."""
    for pattern, score in ((_TITLED, 0.9), (_NAMED, 0.85), (_FIELD, 0.8)):
        for found in pattern.finditer(text):
            yield from _trimmed(text, found.start(1), found.end(1), score)
    for found in _INTRODUCED.finditer(text):
        if not _is_other(found[1]):
            yield from _trimmed(text, found.start(1), found.end(1), 0.75, least=2)
    for found in _GREETED.finditer(text):
        words = found[1].split()
        if is_given(words[0]) or (len(words) > 1 and is_surname(words[-1])):
            yield from _trimmed(text, found.start(1), found.end(1), 0.7)
    for pattern, score in ((_ACTING, 0.6), (_JOINED, 0.58)):
        for found in pattern.finditer(text):
            if not _is_other(found[1]):
                yield from _trimmed(text, found.start(1), found.end(1), score, least=2)
    for found in _RUN.finditer(text):
        yield from _in_run(text, found.start(), found[0])
    for found in _REVERSED.finditer(text):
        if is_given(found[2]) and is_surname(found[1]):
            yield Finding("name", found.start(), found.end(), 0.7)
    yield from _uncapitalised(text)


def is_given(word: str) -> bool:
    """Whether it, or each part of a double name, is a given name that the list has."""
    return all(part.casefold() in _LOWER_GIVEN for part in word.split("-"))


def is_surname(word: str) -> bool:
    return _GAELIC.match(word) is not None or any(
        part.casefold() in _LOWER_SURNAMES for part in word.split("-")
    )


def _is_other(words: str) -> bool:
    return any(word.casefold() in _LOWER_NOT for word in words.split())


def _in_run(text: str, start: int, run: str) -> Iterator[Finding]:
    """Names in a run of capitalised words: a given name of the list and what follows, or a surname "
    "and what precedes."""
    words = [(start + found.start(), start + found.end(), found[0]) for found in _TOKEN.finditer(run)]
    at = 0
    while at < len(words):
        begin, _, word = words[at]
        if not is_given(word):
            if (
                at + 1 < len(words)
                and is_surname(words[at + 1][2])
                and word.casefold() not in _LOWER_NOT
                and not word.isupper()
                and len(word) > 2
                and (not _starts_sentence(text, begin) or _GAELIC.match(words[at + 1][2]))
            ):
                yield Finding("name", begin, words[at + 1][1], 0.55)
                at += 2
                continue
            at += 1
            continue
        last = at
        while last + 1 < len(words) and last - at < 4:
            following = words[last + 1][2]
            if following.casefold() in _LOWER_NOT or (last > at and not _belongs(words[last][2], following)):
                break
            last += 1
        while last > at and words[last][2].casefold() in _LOWER_PARTICLES:
            last -= 1
        if last > at:
            yield Finding("name", begin, words[last][1], 0.7)
        elif word.casefold() not in _LOWER_AMBIGUOUS and len(word) > 2:
            yield Finding("name", begin, words[at][1], 0.5)
        at = last + 1


def _belongs(before: str, word: str) -> bool:
    """Whether a further word belongs to a name: after a second given name, an initial or a particle."""
    return (
        is_given(before)
        or before.endswith(".")
        or before.casefold() in _LOWER_PARTICLES
        or word.casefold() in _LOWER_PARTICLES
    )


def _starts_sentence(text: str, at: int) -> bool:
    before = text[:at].rstrip(" \t")
    return not before or before[-1] in ".!?:\n\"'"


def _trimmed(text: str, start: int, end: int, score: float, *, least: int = 1) -> Iterator[Finding]:
    """The words of a span up to the first that is no name."""
    last, words = start, 0
    for found in _PLAIN.finditer(text, start, end):
        if found[0].casefold() in _LOWER_NOT:
            break
        last, words = found.end(), words + 1
    if words >= least and last > start:
        yield Finding("name", start, last, score)


def _uncapitalised(text: str) -> Iterator[Finding]:
    """A given name and a surname of the lists side by side, however they are written."""
    before: re.Match[str] | None = None
    for found in _PLAIN.finditer(text):
        if (
            before is not None
            and text[before.end() : found.start()] == " "
            and found[0].casefold() in _LOWER_SURNAMES
            and before[0].casefold() in _LOWER_GIVEN
            and before[0].casefold() not in {"will", "may", "mark", "bill", "art", "van"}
        ):
            yield Finding("name", before.start(), found.end(), 0.65)
        before = found
