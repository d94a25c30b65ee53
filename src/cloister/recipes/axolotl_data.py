"""What stands inside a recipe's `datasets:`, for Axolotl: what of it a run says here, and why the rest is left out.

Source of the keys: `src/axolotl/utils/schemas/datasets.py` of axolotl-ai-cloud/axolotl. Knows both vocabularies; it
reads no data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TEMPLATES = {"llama3": "llama3", "qwen3": "qwen3", "chatml": "chatml", "tokenizer_default": "model"}
"""Axolotl's names of chat templates, and ours."""

_TAKEN_AS_THEY_ARE = frozenset({"alpaca", "sharegpt", "chat_template", "completion", "pretrain"})
"""Formats that rows are in; every other one makes rows of others."""

_FOUND_OUT = frozenset({"path", "data_files", "ds_type", "name", "revision", "preprocess_shards"})
"""Where it lies and how it is read: an import reads the files that it is given, and recognises them by content."""

_SAME = {"roles_to_train": ["assistant"], "train_on_eos": "turn", "train_on_eot": "turn", "shards": 1}
"""What is so here without being said."""

_COLUMNS = "columns are named at the import: `--messages`, `--input`, `--output`, `--text`, or `--map FILE`"
_LEARNT = (
    "what is learnt of a row is `loss_on`: every turn of the assistant with its end, only the last, or all"
)
_SHARE = (
    "all rows of a file are taken: `max_rows` in the run file, or `cloister dataset derive --sample 5000`"
)
_THOUGHT = "a thought is learnt where it is part of an answer, and as the template writes it"
_KEYS = {
    "split": "files are imported, not splits of a hub's data set: name the file of that split",
    "shards": _SHARE,
    "shards_idx": _SHARE,
    "skip": _SHARE,
    "roles_to_train": _LEARNT,
    "train_on_eos": _LEARNT,
    "train_on_eot": _LEARNT,
    "message_field_training": _LEARNT,
    "message_field_training_detail": _LEARNT,
    "field_thinking": _THOUGHT,
    "template_thinking_key": _THOUGHT,
    "split_thinking": _THOUGHT,
    "drop_system_message": "system turns stay; leave them out of the file",
    "chat_template_jinja": "a template of one's own is not taken; the base model's is",
    "trust_remote_code": "code that comes with data is never run",
    "conversation": "templates are a run's: `template` in the run file",
}


def entries_of(value: Any) -> list[Any]:
    """The recipe's data sets, one by one."""
    return value if isinstance(value, list) else [value]


def template_of(value: Any) -> str | None:
    """Our name of the chat template that all entries name, where they name one and the same that we have."""
    named = [entry.get("chat_template") for entry in entries_of(value) if isinstance(entry, Mapping)]
    same = named[0] if named and all(one == named[0] for one in named) else None
    return TEMPLATES.get(same) if isinstance(same, str) else None


def left_out(value: Any, *, template: bool) -> Iterator[tuple[str, str]]:
    """The keys of each entry that are not carried over, and why. `template`: the run says the template already."""
    for number, entry in enumerate(entries_of(value), 1):
        if not isinstance(entry, Mapping):
            continue
        whys: dict[str, list[str]] = {}
        for key, said in entry.items():
            why = _why(str(key), said, template=template)
            if why is not None:
                whys.setdefault(why, []).append(str(key))
        for why, keys in whys.items():
            yield f"datasets {number}: {', '.join(keys)}", why


def _why(key: str, value: Any, *, template: bool) -> str | None:
    if value in (None, False, [], {}) or key in _FOUND_OUT or (key in _SAME and value == _SAME[key]):
        return None
    if key == "type":
        return _why_type(value)
    if key == "chat_template":
        return (
            None
            if template
            else "one that is not shipped, or not the same for all; the base model's own is taken"
        )
    if key in _KEYS:
        return _KEYS[key]
    named = key.startswith(("field", "message_")) or key in ("text_column", "roles", "input_format")
    return _COLUMNS if named else "not known here"


def _why_type(value: Any) -> str | None:
    if isinstance(value, Mapping):
        return f"{_COLUMNS}; prompts are written by the chat template"
    if str(value) in _TAKEN_AS_THEY_ARE:
        return None
    return "rows are taken as they are: one that is made of others has to be made before the import"
