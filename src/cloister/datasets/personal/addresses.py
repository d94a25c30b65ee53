"""Postal addresses: a street with its number, and the town and code behind it. Forms of some European countries and
the United States; a place name alone is none. Knows one text at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from cloister.datasets.personal.types import Finding

_CAP = r"[A-ZÀ-ÖØ-Þ][A-Za-zà-öø-ÿß'’-]*"
_NO_STREET = (
    r"(?!(?:(?:Ihre?|Meine?|Unsere?|Seine?|Deine?)[rmns]?|Die|Der|Das|Adresse|\w*[Aa]nschrift|Wohnung|Wohnsitz|Wohnort|"
    r"Frau|Herrn?)\b)"
)
"""What stands capitalised before a German street, and is no part of its name."""
_PLACE = r"[A-ZÀ-ÖØ-Þ][a-zà-öø-ÿß'’]+"
_TOWN = (
    rf"{_PLACE}(?:[ -](?:{_PLACE}|(?:am|an der|ob der|upon|on|under|le|la|de|del)(?=[ -][A-ZÀ-Þ]))){{0,3}}"
)
_UK_CODE = r"[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}"
_CODE = rf"(?:{_UK_CODE}|[A-Z]{{2}} \d{{5}}(?:-\d{{4}})?|(?:[A-Z]{{1,3}}-)?\d{{4,5}})"
_BEHIND = (
    rf"(?:,? *(?:in )?{_CODE},? {_TOWN}(?! ?\d)|, *{_TOWN}(?:,? {_CODE}\b)?|"
    rf",? *\n *(?:{_CODE} )?{_TOWN}(?:,? {_CODE}\b)?)?"
)
_KINDS_EN = (
    r"Street|St\b\.?|Road|Rd\b\.?|Avenue|Ave\b\.?|Lane|Ln\b\.?|Drive|Dr\b\.?|Court|Ct\b\.?|Close|Way|Place|Pl\b\.?|"
    r"Square|Sq\b\.?|Boulevard|Blvd\b\.?|Terrace|Crescent|Row|Gate|Hill|Gardens|Grove|Mews|Walk|Parkway|Highway|Rise|View|Green"
)
_KINDS_DE = (
    r"straße|strasse|str\.|weg|gasse|platz|allee|ring|damm|ufer|hof|steig|chaussee|stieg|pfad|graben|berg"
)

_PATTERNS = (
    re.compile(
        rf"\b(?:(?:Flat|Apt\.?|Apartment|Unit|Suite) \w{{1,5}},? )?\d{{1,5}}[A-Za-z]?,? (?:[NSEW]\.? "
        rf")?(?:(?:{_CAP}|\d{{1,3}}(?:st|nd|rd|th)) ){{1,3}}"
        rf"(?:{_KINDS_EN})(?: (?:[NS][EW]|[NSEW])\b\.?)?"
        rf"(?:,? (?:Apt\.?|Apartment|Unit|Suite|Flat|#) ?\w{{1,5}})?{_BEHIND}"
    ),
    re.compile(
        rf"\b(?:{_NO_STREET}{_CAP}[- ]){{0,3}}(?:[A-ZÄÖÜ][a-zäöüß-]*(?:{_KINDS_DE})|"
        rf"(?:{_NO_STREET}{_CAP}[- ]){{1,3}}(?:Straße|"
        rf"Strasse|Str\.|Weg|"
        rf"Gasse|Platz|Allee|Ring|Damm|Ufer)) ?\d{{1,4}} ?[a-z]?\b{_BEHIND}"
    ),
    re.compile(
        rf"\b(?:Am|An der|An den|Auf der|Auf dem|Im|In der|In den|Zum|Zur|Unter den|Hinter der) {_CAP}(?: {_CAP})? "
        rf"\d{{1,4}} ?[a-z]?\b(?=[,.\n]|$| in ){_BEHIND}"
    ),
    re.compile(
        r"\b\d{1,4}(?: ?bis| ?ter)?,? (?i:rue|avenue|boulevard|place|chemin|allée|impasse|quai) "
        rf"(?:(?:de la|de l'|de|du|des|d'|le|la|les) ?)?{_CAP}(?:[ -]{_CAP}){{0,2}}{_BEHIND}"
    ),
    re.compile(
        r"\b(?:Calle|C/|Avenida|Avda\.|Paseo|Plaza|Via|Viale|Piazza|Corso|Vicolo) (?:(?:de la|de los|de|"
        r"del|della|dei|di) )?"
        rf"{_CAP}(?: {_CAP}){{0,2}},? (?:n\.? ?º? ?)?\d{{1,4}}[a-z]?\b{_BEHIND}"
    ),
    re.compile(
        rf"(?i:\b(?:P\.? ?O\.? Box|Postfach|Apartado(?: de Correos)?|Casella Postale) ?\d[\d ]{{1,8}}\d?){_BEHIND}"
    ),
    re.compile(rf"\b(?:(?:{_TOWN}),? )?{_UK_CODE}\b"),
    re.compile(rf"\b(?:D-|A-|CH-)?\d{{5}} {_TOWN}(?=[,.\n]|$)"),
)
_LIVES = re.compile(
    r"(?i:\b(?:address(?: is)?|anschrift(?: ist| lautet)?|adresse(?: ist| lautet)?|wohnhaft in|i live (?:at|in)|"
    r"ich wohne in)[:,]?) (?:der |dem )?(\d{1,5}[A-Za-z]? (?:[A-Z][a-z]+[ ,]+){1,3}[A-Z][a-z]+)"
)


def find_addresses(text: str) -> Iterator[Finding]:
    """Where an address stands, as far as it reaches."""
    if not any(character.isdigit() for character in text):
        return
    for rank, pattern in enumerate(_PATTERNS):
        for found in pattern.finditer(text):
            yield Finding("address", *_bounds(found[0], found.start()), 0.8 if rank < 6 else 0.6)
    for found in _LIVES.finditer(text):
        yield Finding("address", found.start(1), found.end(1), 0.75)


def _bounds(found: str, start: int) -> tuple[int, int]:
    return start, start + len(found.rstrip(" ,.\n"))
