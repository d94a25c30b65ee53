"""Run files, presets and translated recipes: each fits what the authority takes, and bad ones are named."""

from __future__ import annotations

import contextlib
import re

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.api import RunRequest, TrainConfig
from cloister.errors import InvalidInput, NotFound
from cloister.recipes import PRESETS, parse_run_file, preset_text, run_file_text
from cloister.recipes.axolotl import translate
from cloister.training.optimizer import AdapterOptimizer

RECIPE = """
base_model: some/model-8B
load_in_4bit: true
adapter: qlora
datasets:
  - path: claims.jsonl
    type: alpaca
val_set_size: 0.1
sequence_len: 2048
sample_packing: true
lora_r: 8
lora_alpha: 32
lora_target_linear: true
peft_use_rslora: true
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 2
max_steps: 200
warmup_steps: 20
optimizer: adamw_bnb_8bit
lr_scheduler: linear
learning_rate: 1e-4
train_on_inputs: true
chat_template: llama3
early_stopping_patience: 3
eval_steps: 50
save_steps: 0.1
neftune_noise_alpha: 5
wandb_project:
flash_attention: true
a_key_of_tomorrow: 1
"""


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("aim", ["quality", "speed", "memory"])
def test_every_preset_is_a_run_that_can_be_started(name: str, aim: str) -> None:
    text = run_file_text(name, aim, name="a", dataset="b", base="c")  # type: ignore[arg-type]
    file = parse_run_file(text.encode(), "run.yaml")
    train = file.train_config()
    RunRequest.model_validate({**file.model_dump(exclude={"train"}), "train": train})
    assert train.batch_size % train.micro_batch_size == 0
    plain = parse_run_file(preset_text(name).encode(), "preset").train_config()
    if aim == "quality":
        assert train == plain
    if aim == "speed":
        assert train.epochs <= plain.epochs and train.lora.rank < plain.lora.rank
        assert train.lora.alpha / train.lora.rank == plain.lora.alpha / plain.lora.rank
    if aim == "memory":
        assert train.micro_batch_size == 1 and train.gradient_checkpointing is True


def test_what_stands_inside_a_recipes_datasets_is_not_dropped_unseen() -> None:
    text = "base_model: m\nadapter: lora\npretraining_dataset:\n"
    text += "  - {path: a, type: completion, text_column: body, split: train}"
    found = translate(text.encode(), "x")
    assert found.train == {"epochs": 1.0, "method": "lora", "loss_on": "all"}
    assert [key for key, _ in found.left] == ["datasets 1: text_column", "datasets 1: split"]
    assert "`--text`" in found.left[0][1] and "split" in found.left[1][1]


def test_of_a_recipes_rows_what_would_be_another_training_is_told_with_its_reason() -> None:
    text = """
base_model: m
adapter: lora
chat_template: gemma
datasets:
  - path: a
    type: chat_template
    chat_template: llama3
    roles_to_train: [assistant]
    train_on_eos: turn
    shards: 10
    message_field_training: weight
    field_messages: log
  - path: b
    type: {field_instruction: q, field_output: a, format: "Q {instruction}"}
    chat_template: llama3
    train_on_eos: none
  - {path: c, type: alpaca_w_system.load, chat_template: llama3, key_of_tomorrow: 1}
"""
    found = translate(text.encode(), "x")
    assert found.train == {"epochs": 1.0, "method": "lora", "template": "llama3"}, (
        "its rows' own template counts"
    )
    left = dict(found.left)
    assert list(left) == [
        "datasets 1: shards",
        "datasets 1: message_field_training",
        "datasets 1: field_messages",
        "datasets 2: type",
        "datasets 2: train_on_eos",
        "datasets 3: type",
        "datasets 3: key_of_tomorrow",
    ]
    assert "`max_rows`" in left["datasets 1: shards"] and "`loss_on`" in left["datasets 2: train_on_eos"]
    assert "prompts are written by the chat template" in left["datasets 2: type"]
    found.text(name="a")
    two = "base_model: m\nadapter: lora\ndatasets: [{path: a, chat_template: llama3}, {path: b, chat_template: qwen3}]"
    told = translate(two.encode(), "x")
    assert "template" not in told.train and len(told.left) == 2


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_states_its_trade_offs(name: str) -> None:
    text = preset_text(name)
    assert text.startswith("# ") and len(re.findall(r"(?m)  # ", text)) >= 3
    assert set(yaml.safe_load(text)["train"]) <= set(TrainConfig.model_fields)


def test_an_unknown_preset_names_those_that_are() -> None:
    with pytest.raises(NotFound) as caught:
        preset_text("../instruction")
    assert "instruction" in str(caught.value.remedy)


def test_a_recipe_is_translated_and_what_is_left_is_told() -> None:
    found = translate(RECIPE.encode(), "axolotl.yaml")
    train = parse_run_file(found.text(name="a").encode(), "t").train_config()
    assert train == TrainConfig.model_validate(
        {
            "method": "qlora",
            "lora": {"rank": 8, "alpha": 32.0, "rslora": True},
            "max_length": 2048,
            "packing": "auto",
            "batch_size": 8,
            "micro_batch_size": 2,
            "epochs": 2,
            "max_steps": 200,
            "warmup_ratio": 0.1,
            "optimizer": "auto",
            "lr_scheduler": "linear",
            "learning_rate": 1e-4,
            "loss_on": "all",
            "template": "llama3",
            "patience": 3,
            "eval_every": 50,
            "checkpoint_every": 20,
        }
    )
    assert {key for key, _ in found.left} == {
        "neftune_noise_alpha",
        "a_key_of_tomorrow",
        "sample_packing",
    }
    assert found.dropped == ["flash_attention"]
    assert "--holdout 0.1" in " ".join(found.next_steps)


@pytest.mark.parametrize("optimizer", ["paged_adamw_8bit", "adamw_bnb_8bit", "adamw_8bit"])
def test_an_optimizer_in_8_bits_can_be_started_with_and_without_a_gpu(optimizer: str) -> None:
    found = translate(f"base_model: m\nadapter: qlora\noptimizer: {optimizer}".encode(), "a.yaml")
    train = parse_run_file(found.text(name="a").encode(), "t").train_config()
    parameter = [torch.nn.Parameter(torch.zeros(2))]
    AdapterOptimizer(parameter, train, torch.device("cpu"))
    assert "optimizer" not in {key for key, _ in found.left}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lora_r: 8", "base_model"),
        ("base_model: m\nrl: dpo", "preference training"),
        ("base_model: m\nreward_model: true", "reward model"),
        ("base_model: m\nlora_r: [1]", "`lora_r`"),
        ("base_model: m\nlora_r: many", "`lora_r`"),
        ("base_model: m\nlora_r: 0", "lora.rank"),
        ("base_model: m\nnum_epochs: .inf", "epochs"),
        ("base_model: m\nnum_epochs: true", "`num_epochs`"),
        ("- base_model", "not a mapping"),
        ("base_model: [", "not valid YAML"),
        ("!!python/object/apply:os.system [id]", "not valid YAML"),
    ],
)
def test_what_is_no_recipe_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        translate(text.encode(), "axolotl.yaml")
    assert said in caught.value.message and "axolotl.yaml" in str(caught.value.where)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xfe", "UTF-8"),
        (b"train: {rank: SECRET}", "rank"),
        (b"train: {lora: {rank: SECRET}}", "lora.rank"),
        (b"name: 'SECRET NAME'", "name"),
        (b"dataset: d\nnonsense: SECRET", "nonsense"),
        (b"train: SECRET", "train"),
        (b"1: 2", "mapping"),
        (b"train: {seed: 9007199254740992}", "seed"),
        (b"train: {max_grad_norm: .inf}", "max_grad_norm"),
        (b"train: {batch_size: 99999999999999999999}", "batch_size"),
        (b"a: &a [*a]", "a"),
        (b"x" * (1 << 20) + b"x", "larger"),
        (b"[" * 5000, "not valid YAML"),
        (b"train: {seed: 1, seed: 2}", "second time"),
        (b"name: a\ntrain:\n  lora: {rank: 4}\nname: SECRET", "second time"),
        (b"train: &a {seed: 1}\nevaluate: *a\n'train': 2", "second time"),
    ],
)
def test_what_is_no_run_file_is_refused_without_a_value(data: bytes, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_run_file(data, "run.yaml")
    assert said in caught.value.message and "SECRET" not in caught.value.message
    assert "run.yaml" in str(caught.value.where)


def test_on_and_off_are_words_of_packing_and_not_yamls_truth() -> None:
    for word in ("on", "off", "auto"):
        assert parse_run_file(f"train: {{packing: {word}}}".encode(), "s").train_config().packing == word
        assert parse_run_file(b"{}", "s").train_config(packing=yaml.safe_load(word)).packing == word


@pytest.mark.parametrize(
    ("written", "meant"),
    [("lora_r: 8", "lora.rank"), ("num_epochs: 2", "epochs"), ("max_seq_length: 9", "max_length")],
)
def test_a_setting_of_another_tool_is_told_with_ours(written: str, meant: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_run_file(f"train: {{{written}}}".encode(), "run.yaml")
    assert caught.value.message == f"{written.partition(':')[0]}: there is no such setting; is {meant} meant?"
    with pytest.raises(InvalidInput, match=r"xyzzy: there is no such setting$"):
        parse_run_file(b"train: {xyzzy: 1}", "run.yaml")


def test_settings_alone_are_a_run_file_too() -> None:
    assert parse_run_file(b"epochs: 2\nlora: {rank: 4}", "s").train_config(lora={"alpha": 8}).lora.alpha == 8
    assert parse_run_file(b"batch_size: 2", "s").train_config().micro_batch_size == 2


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=12,
    )
)
def test_anything_is_refused_or_read(value: object) -> None:
    data = yaml.safe_dump(
        {"base_model": "m", "lora_r": value, "datasets": value, "special_tokens": value}
    ).encode()
    for read in (parse_run_file, translate):
        with contextlib.suppress(InvalidInput):
            read(data, "x")


@pytest.mark.parametrize(
    ("text", "train"),
    [
        ("micro_batch_size: 4\nbatch_size: 64", {"micro_batch_size": 4, "batch_size": 64}),
        ("gradient_accumulation_steps: 8\nbatch_size: 64", {"micro_batch_size": 8, "batch_size": 64}),
        ("gradient_accumulation_steps: 8\nmicro_batch_size: 2", {"micro_batch_size": 2, "batch_size": 16}),
        ("micro_batch_size: 4", {"micro_batch_size": 4, "batch_size": 4}),
        ("lr_scheduler: constant\nwarmup_ratio: 0.1", {"lr_scheduler": "constant", "warmup_ratio": 0.0}),
        (
            "warmup_ratio: 0.1\nlr_scheduler: constant_with_warmup",
            {"lr_scheduler": "constant", "warmup_ratio": 0.1},
        ),
        ("num_epochs: 4", {"epochs": 4.0}),
        ("max_grad_norm: 0.3", {"max_grad_norm": 0.3}),
        (
            "num_epochs: 3\nevals_per_epoch: 4\nsaves_per_epoch: 2",
            {"epochs": 3.0, "evals_per_epoch": 4, "checkpoints_per_epoch": 2},
        ),
        ("evals_per_epoch: 1\nsaves_per_epoch: 1", {}),
        (
            "num_epochs: 4\neval_steps: 0.05\nsave_steps: 0.5",
            {"epochs": 4.0, "evals_per_epoch": 5, "checkpoints_per_epoch": 0.5},
        ),
        (
            "num_epochs: 2\nmax_steps: 90\nevals_per_epoch: 4\nsave_steps: 0.2",
            {"epochs": 2.0, "max_steps": 90, "eval_every": 12, "checkpoint_every": 18},
        ),
    ],
)
def test_what_a_recipe_says_is_what_axolotl_makes_of_it(text: str, train: dict[str, object]) -> None:
    found = translate(f"base_model: m\nadapter: lora\n{text}".encode(), "x")
    assert found.train == {"epochs": 1.0, "method": "lora", **train} and not found.left


def test_how_often_something_is_done_is_told_where_it_is_not_carried_over() -> None:
    found = translate(b"base_model: m\nadapter: lora\nevals_per_epoch: 0\nsave_steps: 1.5", "x")
    assert found.train == {"epochs": 1.0, "method": "lora"}
    assert [key for key, _ in found.left] == ["evals_per_epoch", "save_steps"]
    with pytest.raises(InvalidInput) as caught:
        parse_run_file(b"train: {eval_every: 10, evals_per_epoch: 2}", "run.yaml")
    assert caught.value.message.startswith("eval_every or evals_per_epoch, not both")


def test_what_would_silently_become_another_training_is_told() -> None:
    """All weights trained, packed sequences counted, gradients unclipped, a batch of each GPU."""
    text = "base_model: m\nadapter:\nsample_packing: true\nmax_grad_norm: 0\ndeepspeed: zero1.json"
    left = dict(translate(text.encode(), "x").left)
    assert list(left) == ["adapter", "sample_packing", "max_grad_norm", "deepspeed"]
    assert "all weights" in left["adapter"] and "counts rows here" in left["sample_packing"]
    assert "each GPU" in left["deepspeed"]
