"""Run files: YAML that says what a run is, in the words of a `RunRequest`, each part of which may be left out.

A file with nothing but training settings at its top is one too. Knows the words, not who reads them out.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from cloister.api import Document, EvaluateConfig, LoraConfig, Name, TrainConfig
from cloister.errors import InvalidInput

MAX_BYTES = 1 << 20
MAX_DEPTH = 8


class RunFile(Document):
    """What a run file may say. `train` holds only what the file names: defaults are filled in by who starts it."""

    name: Name | None = None
    dataset: str | None = None
    base: str | None = None
    holdout: str | None = None
    from_run: str | None = None
    train: dict[str, Any] = Field(default={})
    evaluate: EvaluateConfig | None = EvaluateConfig()
    priority: int = Field(default=0, ge=-10, le=10)

    def train_config(self, **over: Any) -> TrainConfig:
        """The training settings, `over` in place of the file's; a mapping under `lora` is merged.

        Raises:
            InvalidInput: naming each setting that does not fit, and no value.
        """
        values = {**self.train, **{key: value for key, value in over.items() if key != "lora"}}
        lora = self.train.get("lora") or {}
        if isinstance(lora, dict):
            lora = {**lora, **(over.get("lora") or {})}
        if lora:
            values["lora"] = lora
        if isinstance(values.get("packing"), bool):  # how YAML reads the words on and off
            values["packing"] = "on" if values["packing"] else "off"
        size = values.get("batch_size")
        if type(size) is int and size > 0 and not values.get("micro_batch_size"):
            values["micro_batch_size"] = min(size, TrainConfig().micro_batch_size)
        try:
            return TrainConfig.model_validate(values)
        except ValidationError as error:
            raise InvalidInput(_told(error)) from None


def read_run_file(path: Path) -> RunFile:
    """The run file at `path`. Errors: InvalidInput, naming the file, the line or the setting."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from None
    return parse_run_file(data, str(path))


def parse_run_file(data: bytes, where: str) -> RunFile:
    """A run file's bytes. Errors: InvalidInput; values are never repeated."""
    values = parse_mapping(data, where)
    known = set(RunFile.model_fields)
    if not known & values.keys():
        values = {"train": values}
    values["train"] = {} if values.get("train") is None else values["train"]
    try:
        found = RunFile.model_validate(values)
        found.train_config()
    except ValidationError as error:
        raise InvalidInput(_told(error), where=where) from None
    except InvalidInput as error:
        error.where = where
        raise
    return found


def parse_mapping(data: bytes, where: str) -> dict[str, Any]:
    """YAML whose top is a mapping with text for keys. Errors: InvalidInput, with the line where there is one."""
    if len(data) > MAX_BYTES:
        raise InvalidInput(f"is larger than {MAX_BYTES} bytes", where=where, remedy="Is this the right file?")
    try:
        _refuse_repeats(yaml.compose(text := data.decode(), yaml.SafeLoader), where)
        values = yaml.safe_load(text)
    except UnicodeDecodeError:
        raise InvalidInput("is not UTF-8 text", where=where) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        raise InvalidInput("is not valid YAML", where=f"{where}:{mark.line + 1}" if mark else where) from None
    if not _is_mapping(values, MAX_DEPTH):
        raise InvalidInput("is not a mapping of settings", where=where)
    return dict(values)


def _refuse_repeats(top: yaml.Node | None, where: str) -> None:
    """Raises InvalidInput where a mapping has one key twice: YAML takes the last one and says nothing."""
    waiting, known = [top] if top else [], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in known:
            continue  # named once and meant again
        known.add(id(node))
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                    if key.value in seen:
                        line = key.start_mark.line + 1
                        raise InvalidInput(
                            "says a setting a second time",
                            where=f"{where}:{line}",
                            remedy="Keep one of them.",
                        )
                    seen.add(key.value)
                waiting.append(value)
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _is_mapping(values: object, depth: int) -> bool:
    """Whether it is a mapping with text for keys, and every mapping in it too."""
    if not isinstance(values, dict) or not depth or not all(isinstance(key, str) for key in values):
        return False
    return all(_is_mapping(value, depth - 1) for value in values.values() if isinstance(value, dict))


def _told(error: ValidationError) -> str:
    return "; ".join(_fault(item) for item in error.errors(include_input=False, include_url=False))


def _fault(item: ErrorDetails) -> str:
    where = ".".join(map(str, item["loc"]))
    if item["type"] != "extra_forbidden":
        return ": ".join(filter(None, (where, item["msg"].removeprefix("Value error, "))))
    known = [name for name in (*RunFile.model_fields, *TrainConfig.model_fields) if name != "lora"]
    near = get_close_matches(where, [*known, *(f"lora.{name}" for name in LoraConfig.model_fields)], n=1)
    return f"{where}: there is no such setting" + (f"; is {near[0]} meant?" if near else "")
