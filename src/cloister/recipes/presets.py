"""The presets that ship: six run files with their trade-offs in comments, and what answers make of them.

Knows the files of `cloister/presets`; no data set and no base model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Literal

import yaml

from cloister.errors import NotFound
from cloister.recipes.run_file import parse_run_file

Aim = Literal["quality", "speed", "memory"]

PRESETS: Mapping[str, str] = {
    "instruction": "follow instructions: one question, one answer",
    "classification": "put texts into classes",
    "extraction": "take fields out of documents, as JSON",
    "style": "write in the house's terms: letters, reports, clauses",
    "chat": "hold conversations of several turns, perhaps with tools",
    "domain": "read the domain's texts, without questions and answers",
}
"""Name and what it is for, in the order in which they are offered."""


def preset_text(name: str) -> str:
    """The preset's file, comments included. Errors: NotFound."""
    if name not in PRESETS:
        raise NotFound("there is no such preset", remedy=f"There are: {', '.join(PRESETS)}.")
    return (files("cloister") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


def run_file_text(preset: str, aim: Aim, **named: str) -> str:
    """A run file: the preset, adapted to what matters most, with `name`, `dataset` and `base` as given.

    `speed` takes fewer passes and a smaller adapter; `memory` one row at a time, activations recomputed, and the
    base in 4 bits. The result is valid, see `parse_run_file`.
    """
    text = preset_text(preset)
    train = yaml.safe_load(text)["train"]
    over: dict[str, tuple[Any, str]] = {}
    if aim == "speed":
        over["rank"] = (max(4, train["lora"]["rank"] // 2), "halved, for speed")
        over["alpha"] = (max(8, train["lora"]["alpha"] // 2), "kept in proportion")
        over["epochs"] = (max(1, train["epochs"] // 2), "fewer passes, for speed")
        over["micro_batch_size"] = (
            train["batch_size"],
            "all rows of a step at once; lower it if memory is short",
        )
    elif aim == "memory":
        over["micro_batch_size"] = (1, "one row at a time, for memory: the same result, slower")
    for key, (value, why) in over.items():
        text = _put(text, key, value, why)
    if aim == "memory":
        recompute = "  gradient_checkpointing: true  # half the memory, a third more time\n"
        text = text.replace("  packing: auto", f"{recompute}  packing: auto", 1)
    head = "".join(f"{key}: {yaml.safe_dump(value).splitlines()[0]}\n" for key, value in named.items())
    comments, body = text.split("train:\n", 1)
    text = f"{comments}{head}train:\n{body}"
    parse_run_file(text.encode(), preset)
    return text


def _put(text: str, key: str, value: Any, why: str) -> str:
    """The one line of `key` with another value and comment."""
    changed, count = re.subn(rf"(?m)^( +{key}: ).*$", lambda found: f"{found[1]}{value}  # {why}", text)
    assert count == 1, key
    return changed
