"""Sentences from templates: `[this|that]` chooses, `{slot}` fills in; the intents of `intents.txt`, everyday talk.

Knows the file format and how people vary a sentence; nothing of tasks or chat.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from cloister.demo.pretrain import words

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_SPACES = re.compile(r" {2,}")

_SHORT = {
    "I am": "I'm", "do not": "don't", "does not": "doesn't", "cannot": "can't", "did not": "didn't", "is not": "isn't",
    "has not": "hasn't", "I have": "I've", "I would": "I'd", "It is": "It's", "it is": "it's", "was not": "wasn't",
    "What is": "What's", "Where is": "Where's", "We are": "We're",
}  # fmt: skip


@dataclass(frozen=True)
class Intent:
    """One thing that people write about: its label and the templates of what they write."""

    domain: str
    label: str
    templates: tuple[str, ...]


@cache
def intents() -> tuple[Intent, ...]:
    """All intents of `intents.txt`: `== domain`, `- label`, then one template a line."""
    text = (resources.files("cloister.demo.pretrain") / "intents.txt").read_text("utf-8")
    found: list[Intent] = []
    domain = label = ""
    templates: list[str] = []
    for line in [*text.splitlines(), "== end"]:
        if line.startswith(("== ", "- ")):
            if templates:
                found.append(Intent(domain, label, tuple(templates)))
                templates = []
            if line.startswith("== "):
                domain = line[3:]
            else:
                label = line[2:]
        elif line:
            templates.append(line)
    return tuple(found)


@cache
def everyday() -> tuple[str, ...]:
    """The templates of `everyday.txt`: sentences about anything, for the breadth of their words."""
    text = (resources.files("cloister.demo.pretrain") / "everyday.txt").read_text("utf-8")
    return tuple(text.splitlines())


@dataclass(frozen=True)
class Trait:
    """One thing that a sentence can show, such as a mood: its name, and for each value labels and templates."""

    name: str
    values: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]


@cache
def traits() -> tuple[Trait, ...]:
    """All traits of `traits.txt`: `== name`, `- label|other label`, then one template a line."""
    text = (resources.files("cloister.demo.pretrain") / "traits.txt").read_text("utf-8")
    found = []
    for block in text.removeprefix("== ").split("\n== "):
        name, *values = block.split("\n- ")
        parts = [value.strip().split("\n") for value in values]
        found.append(Trait(name, tuple((tuple(labels.split("|")), tuple(says)) for labels, *says in parts)))
    return tuple(found)


def expand(rng: random.Random, template: str) -> str:
    """One sentence of the template."""
    while (match := _CHOICE.search(template)) is not None:
        picked = rng.choice(match.group(1).split("|"))
        template = template[: match.start()] + picked + template[match.end() :]
    text = _SLOT.sub(lambda found: words.slot(rng, found.group(1)), template)
    return _SPACES.sub(" ", text).strip().replace(" ,", ",").replace(" ?", "?").replace(" .", ".")


def message(rng: random.Random, intent: Intent) -> str:
    """What somebody with this intent writes, in their own manner."""
    text = expand(rng, rng.choice(intent.templates))
    if rng.random() < 0.12:
        aside = expand(rng, rng.choice(everyday()))
        text = f"{text} {aside}" if rng.random() < 0.5 else f"{aside} {text}"
    if rng.random() < 0.3:
        for full, short in _SHORT.items():
            text = text.replace(full, short)
    if rng.random() < 0.15:
        text = text.lower()
    if rng.random() < 0.15:
        text = text.rstrip(".?!")
    if rng.random() < 0.06:
        text = typo(rng, text)
    return text


def typo(rng: random.Random, text: str) -> str:
    """The text with two neighbouring characters swapped or one left out."""
    if len(text) < 6:
        return text
    at = rng.randrange(1, len(text) - 2)
    if rng.random() < 0.5:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + text[at + 1 :]


def dressed(rng: random.Random, text: str) -> str:
    """The text with a greeting before it or a farewell after it, now and then."""
    if rng.random() < 0.25:
        text = f"{rng.choice(words.OPENINGS)} {text}"
    if rng.random() < 0.2:
        text = f"{text} {rng.choice(words.CLOSINGS)}"
    return text
