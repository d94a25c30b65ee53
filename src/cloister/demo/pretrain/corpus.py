"""The pre-training text: endless chat-shaped tasks, made from word banks and templates by one seed.

Tasks: copying, extracting fields, classifying, answering from a passage, rewriting, and naming or
paraphrasing what a message wants. Knows nothing of tokens, models or the demo's claims desk.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

from cloister.demo.pretrain import words
from cloister.demo.pretrain.grammar import dressed, everyday, expand, intents, message
from cloister.demo.pretrain.letters import formatted, letter, shown

Chat = list[dict[str, str]]
Task = Callable[[random.Random], Chat]


def chats(seed: int) -> Iterator[Chat]:
    """Chat rows (`role`, `content`) without end; the same seed gives the same rows."""
    rng = random.Random(seed)  # noqa: S311 - text to learn from, not secrets
    tasks, weights = zip(*_MIXTURE, strict=True)
    while True:
        yield rng.choices(tasks, weights)[0](rng)


def _chat(rng: random.Random, question: str, answer: str, instruction: str = "") -> Chat:
    """A chat whose instruction stands before the question, after it, or in the system turn."""
    if not instruction:
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    place = rng.random()
    gap = rng.choice(("\n", " ", "\n\n"))
    if place < 0.25:
        return [
            {"role": "system", "content": instruction},
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    text = f"{instruction}{gap}{question}" if place < 0.65 else f"{question}{gap}{instruction}"
    return [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]


# --- copying ----------------------------------------------------------------------------------


def _scrap(rng: random.Random) -> str:
    maker = rng.choice(
        (words.code, words.full_name, words.made_up_word, words.email, words.phone, words.date, words.street,
         words.price, words.city, words.number, lambda r: words.digits(r, r.randint(3, 9)),
         lambda r: " ".join(words.letters(r, r.randint(3, 7))), lambda r: r.choice(words.THINGS))
    )  # fmt: skip
    return maker(rng)


def copy(rng: random.Random) -> Chat:
    text = rng.choice((", ", " ", "; ", "\n")).join(_scrap(rng) for _ in range(rng.randint(1, 7)))
    if rng.random() < 0.3:
        text = message(rng, rng.choice(intents()))
    elif rng.random() < 0.3:
        text = expand(rng, rng.choice(everyday()))
    if rng.random() < 0.35:
        instruction, answer = rng.choice(
            (("Say it twice.", f"{text}\n{text}"), ("Repeat two times:", f"{text} {text}"))
        )
    else:
        ask = (
            "Repeat:",
            "Copy this:",
            "Say exactly:",
            "Write it again.",
            "Echo.",
            "Please repeat this.",
            "Copy.",
        )
        instruction, answer = rng.choice(ask), text
    return _chat(rng, text, answer, instruction)


def copy_part(rng: random.Random) -> Chat:
    """First, last, second, or what follows or precedes a given item of a list."""
    items = list(dict.fromkeys(_scrap(rng) for _ in range(rng.randint(3, 7))))
    at = rng.randrange(len(items))
    names = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
    asks = [(f"What is the {names[at]} item?", items[at]), ("Give the last one.", items[-1])]
    if at + 1 < len(items):
        asks += [
            (f"What comes after {items[at]}?", items[at + 1]),
            (f"What comes before {items[at + 1]}?", items[at]),
        ]
    instruction, answer = rng.choice(asks)
    return _chat(rng, rng.choice((", ", "\n", "; ", " | ")).join(items), answer, instruction)


# --- extracting -------------------------------------------------------------------------------


def extract(rng: random.Random) -> Chat:
    text, details, _ = letter(rng, rng.randint(1, 4))
    if rng.random() < 0.4:
        key, value = rng.choice(details)
        short = (
            f"What is the {key}?",
            f"Give only the {key}.",
            f"{key}?",
            f"Find the {key}.",
            f"Extract: {key}",
        )
        return _chat(rng, text, value, rng.choice(short))
    wanted = rng.sample(details, rng.randint(1, len(details)))
    if len({key for key, _ in wanted}) < len(wanted):
        wanted = wanted[:1]
    style, answer = formatted(rng, wanted)
    named = ", ".join(key for key, _ in wanted)
    ask = (
        f"Give {named} {style}.",
        f"Extract {named} {style}.",
        f"Write {named} {style}.",
        f"{style}: {named}",
    )
    return _chat(rng, text, answer, rng.choice(ask))


# --- classifying ------------------------------------------------------------------------------


def _options(rng: random.Random, label: str) -> list[str]:
    others = {intent.label for intent in intents()} - {label}
    options = [label, *rng.sample(sorted(others), rng.randint(1, 4))]
    rng.shuffle(options)
    return options


def classify(rng: random.Random) -> Chat:
    intent = rng.choice(intents())
    text = dressed(rng, message(rng, intent))
    options = _options(rng, intent.label)
    style = rng.random()
    if style < 0.5:
        joined = rng.choice((", ", " / ", " | ", " or ", "; ")).join(options)
        ask = (
            f"Topic: {joined}?",
            f"Which one: {joined}?",
            f"Choose from {joined}.",
            f"Classify as {joined}.",
        )
        return _chat(rng, text, intent.label, rng.choice(ask))
    if style < 0.75:
        marks = "ABCDE" if rng.random() < 0.5 else "12345"
        listed = "\n".join(f"{mark}) {option}" for mark, option in zip(marks, options, strict=False))
        return _chat(rng, text, marks[options.index(intent.label)], f"Choose one:\n{listed}")
    domains = sorted({each.domain for each in intents()} - {intent.domain})
    picked = [intent.domain, *rng.sample(domains, rng.randint(1, 4))]
    rng.shuffle(picked)
    return _chat(rng, text, intent.domain, f"Which field: {', '.join(picked)}?")


def name_topic(rng: random.Random) -> Chat:
    """The label without options: what the model must know by itself."""
    intent = rng.choice(intents())
    text = dressed(rng, message(rng, intent))
    if rng.random() < 0.2:
        return _chat(rng, text, intent.domain, rng.choice(("Name the field.", "Which field is this?")))
    return _chat(
        rng, text, intent.label, rng.choice(("Name the topic.", "What is it about?", "Topic?", "Label it."))
    )


def same_meaning(rng: random.Random) -> Chat:
    intent, other = rng.sample(intents(), 2)
    if rng.random() < 0.5:
        near = [each for each in intents() if each.domain == intent.domain and each != intent]
        other = rng.choice(near)
    first, second = message(rng, intent), message(rng, intent)
    if rng.random() < 0.4:
        answer, second = ("yes", second) if rng.random() < 0.5 else ("no", message(rng, other))
        return _chat(rng, f"A: {first}\nB: {second}", answer, "Same topic? yes or no")
    pair = [("1", second), ("2", message(rng, other))]
    if rng.random() < 0.5:
        pair = [("1", pair[1][1]), ("2", second)]
    answer = "1" if pair[0][1] == second else "2"
    return _chat(
        rng, f"{first}\n1: {pair[0][1]}\n2: {pair[1][1]}", answer, "Which is closer to the first, 1 or 2?"
    )


def paraphrase(rng: random.Random) -> Chat:
    intent = rng.choice(intents())
    if rng.random() < 0.4:
        return _chat(rng, f"Write a message about: {intent.label}", expand(rng, rng.choice(intent.templates)))
    ask = ("Say it differently.", "Write a similar message.", "In other words:", "Another way to say this?")
    return _chat(rng, message(rng, intent), expand(rng, rng.choice(intent.templates)), rng.choice(ask))


def label_and_extract(rng: random.Random) -> Chat:
    """A topic out of the options and some details, in one answer."""
    text, details, label = letter(rng, rng.randint(1, 3))
    pairs = list(dict(details).items())
    key = rng.choice(("topic", "about", "subject", "theme", "label"))
    named = f"{key} ({', '.join(_options(rng, label))})" if rng.random() < 0.5 else key
    pairs.insert(0 if rng.random() < 0.7 else len(pairs), (key, label))
    keys = ", ".join(named if name == key else name for name, _ in pairs)
    style, answer = formatted(rng, pairs)
    return _chat(rng, text, answer, rng.choice((f"Give {keys} {style}.", f"Write {keys} {style}.")))


def read_traits(rng: random.Random) -> Chat:
    """Several things at once out of a letter: its topic, what its sentences show, and details copied."""
    text, details, label = letter(rng, rng.randint(1, 3))
    sentences, facts = shown(rng, rng.randint(1, 4))
    parts = [*text.split("\n"), *sentences] if "\n" in text else [text, *sentences]
    rng.shuffle(parts)
    text = rng.choice((" ", " ", "\n")).join(parts)
    wanted = {key: (value, [value]) for key, value in details if rng.random() < 0.7}
    wanted |= {name: (value, labels) for name, value, labels in facts if rng.random() < 0.8}
    if rng.random() < 0.4:
        wanted["topic"] = (label, _options(rng, label))
    names = list(wanted) or [facts[0][0]]
    wanted = wanted or {facts[0][0]: (facts[0][1], facts[0][2])}
    rng.shuffle(names)
    if rng.random() < 0.35:
        chat = [{"role": "user", "content": text}, {"role": "assistant", "content": "OK"}]
        for name in names[:4]:
            chat += [
                {"role": "user", "content": f"{name}?"},
                {"role": "assistant", "content": wanted[name][0]},
            ]
        return chat
    options = rng.random() < 0.4
    style, answer = formatted(rng, [(name, wanted[name][0]) for name in names])
    asked = [
        f"{name} ({', '.join(wanted[name][1])})" if options and len(wanted[name][1]) > 1 else name
        for name in names
    ]
    return _chat(rng, text, answer, f"{rng.choice(('Give', 'Write', 'Read'))} {', '.join(asked)} {style}.")


def read_trait(rng: random.Random) -> Chat:
    """One trait out of a few sentences, or which sentence shows it."""
    sentences, facts = shown(rng, rng.randint(1, 4))
    name, value, labels = rng.choice(facts)
    text = " ".join(rng.sample(sentences, len(sentences)))
    style = rng.random()
    if style < 0.25:
        at = [fact[0] for fact in facts].index(name)
        return _chat(
            rng, text, sentences[at], rng.choice((f"Which sentence shows {name}?", f"Quote the {name}."))
        )
    if style < 0.6:
        return _chat(rng, text, value, rng.choice((f"{name}?", f"What is the {name}?", f"Name the {name}.")))
    options = ", ".join(rng.sample(labels, len(labels)))
    return _chat(
        rng,
        text,
        value,
        rng.choice((f"{name}: {options}?", f"Choose: {options}.", f"Classify as {options}.")),
    )


# --- answering from a passage -----------------------------------------------------------------

_FACTS: tuple[tuple[str, str, str, str], ...] = (
    ("job", "{n} is a {v}.|{n} works as a {v}.", "What does {n} do?|What is the job of {n}?", "job"),
    ("city", "{n} lives in {v}.|{n} comes from {v}.", "Where does {n} live?|In which city is {n}?", "city"),
    ("age", "{n} is {v} years old.|{n} turned {v}.", "How old is {n}?", "age"),
    ("pet", "{n} has a {v}.|The pet of {n} is a {v}.", "Which pet does {n} have?", "animal"),
    ("hobby", "{n} likes {v}.|{n} loves {v}.", "What does {n} like?|What is the hobby of {n}?", "hobby"),
    ("thing", "{n} bought a {v}.|{n} sold the {v}.", "What did {n} buy or sell?", "thing"),
    ("code", "The code of {n} is {v}.|{n} has number {v}.", "Which code or number has {n}?", "code"),
    ("date", "{n} was born on {v}.|{n} arrives on {v}.", "On which date is {n} born or here?", "date"),
    ("food", "{n} eats {v}.|{n} ordered {v}.", "What does {n} eat?", "food"),
    ("phone", "{n} can be reached at {v}.|Call {n} on {v}.", "What is the phone number of {n}?", "phone"),
)


def passage(rng: random.Random) -> Chat:
    people = [
        words.first_name(rng) if rng.random() < 0.6 else words.full_name(rng)
        for _ in range(rng.randint(1, 4))
    ]
    people = list(dict.fromkeys(people))
    facts: list[tuple[str, str, str, str]] = []
    for person in people:
        for kind, says, asks, bank in rng.sample(_FACTS, rng.randint(1, 2)):
            value = str(rng.randint(4, 99)) if kind == "age" else words.slot(rng, bank)
            sentence = rng.choice(says.split("|")).replace("{n}", person).replace("{v}", value)
            facts.append((sentence, rng.choice(asks.split("|")).replace("{n}", person), value, person))
    rng.shuffle(facts)
    _, question, value, person = rng.choice(facts)
    text = " ".join(sentence for sentence, *_ in facts)
    if rng.random() < 0.2 and sum(value == other for _, _, other, _ in facts) == 1:
        return _chat(rng, text, person, f"Who goes with {value}?")
    return _chat(rng, text, value, question)


def price_list(rng: random.Random) -> Chat:
    goods = rng.sample(words.THINGS + words.FOODS, rng.randint(2, 6))
    rows = [(item, words.price(rng)) for item in goods]
    item, cost = rng.choice(rows)
    text = rng.choice(("\n", ", ", "; ")).join(f"{name}: {value}" for name, value in rows)
    if rng.random() < 0.3:
        return _chat(rng, text, item, rng.choice((f"What costs {cost}?", f"Which one is {cost}?")))
    return _chat(
        rng,
        text,
        cost,
        rng.choice((f"What does the {item} cost?", f"Price of {item}?", f"How much is {item}?")),
    )


def kinds_of_things(rng: random.Random) -> Chat:
    banks = {
        "food": words.FOODS, "animal": words.ANIMALS, "sport": words.SPORTS, "job": words.JOBS, "day": words.DAYS,
        "month": words.MONTHS, "colour": words.COLOURS, "hobby": words.HOBBIES, "thing": words.THINGS,
        "city": words.CITIES, "school subject": words.SUBJECTS, "number": words.NUMBERS,
    }  # fmt: skip
    kind, other = rng.sample(sorted(banks), 2)
    word = rng.choice(banks[kind])
    if rng.random() < 0.5:
        pair = rng.sample((kind, other), 2)
        return _chat(rng, f"Is {word} a {pair[0]} or a {pair[1]}?", kind)
    mixed = [word, *rng.sample(sorted(banks[other]), 3)]
    rng.shuffle(mixed)
    return _chat(rng, ", ".join(mixed), word, f"Which one is a {kind}?")


# --- rewriting --------------------------------------------------------------------------------


def rewrite(rng: random.Random) -> Chat:
    text = message(rng, rng.choice(intents())) if rng.random() < 0.5 else words.full_name(rng)
    style = rng.randrange(4)
    if style == 0:
        return _chat(rng, text, text.upper(), rng.choice(("In capital letters:", "Upper case.")))
    if style == 1:
        return _chat(rng, text.upper(), text.lower(), rng.choice(("In small letters:", "Lower case.")))
    if style == 2:
        old = rng.choice([word for word in text.split() if word.isalpha()] or text.split())
        new = rng.choice((words.made_up_word(rng), rng.choice(words.THINGS)))
        changed = " ".join(new if word == old else word for word in text.split())
        return _chat(rng, text, changed, f"Put {new} in place of {old}.")
    name = words.full_name(rng).split()
    return _chat(
        rng,
        " ".join(name),
        f"{name[1]}, {name[0]}",
        rng.choice(("Last name first.", "Put the last name first.")),
    )


def rewrite_list(rng: random.Random) -> Chat:
    bank = rng.choice((words.THINGS, words.FOODS, words.ANIMALS, words.FIRST_NAMES, words.CITIES))
    items = rng.sample(list(bank), rng.randint(2, 5))
    if rng.random() < 0.4:
        items = list(dict.fromkeys(_scrap(rng) for _ in range(rng.randint(2, 4))))
    commas = ", ".join(items)
    sentence = items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
    forms = {
        "as a sentence": f"We have {sentence}.",
        "as a JSON list": json.dumps(items, ensure_ascii=False),
        "as bullets": "\n".join(f"- {item}" for item in items),
        "as a numbered list": "\n".join(f"{at}. {item}" for at, item in enumerate(items, 1)),
        "with commas": commas,
        "in reverse order": ", ".join(reversed(items)),
    }
    source = rng.choice((commas, forms["as bullets"], forms["as a sentence"]))
    target = rng.choice(sorted(forms))
    return _chat(rng, source, forms[target], rng.choice((f"Write it {target}.", f"Give it {target}.")))


def complete(rng: random.Random) -> Chat:
    """A sentence cut in the middle, or with a word missing: everyday English."""
    parts = expand(rng, rng.choice(everyday())).split()
    at = rng.randrange(1, len(parts))
    if rng.random() < 0.5:
        ask = ("Continue.", "Finish the sentence.", "How does it go on?")
        return _chat(rng, " ".join(parts[:at]), " ".join(parts[at:]), rng.choice(ask))
    return _chat(rng, " ".join([*parts[:at], "...", *parts[at + 1 :]]), parts[at], "Which word is missing?")


def small_talk(rng: random.Random) -> Chat:
    ask, answer = rng.choice(_TALK)
    return _chat(rng, ask, answer)


_TALK = (
    ("Hello!", "Hello! How can I help you?"),
    ("Hi", "Hello! How can I help you?"),
    ("Good morning", "Good morning! How can I help you?"),
    ("How are you?", "I am fine, thank you. How can I help you?"),
    ("Who are you?", "I am a small language model that answers short questions."),
    ("Thank you!", "You are welcome."),
    ("Thanks", "You are welcome."),
    ("Bye", "Goodbye!"),
    ("What can you do?", "I can copy, extract, classify and rewrite short texts."),
)

_MIXTURE: tuple[tuple[Task, float], ...] = (
    (copy, 11), (copy_part, 5), (extract, 16), (classify, 7), (name_topic, 7), (same_meaning, 3), (paraphrase, 3),
    (label_and_extract, 9), (read_traits, 24), (read_trait, 8), (passage, 5), (price_list, 3), (kinds_of_things, 2),
    (rewrite, 4), (rewrite_list, 3), (complete, 2), (small_talk, 0.5),
)  # fmt: skip
