"""Made-up texts with personal data in many forms, and what is no personal data and looks like it. Seeded.

Names here are drawn from lists of their own: about half of them no gazetteer of the program has.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cloister.datasets.personal.checkdigits import CHECKED, iban_check, luhn
from cloister.datasets.personal.detector import Detector
from cloister.datasets.personal.types import TYPES, PersonalType

SEED = 20_261
PER_FORM = 12


@dataclass(frozen=True)
class Sample:
    """A text, and the places in it that are personal: (type, start, end)."""

    text: str
    truth: tuple[tuple[PersonalType, int, int], ...]


GIVEN = [
    "Anna",
    "Thomas",
    "Maria",
    "Peter",
    "Susanne",
    "Michael",
    "Laura",
    "David",
    "Sarah",
    "James",
    "Emily",
    "Stefan",
    "Ingeborg",
    "Ottilie",
    "Thaddeus",
    "Saoirse",
    "Oluwaseun",
    "Xiomara",
    "Björn",
    "Wilfried",
    "Irmgard",
    "Prudence",
    "Leopold",
    "Aurelia",
    "Cosima",
    "Hartmut",
    "Linnea",
    "Rajesh",
    "Mei",
    "Tyrone",
    "Gudrun",
    "Niamh",
    "Zbigniew",
    "Chidi",
    "Hildegund",
    "Marcellus",
    "Ludmila",
    "Ansgar",
    "Kwame",
    "Eudora",
]
FAMILY = [
    "Müller",
    "Smith",
    "Weber",
    "Johnson",
    "Schneider",
    "Taylor",
    "Novak",
    "Garcia",
    "Patel",
    "Dubois",
    "Quandt",
    "Featherstone",
    "Oyelaran",
    "Winterhalter",
    "Abernathy",
    "Kowalczyk",
    "Hohenstein",
    "MacAllister",
    "Thistlewood",
    "Ravensburg",
    "Okonkwo",
    "Strandberg",
    "Vanterpool",
    "Bickerstaff",
    "Eichendorff",
    "Lumley",
    "Szymborska",
    "Tanaka",
    "Hinterseer",
    "Whitcombe",
    "Delacroix",
    "Mbeki",
    "Fairweather",
    "Grimaldi",
    "Zuckerbrot",
]
STREETS_EN = (
    "Maple Street",
    "Station Road",
    "St James Avenue",
    "Kings Court",
    "Holloway Lane",
    "Elm Tree Close",
    "West 42nd Street",
)
TOWNS_EN = ("London", "Leeds", "Bristol", "Springfield", "Newcastle upon Tyne", "Dublin")
STREETS_DE = (
    "Gartenstraße",
    "Goethestr.",
    "Am Alten Markt",
    "Lange Gasse",
    "Karl-Marx-Allee",
    "Rosenweg",
    "Mühlenweg",
    "Münchner Straße",
)
TOWNS_DE = ("Berlin", "München", "Bad Homburg", "Freiburg im Breisgau", "Köln", "Halle")


class Maker:
    """Writes values in the forms in which people write them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def digits(self, count: int) -> str:
        return str(self.rng.randint(1, 9)) + "".join(str(self.rng.randint(0, 9)) for _ in range(count - 1))

    def pick(self, *choices: str) -> str:
        return self.rng.choice(choices)

    def name(self) -> str:
        given, family = self.rng.choice(GIVEN), self.rng.choice(FAMILY)
        return self.pick(
            f"{given} {family}",
            f"{given} {family}",
            f"{given} {self.pick(*'ABCDEFGHJKLMPRSTW')}. {family}",
            f"{given} {self.pick('von', 'van der', 'de')} {family}",
            f"{given} {family}-{self.rng.choice(FAMILY)}",
        )

    def family(self) -> str:
        return self.rng.choice(FAMILY)

    def address_en(self) -> str:
        street, town, number = (
            self.rng.choice(STREETS_EN),
            self.rng.choice(TOWNS_EN),
            self.rng.randint(1, 250),
        )
        return self.pick(
            f"{number} {street}, {town}",
            f"{number}{self.pick('', 'a', 'B')} {street}, {town} {self.pick('LS1 4AP', 'SW1A 2AA', 'M1 1AE')}",
            f"Flat {number % 9 + 1}, {number} {street}, {town}",
            f"{number} {street}, {town}, IL {self.digits(5)}",
        )

    def address_de(self) -> str:
        street, town, number = (
            self.rng.choice(STREETS_DE),
            self.rng.choice(TOWNS_DE),
            self.rng.randint(1, 250),
        )
        return self.pick(
            f"{street} {number}, {self.digits(5)} {town}",
            f"{street} {number}{self.pick('a', 'b')} in {self.digits(5)} {town}",
            f"{street} {number}, {town}",
        )

    def email(self) -> str:
        given, family = self.rng.choice(GIVEN).lower(), self.rng.choice(FAMILY).lower()
        return (
            self.pick(
                f"{given}.{family}@example.com",
                f"{given[0]}{family}{self.rng.randint(1, 99)}@mail.uni-hagen.example",
                f"{family}@klinik.intern",
                f"{given}+{family}@sub.example.co.uk",
                f"{given.upper()}_{family}@EXAMPLE.ORG",
            )
            .replace("ü", "ue")
            .replace("ö", "oe")
        )

    def phone(self) -> str:
        d = self.digits
        return self.pick(
            f"+49 171 {d(7)}",
            f"0171/{d(7)}",
            f"+44 20 7946 0{d(3)}",
            f"020 7946 0{d(3)}",
            f"(212) 555-{d(4)}",
            f"212-555-{d(4)}",
            f"+1 (415) 555 {d(4)}",
            f"089 / {d(3)} {d(4)}",
            f"0049 30 {d(7)}",
            f"07700 900{d(3)}",
            f"+33 6 {d(2)} {d(2)} {d(2)} {d(2)}",
            f"+49(0)30-{d(6)}",
        )

    def iban(self) -> str:
        country, length = self.rng.choice(
            (("DE", 18), ("GB", 18), ("FR", 23), ("ES", 20), ("IT", 23), ("AT", 16))
        )
        account = self.digits(length)
        if country == "GB":
            account = self.pick("NWBK", "BARC") + account[4:]
        if country == "IT":
            account = self.pick(*"AQX") + account[1:]
        whole = country + iban_check(country, account) + account
        spaced = " ".join(whole[n : n + 4] for n in range(0, len(whole), 4))
        return self.pick(whole, spaced)

    def card(self) -> str:
        prefix, length = self.rng.choice((("4", 16), ("51", 16), ("55", 16), ("37", 15), ("6011", 16)))
        body = prefix + self.digits(length - len(prefix) - 1)
        number = body + luhn(body)
        if length == 15:
            return number
        groups = [number[n : n + 4] for n in range(0, 16, 4)]
        return self.pick(number, " ".join(groups), "-".join(groups))

    def national_id(self) -> tuple[str, str]:
        form = self.rng.choice(
            (
                *("de_tax_id", "de_kvnr", "de_rvnr", "uk_nhs", "uk_nino", "us_ssn"),
                *("fr_nir", "es_nif", "es_nie", "it_fiscal_code"),
            )
        )
        below = self.rng.randrange
        if form == "uk_nino":
            value = self.pick("AB", "CE", "JK") + self.digits(6) + self.pick(*"ABCD")
            return form, self.pick(value, f"{value[:2]} {value[2:4]} {value[4:6]} {value[6:8]} {value[8]}")
        if form == "us_ssn":
            return form, f"{below(100, 665)}-{below(1, 99):02}-{below(1, 9999):04}"
        like = {
            "de_rvnr": f"{below(10, 90)}070649C103",
            "es_nif": "12345678Z",
            "es_nie": self.pick("X", "Y", "Z") + "1234567A",
            "fr_nir": "184127645108946",
            "it_fiscal_code": "RSSMRA85T10A562S",
        }.get(form, "")
        value = None
        while value is None:
            value = CHECKED[form](like, below)
        if form == "uk_nhs":
            return form, self.pick(f"{value[:3]} {value[3:6]} {value[6:]}", value)
        if form == "de_rvnr":
            return form, self.pick(value, f"{value[:2]} {value[2:8]} {value[8]} {value[9:]}")
        if form == "fr_nir":
            return form, self.pick(
                value,
                f"{value[0]} {value[1:3]} {value[3:5]} {value[5:7]} {value[7:10]} {value[10:13]} {value[13:]}",
            )
        return form, value

    def day(self, first: int = 1935, last: int = 2015) -> str:
        y, m, d = self.rng.randint(first, last), self.rng.randint(1, 12), self.rng.randint(1, 28)
        month = [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ][m - 1]
        monat = [
            "Januar",
            "Februar",
            "März",
            "April",
            "Mai",
            "Juni",
            "Juli",
            "August",
            "September",
            "Oktober",
            "November",
            "Dezember",
        ][m - 1]
        return self.pick(
            f"{d:02}.{m:02}.{y}",
            f"{d}.{m}.{y % 100:02}",
            f"{y}-{m:02}-{d:02}",
            f"{d:02}/{m:02}/{y}",
            f"{d} {month} {y}",
            f"{month} {d}, {y}",
            f"{d}. {monat} {y}",
        )

    def odd(self, kind: str) -> str:
        """Forms that recognisers of patterns are not made for."""
        if kind == "lower":
            return self.name().lower()
        if kind == "bare":
            return self.rng.choice(STREETS_DE)
        if kind == "apart":
            return f"{self.rng.choice(GIVEN).lower()} at example dot com"
        return " ".join(
            self.rng.choices(
                ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"], k=10
            )
        )

    def record(self) -> str:
        letters = "".join(self.rng.choices("ABCDEFGHKLMNPRSTVW", k=2))
        return self.pick(
            f"{letters}-{self.digits(6)}",
            self.digits(8),
            f"{self.rng.randint(10, 99)} {letters[0]} {self.digits(3)}/{self.rng.randint(10, 26)}",
            f"{letters}{self.digits(7)}",
            f"{self.digits(3)}-{self.digits(4)}-{self.digits(2)}",
            f"{self.rng.randint(2015, 2026)}/{self.digits(5)}",
        )


FRAMES: dict[PersonalType, tuple[str, ...]] = {
    "name": (
        "My name is {}.",
        "I am {} and I want to complain.",
        "Regards, {}",
        "Dear {}, your cover ends soon.",
        "Mr {family} called twice.",
        "Frau {family} bittet um Rückruf.",
        "The patient {} was admitted on Monday.",
        "Mein Name ist {}.",
        "Mit freundlichen Grüßen {}",
        '{{"name":"{}","category":"water"}}',
        "We spoke to {} about the leak.",
        "{} can confirm this.",
        "Dr. {family} examined the knee.",
        "Ich bin {} und wohne hier seit Jahren.",
        "Witness statement of {}, taken in the office.",
        "Customer: {}",
        "it was signed by {} yesterday",
        "Gemeldet hat den Schaden {} aus dem dritten Stock.",
        "{family} rief gestern an.",
        "thanks, {lower}",
    ),
    "address": (
        "I live at {en}.",
        "The address is {en}.",
        "Please send it to {en}.",
        "It happened at {en}!",
        "Ich wohne in der {de}.",
        "Anschrift: {de}",
        "Der Schaden entstand in {de}.",
        "Bitte an {de} senden.",
        "P.O. Box {n}",
        "Postfach {n}, {plz} Berlin",
        "It was delivered to {en} last week.",
        "The house in {bare} is ours.",
    ),
    "email": (
        "Write to {}.",
        "My e-mail is {}",
        "Antwort bitte an {}!",
        "<{}>",
        "contact={};",
        "Mail: {}, thanks",
        "Reach me at {apart}",
    ),
    "phone": (
        "Call me on {}.",
        "My number is {}.",
        "Tel.: {}",
        "Sie erreichen mich unter {}.",
        "Mobil {}",
        "phone: {}, mornings",
        "You reach me at {} in the evening.",
        "Rückruf bitte: {}",
        "{} is where I can be found.",
        "Dial {spelled} please.",
    ),
    "iban": ("IBAN {}", "Please pay to {}.", "Bitte auf {} überweisen.", "my account: {}, thanks", "{}"),
    "card": ("Card number {}.", "I paid with {}.", "Kreditkarte {}", "charged to {} twice", "{}"),
    "national_id": (
        "{word} {}",
        "My {word} is {}.",
        "{word}: {}",
        "The {word} on the form, {}, is wrong.",
        "{}",
    ),
    "birth_date": (
        "born {}",
        "Born on {} in Leeds.",
        "Date of birth: {}",
        "DOB {}",
        "geb. {}",
        "geboren am {}",
        "Geburtsdatum: {}",
        "my birthday is {}",
        "She was born in Leeds on {}.",
        "*{}",
        "I turned forty on {}.",
    ),
    "record_number": (
        "Policy {}.",
        "My policy number is {}.",
        "Claim no. {}",
        "Versicherungsnummer {}",
        "Aktenzeichen: {}",
        "patient record {}",
        "Kundennummer: {}",
        "MRN {}",
        "It is about contract {}.",
        "Vertragsnr. {}",
        '{{"policy":"{}"}}',
        "in the matter {} we ask for time",
        "Ihr Zeichen {}",
        "Re: {}",
    ),
}

WORDS = {
    "de_tax_id": ("Steuer-ID", "tax number"),
    "de_kvnr": ("Versichertennummer", "KVNR"),
    "de_rvnr": ("Rentenversicherungsnummer", "Sozialversicherungsnummer"),
    "uk_nhs": ("NHS number", "NHS no"),
    "uk_nino": ("National Insurance number", "NINO"),
    "us_ssn": ("SSN", "social security number"),
    "fr_nir": ("NIR", "numéro de sécurité sociale"),
    "es_nif": ("DNI", "NIF"),
    "es_nie": ("NIE", "NIE"),
    "it_fiscal_code": ("codice fiscale", "CF"),
}

NEGATIVES = (
    "Order {n8} was shipped on {day}.",
    "Invoice {n8} of {day} is open.",
    "The meeting is on {day} at ten.",
    "Tracking number {n12}",
    "Please restart the Galaxy S{n2} and the Surface Pro {n2}.",
    "Version {n2}.{n2}.{n2} fixes it.",
    "The Munich office opens in May.",
    "Article {n8}, colour red, size 42.",
    "The total is {n4}.{n2} EUR for {n2} pieces.",
    "Die Bestellung {n8} vom {day} fehlt.",
    "The Golden Gate Bridge is closed.",
    "Bitte senden Sie die Rechnung bis {day}.",
    "Windows {n2} and Office {n4} are installed.",
    "Mount Everest is 8849 metres high.",
    "The Supreme Court decided in {year}.",
    "ISBN 978-3-16-148410-0",
    "Serial no. XK{n8}Z",
    "Der Deutsche Wetterdienst warnt vor Sturm.",
    "Room {n4}, floor {n2}",
    "We need {n4} units by Friday.",
    "Error 0x{n8} at {n4}",
    "Bank Holiday Monday is free.",
    "Chapter {n2}, page {n4}",
    "It weighs {n2}.{n2} kg and costs {n4}.",
    "Warm Regards from the whole team",
    "Visit the Tower of London in April.",
    "Flight LH{n4} to Frankfurt",
    "The Mercedes Sprinter was parked.",
    "Call us any time.",
    "Gate B{n2} opens at {n2}:{n2}",
    "Dear Sir or Madam, thank you.",
    "Kaffee und Kuchen gibt es in der Kantine.",
    "Mark the box and sign below.",
    "Will you come in June or in August?",
    "Grace periods end after {n2} days.",
    "The Art of War is on page {n2}.",
    "https://example.com/a/{n8}",
)


def fixture(seed: int = SEED, per_form: int = PER_FORM) -> Iterator[Sample]:
    """Every form of every type so many times, and as many texts without any."""
    make = Maker(seed)
    for type in TYPES:
        for frame in FRAMES[type]:
            for _ in range(per_form):
                yield _sample(make, type, frame)
    for frame in NEGATIVES:
        for _ in range(per_form):
            text = frame
            for count in (2, 4, 8, 12):
                text = text.replace(f"{{n{count}}}", make.digits(count))
            yield Sample(text.format(day=make.day(2020, 2026), year=make.digits(4)), ())


def _sample(make: Maker, type: PersonalType, frame: str) -> Sample:
    values: dict[PersonalType, Callable[[], str]] = {
        "email": make.email,
        "phone": make.phone,
        "iban": make.iban,
        "card": make.card,
        "birth_date": make.day,
        "record_number": make.record,
    }
    odd = re.search("{(lower|bare|apart|spelled)}", frame)
    if odd is not None:
        value = make.odd(odd[1])
        frame = frame.replace(odd[0], "{}")
    elif type == "name":
        value = make.family() if "{family}" in frame else make.name()
        frame = frame.replace("{family}", "{}")
    elif type == "address":
        if "{n}" in frame:
            value = frame.replace("{n}", make.digits(5)).replace("{plz}", make.digits(5))
            return Sample(value, (("address", 0, len(value)),))
        value = make.address_en() if "{en}" in frame else make.address_de()
        frame = frame.replace("{en}", "{}").replace("{de}", "{}")
    elif type == "national_id":
        form, value = make.national_id()
        frame = frame.replace("{word}", make.pick(*WORDS[form]))
    else:
        value = values[type]()
    before = frame.partition("{}")[0]
    start = len(before.replace("{{", "{"))
    return Sample(frame.format(value), ((type, start, start + len(value)),))


@dataclass
class Score:
    """Of places: found as that type where at least half of its characters were; found that are none."""

    there: int = 0
    found: int = 0
    said: int = 0
    right: int = 0

    @property
    def recall(self) -> float:
        return self.found / self.there if self.there else 1.0

    @property
    def precision(self) -> float:
        return self.right / self.said if self.said else 1.0


def measure(detector: Detector, samples: Iterator[Sample] | list[Sample]) -> dict[str, Score]:
    """Recall and precision by type over the samples."""
    scores: dict[str, Score] = defaultdict(Score)
    for sample in samples:
        said = [(one.type, one.start, one.end) for one in detector.find(sample.text)]
        for type, start, end in sample.truth:
            scores[type].there += 1
            covered = sum(max(0, min(e, end) - max(s, start)) for t, s, e in said if t == type)
            scores[type].found += 2 * covered >= end - start
        for type, start, end in said:
            scores[type].said += 1
            covered = sum(max(0, min(e, end) - max(s, start)) for t, s, e in sample.truth if t == type)
            scores[type].right += 2 * covered >= end - start
    return {type: scores[type] for type in TYPES}


def table(scores: dict[str, Score]) -> str:
    """As the handbook has it, in whole percent."""
    lines = ["| type | places | recall | precision |", "|---|---|---|---|"]
    for type, score in scores.items():
        lines.append(
            f"| {type} | {score.there} | {round(100 * score.recall)}% | {round(100 * score.precision)}% |"
        )
    return "\n".join(lines)
