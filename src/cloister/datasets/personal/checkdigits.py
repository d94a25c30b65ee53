"""Check digits of made-up numbers: IBAN, cards, and the national ids that have some. Arithmetic only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

Below = Callable[[int], int]
_NIF = "TRWAGMYFPDXBNJZSQVHLCKE"
_ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
"""Values of A to Z (0 to 9 as A to J) in odd places of an Italian tax code."""


def iban_check(country: str, account: str) -> str:
    """The two check digits of an IBAN (ISO 13616, modulo 97)."""
    number = "".join(str(int(c, 36)) for c in account + country + "00")
    return f"{98 - int(number) % 97:02}"


def luhn(body: str) -> str:
    """The digit that makes a card's number complete (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(body)):
        number = int(digit) * (2 if place % 2 == 0 else 1)
        total += number - 9 if number > 9 else number
    return str(-total % 10)


def _number(count: int, below: Below) -> str:
    return str(below(9) + 1) + "".join(str(below(10)) for _ in range(count - 1))


def de_tax_id(bare: str, below: Below) -> str | None:
    """Eleven digits, the last by ISO 7064 MOD 11,10; none of the first ten more than three times."""
    body = _number(10, below)
    if max(Counter(body).values()) > 3:
        return None
    product = 10
    for digit in body:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return body + str((11 - product) % 10)


def _weighed(digits: str, weights: tuple[int, ...]) -> str:
    """The sum of the digits of each product, modulo 10."""
    products = (int(digit) * weight for digit, weight in zip(digits, weights, strict=True))
    return str(sum(product // 10 + product % 10 for product in products) % 10)


def kvnr_check(body: str) -> str:
    """The last digit of a German health insurance number: a letter and eight digits (§ 290 SGB V, Anlage 1)."""
    return _weighed(f"{ord(body[0]) - 64:02}{body[1:]}", (1, 2) * 5)


def rvnr_check(body: str) -> str:
    """The last digit of a German social insurance number: eight digits, a letter, two digits (§ 4 VKVV)."""
    return _weighed(f"{body[:8]}{ord(body[8]) - 64:02}{body[9:]}", (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1))


def de_kvnr(bare: str, below: Below) -> str:
    """The letter is that of the name, and becomes another one too."""
    body = chr(65 + below(26)) + _number(8, below)
    return body + kvnr_check(body)


def de_rvnr(bare: str, below: Below) -> str:
    """The office stays; the day of birth, the letter of the name and the rest become others."""
    born = f"{below(28) + 1:02}{below(12) + 1:02}{below(100):02}"
    body = f"{bare[:2]}{born}{chr(65 + below(26))}{below(100):02}"
    return body + rvnr_check(body)


def uk_nhs(bare: str, below: Below) -> str | None:
    """Ten digits, the last modulo 11; where that would be 10 there is no such number."""
    body = _number(9, below)
    check = -sum(int(digit) * weight for digit, weight in zip(body, range(10, 1, -1), strict=True)) % 11
    return None if check == 10 else body + str(check)


def es_nif(bare: str, below: Below) -> str:
    digits = _number(len(bare) - 1, below)
    return digits + _NIF[int(digits) % 23]


def es_nie(bare: str, below: Below) -> str:
    digits = "".join(str(below(10)) for _ in bare[1:-1])
    return bare[0] + digits + _NIF[int(str("XYZ".index(bare[0])) + digits) % 23]


def fr_nir(bare: str, below: Below) -> str:
    """Sex and department stay; the key is 97 minus the number modulo 97."""
    body = (
        bare[0] + f"{below(100):02}{below(12) + 1:02}" + bare[5:7] + f"{below(900) + 1:03}{below(998) + 1:03}"
    )
    number = int(body.replace("2A", "19").replace("2B", "18"))
    return body + f"{97 - number % 97:02}"


def it_fiscal_code(bare: str, below: Below) -> str:
    """The year, the day and the town become others; the letters of the name are exchanged for consonants."""
    letters = "BCDFGLMNPRSTVZ"
    body = (
        "".join(letters[below(len(letters))] for _ in range(6))
        + f"{below(100):02}"
        + "ABCDEHLMPRST"[below(12)]
        + f"{below(28) + 1:02}"
        + bare[11]
        + f"{below(900) + 100:03}"
    )
    total = 0
    for place, character in enumerate(body, 1):
        value = int(character) if character.isdigit() else ord(character) - 65
        total += _ODD[value] if place % 2 else value
    return body + chr(65 + total % 26)


CHECKED: dict[str, Callable[[str, Below], str | None]] = {
    "de_tax_id": de_tax_id,
    "de_kvnr": de_kvnr,
    "de_rvnr": de_rvnr,
    "uk_nhs": uk_nhs,
    "es_nif": es_nif,
    "es_nie": es_nie,
    "fr_nir": fr_nir,
    "it_fiscal_code": it_fiscal_code,
}
"""Makes a number of that form; None where what it drew has no check digit: ask again."""
