"""Made-up letters with details in them, and the details written out in the formats asked for.

Knows how people mention a name, a number or a date; nothing of what is asked about the letter.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from cloister.demo.pretrain import words
from cloister.demo.pretrain.grammar import dressed, everyday, expand, intents, message, traits

_FIELDS: dict[str, tuple[Callable[[random.Random], str], str, str]] = {
    "name": (
        words.full_name,
        "name|full name|customer|contact|sender|member|guest|person|patient|student",
        "My name is {v}.|I am {v}.|This is {v}.|{v} here.|{v} writes:|It's about {v}.|Regards, {v}|Signed, {v}|"
        "I'm {v}, hello.|The name is {v}.|Best wishes, {v}|From: {v}|Yours, {v}|Booked by {v}.|Thanks, {v}",
    ),
    "code": (
        words.code,
        "order number|reference|ticket|booking code|tracking number|member id|id|invoice number|serial number|"
        "order|booking|code|case|account|contract|number|customer number|room|seat|ref|model|license",
        "My {k} is {v}.|The {k} is {v}.|{K}: {v}.|{k} {v}|({k} {v})|It is about {k} {v}.|Please check {k} {v}.|"
        "I have {k} {v}.|See {k} {v}.|{k} number {v}.|Here is my {k}: {v}.|{v} is my {k}.|Regarding {v}:|re {v}",
    ),
    "date": (
        words.date,
        "date|day|due date|arrival|departure|start|delivery date|when|birthday|since|deadline",
        "It was on {v}.|The {k} is {v}.|{K}: {v}.|It happened on {v}.|On {v} it began.|Since {v}.|Please come on {v}.|"
        "I wrote on {v}.|This was {v}.|It starts {v}.|I bought it on {v}.|On {v} I called you already.",
    ),
    "time": (
        words.time,
        "time|hour|start time|at",
        "At {v}, please.|The {k} is {v}.|Come at {v}.|It starts at {v}.",
    ),
    "phone": (
        words.phone,
        "phone|phone number|telephone|mobile|tel|call",
        "Call me on {v}.|My {k} is {v}.|{K}: {v}.|You can reach me at {v}.|Phone {v}.|Ring {v}.|My number is {v}.",
    ),
    "email": (
        words.email,
        "email|mail|e-mail|email address|reply to|contact email",
        "Write to {v}.|My {k} is {v}.|{K}: {v}|Send it to {v}.|You can mail me at {v}.|Answer to {v} please.",
    ),
    "address": (
        lambda rng: f"{words.street(rng)}, {words.city(rng)}",
        "address|street|home|delivery address",
        "I live at {v}.|My {k} is {v}.|Send it to {v}.|{K}: {v}.|We moved to {v}.",
    ),
    "city": (
        words.city,
        "city|town|place|location",
        "I live in {v}.|I write from {v}.|We are in {v}.|{K}: {v}.",
    ),
    "price": (
        words.price,
        "price|amount|cost|total|sum",
        "I paid {v}.|It cost {v}.|The {k} is {v}.|{K}: {v}.|They want {v}.|That makes {v}.",
    ),
    "item": (
        lambda rng: f"{rng.choice(words.COLOURS)} {rng.choice(words.THINGS)}",
        "item|product|thing|article",
        "It is the {v}.|I mean the {v}.|The {k} is a {v}.|I ordered the {v}.|{K}: {v}.",
    ),
}


def letter(rng: random.Random, count: int) -> tuple[str, list[tuple[str, str]], str]:
    """A message of one intent with `count` details in it: the text, (key, value) pairs, the intent's label."""
    intent = rng.choice(intents())
    kinds = rng.sample(sorted(_FIELDS), count)
    if rng.random() < 0.5:
        kinds[: min(count, 2)] = ["name", "code"][: min(count, 2)]
        kinds = list(dict.fromkeys(kinds))
    details: list[tuple[str, str]] = []
    sentences = []
    for kind in kinds:
        make, keys, phrases = _FIELDS[kind]
        key, value = rng.choice(keys.split("|")), make(rng)
        phrase = rng.choice(phrases.split("|"))
        sentences.append(phrase.replace("{k}", key).replace("{K}", key.capitalize()).replace("{v}", value))
        details.append((key, value))
    if rng.random() < 0.8:
        sentences.insert(rng.randint(0, len(sentences)), message(rng, intent))
    if rng.random() < 0.2:
        sentences.insert(rng.randint(0, len(sentences)), expand(rng, rng.choice(everyday())))
    rng.shuffle(sentences)
    joint = rng.choice((" ", " ", " ", "\n"))
    return dressed(rng, joint.join(sentences)), details, intent.label


def _as_key(rng: random.Random, keys: list[str]) -> list[str]:
    style = rng.randrange(4)
    if style == 0:
        return [key.replace(" ", "_").replace("-", "_") for key in keys]
    if style == 1:
        return (
            [key.split()[0] for key in keys] if len({key.split()[0] for key in keys}) == len(keys) else keys
        )
    return [key.capitalize() for key in keys] if style == 2 else keys


def formatted(rng: random.Random, pairs: list[tuple[str, str]]) -> tuple[str, str]:
    """(what the format is called, the pairs in that format)."""
    keys = _as_key(rng, [key for key, _ in pairs])
    table = dict(zip(keys, [value for _, value in pairs], strict=True))
    style = rng.random()
    if style < 0.4:
        return rng.choice(("as JSON", "as a JSON object", "in JSON")), json.dumps(
            table, ensure_ascii=False, separators=(",", ":")
        )
    if style < 0.55:
        return rng.choice(("as JSON with spaces", "as spaced JSON")), json.dumps(table, ensure_ascii=False)
    if style < 0.75:
        return rng.choice(("as lines", "one a line")), "\n".join(
            f"{key}: {value}" for key, value in table.items()
        )
    if style < 0.85:
        return "with commas", ", ".join(table.values())
    return "as key=value", "; ".join(f"{key}={value}" for key, value in table.items())


def shown(rng: random.Random, count: int) -> tuple[list[str], list[tuple[str, str, list[str]]]]:
    """Sentences that show `count` traits, and of each trait its name, the value's label and all its labels."""
    sentences, facts = [], []
    for trait in rng.sample(traits(), count):
        first = rng.random() < 0.8
        labels = [names[0] if first else rng.choice(names) for names, _ in trait.values]
        at = rng.randrange(len(labels))
        sentence = expand(rng, rng.choice(trait.values[at][1]))
        if sentence[0].islower():
            sentence = (
                rng.choice(("I mean, ", "Well, ", "You see, ", "It is so: ", "We think: ", "")) + sentence
            )
        if sentence[-1] not in ".!?":
            sentence += "."
        sentences.append(sentence[0].upper() + sentence[1:])
        facts.append((trait.name, labels[at], labels))
    return sentences, facts
