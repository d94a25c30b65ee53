"""A real model small enough for a quick test: two Llama layers, a byte-level tokenizer, a chat template."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cloister.api import LoraConfig, TrainConfig
from cloister.datasets.rows import Message, Row
from cloister.models.adapter import add_adapter
from cloister.training.optimizer import AdapterOptimizer, load_optimizer, optimizer_state
from cloister.training.outcome import TrainOutcome
from cloister.training.recipe import train
from cloister.training.rows import RowSource

torch.set_num_threads(1)  # over matrices this small a second thread only waits

SPECIAL = ["<pad>", "<s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}<|assistant|>{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}"
    "{% else %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

WORDS = ["elm", "birch", "cedar", "walnut", "ash", "fjord", "river", "heron"]


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, and six special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(SPECIAL + alphabet)}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(SPECIAL)
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="<|end|>", pad_token="<pad>"
    )
    made.chat_template = TEMPLATE
    return made


def model(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> LlamaForCausalLM:
    """Random weights, frozen, the same for the same seed."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "vocab_size": len(SPECIAL) + 256,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,  # so that the frozen random layers tell tokens apart and LoRA can learn
        "bos_token_id": 1,
        "eos_token_id": 5,
        "pad_token_id": 0,
    }
    made = LlamaForCausalLM(LlamaConfig(**(shape | changes))).to(dtype)
    return made.requires_grad_(False).eval()


def rows(count: int, seed: int = 0, labelled: bool = False) -> list[Row]:
    """Questions with one-word answers, of different lengths."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        words = draw.choices(WORDS, k=draw.randint(1, 5))
        answer = (
            words[-1] if not labelled else ("tree" if words[0] in ("birch", "cedar", "walnut") else "other")
        )
        asked = Message("user", "last of " + " ".join(words))
        made.append(Row((asked, Message("assistant", answer)), answer if labelled else None))
    return made


def save_base(folder: Path, made: LlamaForCausalLM | None = None) -> Path:
    """A model folder as someone would bring it along."""
    (made or model(dtype=torch.bfloat16)).save_pretrained(folder, safe_serialization=True)
    tokenizer().save_pretrained(folder)
    return folder


def lines(made: Sequence[Row]) -> bytes:
    """Rows as JSON lines in chat form."""
    import json

    return b"".join(
        json.dumps({"messages": [{"role": m.role, "content": m.content} for m in row.messages]}).encode()
        + b"\n"
        for row in made
    )


LORA = LoraConfig(rank=4, alpha=8)


def config(**changes: Any) -> TrainConfig:
    """Twelve steps in two epochs over 48 rows."""
    values: dict[str, Any] = {
        "lora": LORA,
        "epochs": 2,
        "batch_size": 8,
        "micro_batch_size": 8,
        "learning_rate": 5e-3,
        "max_length": 128,
    }
    return TrainConfig(**(values | changes))


def adapted(
    seed: int = 0, dtype: torch.dtype = torch.float32, lora: LoraConfig = LORA, **changes: Any
) -> Any:
    """The tiny model with a fresh adapter."""
    made = model(seed, dtype, **changes)
    torch.manual_seed(seed + 1)
    return add_adapter(made, lora)


def fine_tune(
    settings: TrainConfig | None = None,
    *,
    made: Any = None,
    data: Any = None,
    holdout: int = 16,
    **more: Any,
) -> TrainOutcome:
    """A run over 48 of the rows; `holdout` more of them are measured on, 0 for none."""
    data = rows(64) if data is None else data
    held = RowSource(data, range(48, 48 + holdout)) if holdout else None
    return train(
        adapted() if made is None else made,
        tokenizer(),
        RowSource(data, range(48)),
        settings or config(),
        holdout=held,
        **more,
    )


def same_adapter(one: Any, other: Any) -> bool:
    """Whether two adapters are the same to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def step_optimizer(optimizer: AdapterOptimizer, own: Sequence[torch.nn.Parameter], seed: int) -> None:
    """A step by a seeded gradient."""
    torch.manual_seed(seed)
    optimizer.clear()
    for parameter in own:
        parameter.grad = torch.randn_like(parameter)
    optimizer.gradients()
    optimizer.step(0.01)


def hand_over(
    first: AdapterOptimizer,
    one: Sequence[torch.nn.Parameter],
    second: AdapterOptimizer,
    other: Sequence[torch.nn.Parameter],
) -> dict[str, torch.Tensor]:
    """Takes three steps with `first`, gives its state and parameters to `second` by way of tensors and JSON, and takes
    one more with each. The state's tensors."""
    for seed in range(3):
        step_optimizer(first, one, seed)
    tensors, document = optimizer_state(first)
    copied = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
    load_optimizer(second, copied, json.loads(json.dumps(document)))
    with torch.no_grad():
        for a, b in zip(one, other, strict=True):
            b.copy_(a)
    for optimizer, own in ((first, one), (second, other)):
        step_optimizer(optimizer, own, 9)
    return tensors
