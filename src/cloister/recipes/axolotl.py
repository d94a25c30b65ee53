"""A recipe for Axolotl as a run file, and what could not be carried over, each with the reason.

Source of the keys: the configuration schema of axolotl-ai-cloud/axolotl (`src/axolotl/utils/schemas`). Knows both
vocabularies; it reads no data and fetches no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from cloister.errors import InvalidInput
from cloister.recipes import axolotl_data, axolotl_words
from cloister.recipes.run_file import parse_mapping, parse_run_file


@dataclass
class Translation:
    """`train` in Cloister's words; `left`: key of the recipe and why it was not carried over; `next_steps`: what
    the recipe did itself and is a command here; `dropped`: keys that mean nothing here."""

    train: dict[str, Any] = field(default_factory=dict)
    left: list[tuple[str, str]] = field(default_factory=list)
    next_steps: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def text(self, **named: str) -> str:
        """The run file, with what was left out as comments at its head."""
        lines = ["# Translated from a recipe for Axolotl."]
        if self.left:
            lines.append("# Not carried over:")
            lines += [f"#   {_printable(key)}: {why}" for key, why in self.left]
        body = yaml.safe_dump({**named, "train": self.train}, sort_keys=False, allow_unicode=True)
        text = "\n".join(lines) + "\n" + body
        parse_run_file(text.encode(), "translation")
        return text


def translate(data: bytes, where: str) -> Translation:
    """Translate a recipe.

    Raises:
        InvalidInput: it is no YAML mapping, or no recipe of Axolotl, or one for something other than supervised
            fine-tuning; a value does not fit its key.
    """
    recipe = {key: value for key, value in parse_mapping(data, where).items() if value is not None}
    if "base_model" not in recipe:
        raise InvalidInput("has no `base_model`: is it a recipe for Axolotl?", where=where)
    for key, what in axolotl_words.OF_OTHERS.items():
        if recipe.get(key):
            raise InvalidInput(
                what, where=f"{where}: {key}", remedy="Cloister trains language models on examples only."
            )
    found = Translation(train={"epochs": 1.0})  # what Axolotl takes where nothing is said
    found.next_steps.append("Import the base model: `cloister base import FOLDER --name BASE`.")
    if "adapter" not in recipe:
        found.left.append(
            ("adapter", "none, so all weights would be trained; a LoRA adapter is trained instead")
        )
    for key, value in recipe.items():
        rule = _RULES.get(key)
        if rule is not None:
            try:
                rule(found, value, recipe)
            except (TypeError, ValueError, OverflowError):
                raise InvalidInput(f"`{_printable(key)}` has a value of another kind", where=where) from None
        elif key in axolotl_words.MEANINGLESS or key.startswith(axolotl_words.MEANINGLESS_BEGINNINGS):
            found.dropped.append(key)
        else:
            found.left.append((key, "not known here"))
    try:
        parse_run_file(yaml.safe_dump({"train": found.train}).encode(), where)
    except InvalidInput as error:
        error.where = where
        raise
    return found


_Rule = Callable[[Translation, Any, dict[str, Any]], None]


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text[:80])


def _number(name: str, kind: Callable[[Any], Any] = float) -> _Rule:
    def rule(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
        if isinstance(value, bool):
            raise TypeError
        found.train[name] = kind(value)

    return rule


def _lora(name: str, kind: Callable[[Any], Any]) -> _Rule:
    def rule(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
        found.train.setdefault("lora", {})[name] = kind(value)

    return rule


def _why(reason: str, *, but: tuple[Any, ...] = (False,)) -> _Rule:
    """Left out for `reason`, unless the value is one of those that change nothing."""

    def rule(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
        if value not in but and value not in ([], {}):
            found.left.append((_key_of(rule), reason))

    return rule


def _key_of(rule: _Rule) -> str:
    return next(key for key, known in _RULES.items() if known is rule)


def _adapter(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    if value in ("qlora", "lora"):
        found.train["method"] = "qlora" if value == "qlora" or recipe.get("load_in_4bit") is True else "lora"
    else:
        found.left.append(("adapter", "only qlora and lora; a LoRA adapter is trained instead"))


def _in_8bit(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    if value:
        found.left.append(("load_in_8bit", "the base is kept in 4 bits (qlora) or 16 (lora)"))


def _batch(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    """Two of the three say the third; Axolotl's are of each GPU."""
    micro, steps, whole = (
        int(recipe.get(key) or 0) for key in ("micro_batch_size", "gradient_accumulation_steps", "batch_size")
    )
    micro = micro or (max(1, whole // steps) if whole and steps else 1)
    whole = micro * steps if steps else whole or micro
    found.train["micro_batch_size"], found.train["batch_size"] = min(micro, whole), whole


def _every(name: str, per_epoch: str) -> _Rule:
    """So many steps; a share of all of them, which an epoch has so often, or which `max_steps` says in steps."""

    def rule(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
        number = float(value)
        if number >= 1 and number.is_integer():
            found.train[name] = int(number)
        elif 0 < number < 1:
            _spread(found, name, per_epoch, 1 / number, recipe)
        elif value is not False:
            found.left.append((_key_of(rule), "neither a number of steps nor a share of all of them"))

    return rule


def _often(name: str, per_epoch: str) -> _Rule:
    def rule(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
        if float(value) > 0:
            _spread(found, name, per_epoch, float(value) * float(recipe.get("num_epochs") or 1), recipe)
        else:
            found.left.append(
                (_key_of(rule), f"once an epoch, or `{name}` so many steps: never is not to be had")
            )

    return rule


def _spread(found: Translation, name: str, per_epoch: str, times: float, recipe: dict[str, Any]) -> None:
    """So many times in the whole run, which is how Axolotl counts what comes several times an epoch, too."""
    if recipe.get("max_steps"):
        found.train[name] = max(1, math.ceil(int(recipe["max_steps"]) / times - 1e-9))
        return
    share = round(times / float(recipe.get("num_epochs") or 1), 9)
    if share != 1:
        found.train[per_epoch] = int(share) if share.is_integer() else share


def _clip(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    if float(value) > 0:
        found.train["max_grad_norm"] = float(value)
    else:
        found.left.append(("max_grad_norm", "gradients are always clipped, at 1 where nothing is said"))


def _warmup(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    if recipe.get("lr_scheduler") != "constant":  # which knows none
        found.train["warmup_ratio"] = float(value)


def _scheduler(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    known = {
        "cosine": "cosine",
        "linear": "linear",
        "constant": "constant",
        "constant_with_warmup": "constant",
    }
    if value in known:
        found.train["lr_scheduler"] = known[value]
        if value == "constant":
            found.train["warmup_ratio"] = 0.0
    else:
        found.left.append(("lr_scheduler", "only cosine, linear and constant; cosine is taken"))


def _warmup_steps(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    total = recipe.get("max_steps")
    if recipe.get("lr_scheduler") == "constant":
        return
    if total:
        found.train["warmup_ratio"] = min(0.99, int(value) / int(total))
    elif value:
        found.left.append(
            ("warmup_steps", "here a share of all steps: `warmup_ratio`, 0.05 where nothing is said")
        )


def _optimizer(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    if value in ("paged_adamw_8bit", "adamw_bnb_8bit", "adamw_8bit"):
        found.train["optimizer"] = "auto"  # the same on a GPU, and where there is none it can be started too
    elif str(value).startswith(("adamw_torch", "adamw_hf", "adamw_apex_fused")):
        found.train["optimizer"] = "adamw"
    else:
        found.left.append(("optimizer", "AdamW, with paged 8-bit states on a GPU, is taken"))


def _checkpointing(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    if isinstance(value, bool):
        found.train["gradient_checkpointing"] = value
    else:
        found.train["gradient_checkpointing"] = True
        found.left.append(("gradient_checkpointing", "activations are recomputed, not moved elsewhere"))


def _packing(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    found.train["packing"] = "auto" if value else "off"
    if value:
        found.left.append(
            (
                "sample_packing",
                "`micro_batch_size` counted packed sequences there, and counts rows here: for steps as large raise "
                "`batch_size` by the rows that a sequence held",
            )
        )


def _on_inputs(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    found.train["loss_on"] = "all" if value else "assistant"


def _template(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    if axolotl_data.template_of(recipe.get("datasets")) is not None:
        return  # what the rows' own entries say counts
    if value in axolotl_data.TEMPLATES:
        found.train["template"] = axolotl_data.TEMPLATES[value]
    else:
        found.left.append(("chat_template", "not shipped; the base model's own template is taken"))


def _datasets(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    entries, template = axolotl_data.entries_of(value), axolotl_data.template_of(value)
    if template is not None:
        found.train["template"] = template
    found.left += axolotl_data.left_out(value, template=template is not None)
    many = f" ({len(entries)}, then merge them: `cloister dataset derive`)" if len(entries) > 1 else ""
    share = recipe.get("val_set_size")
    holdout = f" --holdout {float(share)}" if share and 0 < float(share) <= 0.5 else ""
    found.next_steps.append(
        f"Import the dataset{many}: `cloister dataset import FILE --name DATASET{holdout}`."
    )


def _pretraining(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    found.train["loss_on"] = "all"
    _datasets(found, value, recipe)


def _val_size(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    if float(value) > 0.5:
        found.left.append(("val_set_size", "the hold-out is a share of at most 0.5, given at the import"))


def _targets(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    names = {str(name).rsplit(".", 1)[-1] for name in (value if isinstance(value, list) else [value])}
    every = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    if not names >= every and names != {"all-linear"}:
        found.left.append(("lora_target_modules", "the adapter is on every linear layer"))


def _overlong(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    if value != "raise":
        found.left.append(
            ("excess_length_strategy", "a longer row refuses the run: nothing is cut or dropped unseen")
        )


def _tokens(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    extra = value if isinstance(value, list) else [key for key in value if key != "pad_token"]
    if extra:
        found.left.append(("special_tokens", "the tokenizer stays as it is: no token is added or renamed"))


def _nothing(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    """Read together with another key, or always so here."""


def _fp16(found: Translation, value: Any, recipe: dict[str, Any]) -> None:
    if value:
        found.left.append(("fp16", "computed in bfloat16"))


_RULES: dict[str, _Rule] = {
    **{key: _why(reason) for key, reason in axolotl_words.LEFT_OUT.items()},
    "base_model": _nothing,
    "adapter": _adapter,
    "load_in_4bit": _nothing,
    "load_in_8bit": _in_8bit,
    "lora_r": _lora("rank", int),
    "lora_alpha": _lora("alpha", float),
    "lora_dropout": _lora("dropout", float),
    "peft_use_rslora": _lora("rslora", bool),
    "peft_use_dora": _lora("dora", bool),
    "lora_target_modules": _targets,
    "lora_target_linear": _nothing,
    "num_epochs": _number("epochs"),
    "max_steps": _number("max_steps", int),
    "micro_batch_size": _batch,
    "gradient_accumulation_steps": _batch,
    "batch_size": _batch,
    "learning_rate": _number("learning_rate"),
    "lr_scheduler": _scheduler,
    "warmup_ratio": _warmup,
    "warmup_steps": _warmup_steps,
    "weight_decay": _number("weight_decay"),
    "max_grad_norm": _clip,
    "optimizer": _optimizer,
    "sequence_len": _number("max_length", int),
    "excess_length_strategy": _overlong,
    "sample_packing": _packing,
    "gradient_checkpointing": _checkpointing,
    "seed": _number("seed", int),
    "eval_steps": _every("eval_every", "evals_per_epoch"),
    "evals_per_epoch": _often("eval_every", "evals_per_epoch"),
    "save_steps": _every("checkpoint_every", "checkpoints_per_epoch"),
    "saves_per_epoch": _often("checkpoint_every", "checkpoints_per_epoch"),
    "early_stopping_patience": _number("patience", int),
    "train_on_inputs": _on_inputs,
    "chat_template": _template,
    "datasets": _datasets,
    "pretraining_dataset": _pretraining,
    "val_set_size": _val_size,
    "special_tokens": _tokens,
    "tokens": _tokens,
    "fp16": _fp16,
    "bf16": _nothing,
}
