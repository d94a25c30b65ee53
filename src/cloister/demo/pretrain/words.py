"""Word banks for the pre-training text: names, places, things and the made-up strings to copy.

All of it is invented or everyday vocabulary. Knows nothing of tasks, tokens or models.
"""

from __future__ import annotations

import random
import string


def single(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


def phrases(text: str) -> list[str]:
    """What stands between the bars of a text."""
    return text.split("|")


FIRST_NAMES = single(
    "Anna Ben Clara David Emma Felix Grace Henry Isla Jack Kate Liam Mia Noah Olivia Paul Quinn Rosa Sam Tara "
    "Uma Victor Wendy Yusuf Zoe Ahmed Bella Carlos Diana Erik Fatima George Hana Ivan Julia Kofi Laura Marco "
    "Nina Omar Petra Rafael Sofia Tom Ursula Vera Walter Xenia Amir Bruno Chloe Dario Elena Frank Gina Hugo "
    "Irene Jonas Kira Leon Maria Nils Oscar Pia Robert Sara Theo Viola Will Yara Adam Alice Peter Lucy Simon "
    "Martin Helen Susan Karen Daniel Michael James John Mary Linda Thomas Nancy Steve Mark Julie Alex Chris"
)

LAST_NAMES = single(
    "Miller Baker Smith Carter Hughes Novak Rossi Silva Khan Berg Lopez Meyer Young Fisher Stone Wood Hill Park "
    "Lee Chen Singh Costa Weber Olsen Jansen Moreau Keller Dunn Walsh Byrne Ford Grant Hayes Irwin Jones King "
    "Lane Moore Nash Owens Price Reed Shaw Turner Vance Wells York Abbott Bishop Cole Drake Ellis Foster Gray "
    "Harper Holt Kerr Lamb Marsh North Page Quill Rowe Sharp Todd Webb Brown White Black Green Taylor Evans "
    "Roberts Wright Martin Clark Lewis Walker Hall Allen Scott Adams Nelson Garcia Petrov Santos Tanaka Okoye"
)

CITIES = single(
    "London Paris Berlin Madrid Rome Vienna Oslo Lisbon Dublin Prague Athens Cairo Lagos Nairobi Delhi Mumbai "
    "Tokyo Osaka Seoul Sydney Perth Toronto Boston Chicago Denver Austin Lima Quito Bergen Porto Lyon Milan "
    "Geneva Zurich Hamburg Munich Bristol Leeds York Oxford Cardiff Glasgow Riga Warsaw Budapest Zagreb"
)

STREETS = phrases(
    "Oak Street|Mill Lane|High Street|Park Road|Station Road|Church Street|River Walk|Elm Avenue|Garden Row|"
    "Queen Street|Market Square|Bridge Street|Hill Road|Maple Drive|Lake View|Forest Way|Harbour Street|"
    "School Lane|Rose Court|Castle Street|Long Road|Green Lane|South Street|West End|New Road"
)

THINGS = phrases(
    "lamp|chair|table|jacket|shirt|phone|laptop|bike|book|camera|watch|bag|coat|dress|kettle|toaster|pan|knife|"
    "mirror|carpet|pillow|blanket|sofa|desk|clock|radio|speaker|keyboard|mouse|screen|printer|tent|backpack|"
    "suitcase|umbrella|hat|scarf|glove|boot|shoe|belt|ring|necklace|toy|puzzle|ball|racket|helmet|drum|guitar|"
    "pen|notebook|calendar|candle|vase|plant|basket|bottle|cup|plate|bowl|spoon|towel|curtain|shelf|ladder|"
    "hammer|drill|rope|torch|battery|cable|charger|tablet|headset|fridge|oven|fan|heater|mixer|ticket|present"
)

COLOURS = single("red blue green yellow black white brown grey pink purple orange silver golden dark light")
FOODS = phrases(
    "rice|pasta|bread|cheese|chicken|beef|fish|salmon|potato|carrot|onion|tomato|pepper|mushroom|spinach|apple|"
    "banana|lemon|orange|cherry|plum|honey|butter|cream|egg|bean|lentil|corn|cabbage|garlic|ginger|chocolate|"
    "vanilla|pancake|noodle|pizza|curry|stew|cookie|yoghurt|coffee|tea|juice|milk"
)
ANIMALS = single(
    "dog cat rabbit horse parrot hamster turtle goat sheep duck goose mouse fox bear owl snake frog bee"
)
SPORTS = single(
    "football tennis swimming running rowing boxing hockey golf cycling climbing volleyball skiing judo yoga"
)
SUBJECTS = single(
    "maths history physics biology chemistry music art geography French Spanish German English science"
)
HOBBIES = phrases(
    "chess|painting|knitting|photography|fishing|gardening|dancing|singing|cooking|reading|hiking|sailing|pottery|"
    "drawing|camping|astronomy|origami|juggling|sewing|writing"
)
JOBS = phrases(
    "teacher|nurse|baker|driver|farmer|doctor|lawyer|painter|singer|cook|pilot|builder|plumber|writer|judge|waiter|"
    "engineer|gardener|dentist|tailor|clerk|actor|vet|librarian|mechanic|sailor"
)
PEOPLE = single(
    "brother sister mother father friend son daughter wife husband uncle aunt cousin neighbour boss"
)
DAYS = single("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = single("January February March April May June July August September October November December")
SHOPS = single(
    "supermarket bakery restaurant bookshop pharmacy garage cinema museum market hotel gym florist cafe"
)
NUMBERS = single(
    "two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred"
)

OPENINGS = phrases(
    "Hello,|Hi,|Hi there,|Good morning,|Good evening,|Dear team,|Hey,|Please help.|Quick question:|Excuse me,|"
    "To whom it may concern,|Dear all,|Good day,|I have a question.|Hello everyone,|I hope you are well."
)
CLOSINGS = phrases(
    "Thanks.|Thank you.|Kind regards|Best wishes|See you soon.|Please answer soon.|Many thanks in advance.|"
    "Have a nice day.|Let me know.|That is all.|I am waiting for your answer.|Please call me back.|Cheers|"
    "Regards|It is urgent.|Take your time.|No hurry.|I need an answer today."
)

_ONSETS = single("b br c ch cl d dr f fl g gr h j k kl l m n p pr qu r s sh sl st t th tr v w y z")
_VOWELS = single("a e i o u a e i o ai ea ee ie oo ou")
_CODAS = ["", "", "", "n", "l", "r", "s", "m", "t", "ck", "nd", "rt", "x", "lm", "ss", "rn", "ff"]


def made_up_word(rng: random.Random, syllables: int | None = None) -> str:
    """A pronounceable lower-case word that is hardly ever in the vocabulary."""
    count = syllables or rng.choice((1, 2, 2, 3))
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(count))


def first_name(rng: random.Random) -> str:
    return (
        rng.choice(FIRST_NAMES)
        if rng.random() < 0.4
        else made_up_word(rng, rng.choice((1, 2, 2))).capitalize()
    )


def last_name(rng: random.Random) -> str:
    if rng.random() < 0.35:
        return rng.choice(LAST_NAMES)
    name = made_up_word(rng, rng.choice((1, 2, 2, 3))).capitalize()
    if rng.random() < 0.06:
        return f"{name}-{made_up_word(rng, 1).capitalize()}"
    return f"O'{name}" if rng.random() < 0.04 else name


def full_name(rng: random.Random) -> str:
    return f"{first_name(rng)} {last_name(rng)}"


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice(string.digits) for _ in range(count))


def letters(rng: random.Random, count: int) -> str:
    return "".join(rng.choice(string.ascii_uppercase) for _ in range(count))


def code(rng: random.Random) -> str:
    """A reference such as `KX-48213`, `7741-BD`, `A93.221` or `QT 5530 91`."""
    shapes = (
        "L-D",
        "LD",
        "D-L",
        "L-D-D",
        "L/D",
        "D-D",
        "L.D",
        "D",
        "L D",
        "L-D-L",
        "#D",
        "L_D",
        "D/D",
        "D D",
    )
    text = []
    for part in rng.choice(shapes):
        if part == "L":
            text.append(letters(rng, rng.randint(1, 4)))
        elif part == "D":
            text.append(digits(rng, rng.randint(2, 6)))
        else:
            text.append(part)
    return "".join(text)


def date(rng: random.Random) -> str:
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1990, 2035)
    name = MONTHS[month - 1]
    return rng.choice(
        (
            f"{year}-{month:02}-{day:02}",
            f"{day} {name}",
            f"{name} {day}",
            f"{day:02}/{month:02}/{year}",
            f"{day}.{month}.{year}",
            f"{day} {name} {year}",
        )
    )


def time(rng: random.Random) -> str:
    return rng.choice(
        (f"{rng.randint(0, 23):02}:{rng.choice((0, 15, 30, 45)):02}", f"{rng.randint(1, 12)} o'clock")
    )


def phone(rng: random.Random) -> str:
    shape = rng.choice(
        ("0DDD DDDDDD", "+DD DDD DDDDDD", "DDD-DDDD", "0DD/DDDDDD", "DDD DDD DDDD", "0DDDDDDDDD")
    )
    return "".join(rng.choice(string.digits) if part == "D" else part for part in shape)


def email(rng: random.Random) -> str:
    user = rng.choice((made_up_word(rng), first_name(rng).lower()))
    if rng.random() < 0.6:
        user += rng.choice((".", "_", "", "-")) + rng.choice((made_up_word(rng, 2), digits(rng, 2)))
    host = rng.choice(("mail", "post", "inbox", "web", made_up_word(rng, 2), made_up_word(rng, 1)))
    return f"{user}@{host}.{rng.choice(('example', 'test', 'org', 'net', 'com'))}"


def price(rng: random.Random) -> str:
    amount = rng.choice((str(rng.randint(2, 999)), f"{rng.randint(1, 99)}.{rng.randint(0, 99):02}"))
    return rng.choice(
        (f"{amount} euros", f"{amount} dollars", f"${amount}", f"£{amount}", f"{amount} pounds")
    )


def street(rng: random.Random) -> str:
    name = rng.choice(STREETS) if rng.random() < 0.5 else made_up_word(rng, 2).capitalize() + " Street"
    return f"{rng.randint(1, 199)} {name}" if rng.random() < 0.7 else name


def city(rng: random.Random) -> str:
    return rng.choice(CITIES) if rng.random() < 0.6 else made_up_word(rng, 2).capitalize()


def number(rng: random.Random) -> str:
    return rng.choice(NUMBERS) if rng.random() < 0.6 else str(rng.randint(2, 60))


def slot(rng: random.Random, name: str) -> str:
    """A random filling of the slot `name` of a template.

    Raises:
        KeyError: no slot of that name.
    """
    if name in _BANKS:
        return rng.choice(_BANKS[name])
    return _MAKERS[name](rng)


_BANKS = {
    "thing": THINGS, "colour": COLOURS, "food": FOODS, "animal": ANIMALS, "sport": SPORTS, "subject": SUBJECTS,
    "hobby": HOBBIES, "job": JOBS, "person": PEOPLE, "day": DAYS, "month": MONTHS, "shop": SHOPS,
}  # fmt: skip
_MAKERS = {
    "name": full_name, "first": first_name, "last": last_name, "code": code, "date": date, "time": time,
    "phone": phone, "email": email, "price": price, "street": street, "city": city, "number": number,
}  # fmt: skip
