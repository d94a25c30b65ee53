"""Telephone numbers, dates of birth, numbers of records, policies and papers: digits that what stands before them
explains.

Knows one text at a time. What has check digits is `patterns`'.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import phonenumbers

from cloister.datasets.personal.types import Finding, PersonalType

REGIONS = ("DE", "GB", "US", "FR", "ES", "IT", "AT", "CH")
"""Whose numbers are known without their country's code."""

_PHONE = re.compile(r"(?<![\w.,/-])(?:\+|00)?\(?\d[\d ()/.\u2011-]{5,22}\d(?![\w-]|\.\d)")
_PHONE_WORDS = re.compile(
    r"(?i)\b(?:phone|telephone|tel|call|ring|mobile|cell|fax|reach|text me|whatsapp|(?:my|the) "
    r"number is|contact|telefon\w*|"
    r"handy\w*|mobil\w*|rufnummer|anruf\w*|ruf|rufen|erreich\w*|durchwahl|téléphone|tél|teléfono|telefono|cellulare|móvil)\b"
)
_NOT_PHONE = re.compile(
    r"(?i)\b(?:order|invoice|tracking|parcel|serial|article|item|part|sku|isbn|bestell\w*|rechnung\w*|artikel\w*|sendung\w*|"
    r"version|reference|ref|policy|claim|contract|case|polic\w*|vertrag\w*|aktenzeichen|passport|reisepass\w*|"
    r"\w*ausweis\w*|\w*versicher(?:ten|ungs)\w*|iban|konto\w*|id|nhs|ssn|steuer\w*)\b"
)
_DATE_FORM = re.compile(r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}|\d{4}(?: ?[-–] ?\d{4})?")

_MONTHS = (
    r"January|February|March|April|May|June|July|August|September|October|November|December|Jan|Feb|Mar|Apr|Jun|Jul|Aug|"
    r"Sept|Sep|Oct|Nov|Dec|Januar|Februar|März|Mai|Juni|Juli|Oktober|Dezember"
)
DATE = re.compile(
    rf"(?<![\d.])(?:\d{{4}}-\d{{1,2}}-\d{{1,2}}|\d{{1,2}}[./-] ?\d{{1,2}}[./-] ?(?:\d{{4}}|\d{{2}})|"
    rf"\d{{1,2}}(?:st|nd|rd|th|\.)?(?: of)? (?:{_MONTHS})\.?,? (?:\d{{4}})|(?:{_MONTHS})\.? "
    rf"\d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}})(?!\d)"
)
"""A day, in the forms that are common in English and German."""
_BORN = re.compile(
    r"(?i)\b(?:born(?: on)?|date of birth|birth ?date|birthday|d\.?o\.?b\.?|geb\.|geboren(?: am)?|"
    r"geburtsdatum|geburtstag|"
    r"geboren|geb|née? le|date de naissance|fecha de nacimiento|nacid[oa]|nat[oa] il|data di nascita)"
    r"[\"']?[^\d\n]{0,24}$|\*\s*$"
)

_RECORD_WORDS = (
    r"policy|claim|case|patient|medical record|record|mrn|chart|file|contract|customer|client|member(?:ship)?|account|"
    r"insurance|insured with you under|kfz-versicherung|police|policen|versicherungs\w*|vertrags?|"
    r"kunden|akten(?:zeichen)?|schaden\w*|fall|"
    r"patienten|mitglieds|konto|mandats|dossier|az|docket|matter"
)
_ID_WORDS = (
    r"passport|reisepass|passnummer|pass-nr\.?|personalausweis|ausweis|identity card|id card|national id|"
    r"driving licen[cs]e|driver'?s licen[cs]e|führerschein|medicare|mbi|itin|utr|steuernummer|steuer-nr\.?|st\.-nr\.?|"
    r"(?:sozial|renten|kranken)?versicherten|(?:sozial|renten|kranken)versicherungs|sv-nummer|svnr|rvnr|kvnr"
)


def _introduced(words: str) -> re.Pattern[str]:
    """A number, or letters and digits, behind one of these words; group 1 is what it is."""
    return re.compile(
        rf"(?i:\b(?:{words}))(?i:[- ]?(?:number|no\b\.?|nr\b\.?|num\b\.?|id\b|ref(?:erence)?\b\.?|"
        rf"nummer|zeichen|schein|#))*"
        r"[\"']?(?i:(?:\s|:|=|#|\"|'|\(|\bis\b|\bof\b|\bwith\b|\bunder\b|\bthe\b|\bnumber\b|\blautet\b|\bist\b|\bnr\b\.?|\bno\b\.?){0,6}?)"
        r"((?<![\w-])(?=[A-Za-z0-9./-]*\d[A-Za-z0-9./-]*\d[A-Za-z0-9./-]*\d)[A-Z0-9](?:[A-Za-z0-9]|[./-](?=[A-Za-z0-9])|"
        r" (?=\d{2,}\b)){3,24})(?![\w])"
    )


_RECORD, _ID = _introduced(_RECORD_WORDS), _introduced(_ID_WORDS)

_CASE_FILE = re.compile(r"(?<![\w/])\d{1,3} [A-Z][A-Za-z]{0,3} \d{1,5}/\d{2}(?:\d{2})?(?![\w/])")
"""A court's file number as it is written in Germany: nothing else looks like it."""


def find_numbers(text: str) -> Iterator[Finding]:
    """Telephone numbers, dates of birth, numbers of records and of papers."""
    if not any(character.isdigit() for character in text):
        return
    yield from _phones(text)
    for found in DATE.finditer(text):
        if _BORN.search(text, max(0, found.start() - 48), found.start()):
            yield Finding("birth_date", found.start(), found.end(), 0.9)
    introduced: tuple[tuple[re.Pattern[str], PersonalType, float], ...] = (
        (_RECORD, "record_number", 0.66),
        (_ID, "national_id", 0.67),
    )
    for pattern, type, score in introduced:
        for found in pattern.finditer(text):
            if not DATE.fullmatch(found[1]) and not re.fullmatch(r"\d{1,3}|(?:19|20)\d\d", found[1]):
                yield Finding(type, found.start(1), found.end(1), score)
    for found in _CASE_FILE.finditer(text):
        yield Finding("record_number", found.start(), found.end(), 0.67)


def _phones(text: str) -> Iterator[Finding]:
    for found in _PHONE.finditer(text):
        number = found[0]
        digits = sum(character.isdigit() for character in number)
        if not 7 <= digits <= 15 or _DATE_FORM.fullmatch(number.strip("() ")):
            continue
        before = text[max(0, found.start() - 40) : found.start()]
        # What stands nearer explains it.
        said = max((hit.start() for hit in _PHONE_WORDS.finditer(before)), default=-1)
        denied = max((hit.start() for hit in _NOT_PHONE.finditer(before)), default=-1)
        if denied > said:
            continue
        if said >= 0 or (_looks_dialled(number) and _is_valid(number)):
            start = found.start()
            if text[start : start + 1] == "(" and ")" not in number:
                start += 1
            yield Finding("phone", start, found.end(), 0.7 if said >= 0 else 0.62)


def _looks_dialled(number: str) -> bool:
    """Written as people write telephone numbers: a country's code, a leading 0, or groups."""
    return number.startswith(("+", "00", "0", "(")) or bool(
        re.fullmatch(r"\d{3}[ .-]\d{3}[ .-]\d{4}", number)
    )


def _is_valid(number: str) -> bool:
    for region in (None,) if number.startswith("+") else REGIONS:
        try:
            parsed = phonenumbers.parse(number, region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(parsed):
            return True
    return False


def national_digits(number: str) -> str:
    """The digits without a country's code or a leading 0, so that one number is the same however it is written."""
    try:
        return str(phonenumbers.parse(number, None if number.startswith("+") else "DE").national_number)
    except phonenumbers.NumberParseException:
        return "".join(character for character in number if character.isdigit()).lstrip("0")
