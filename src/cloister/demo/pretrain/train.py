"""Pre-training of the demo's base model: a small Llama on generated text, on a CPU, within given minutes.

Rows are packed densely into blocks without seeing each other. The learning rate is constant after a
warm-up and falls to nothing at the end, so a run of any length is complete. Knows nothing of fine-tuning.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cloister.demo.pretrain.corpus import Chat, chats
from cloister.demo.pretrain.tokenizer import BOS, CHAT_TEMPLATE, END, train_tokenizer
from cloister.demo.pretrain.unlearnt import chats_of, scatter, unlearnt

VOCAB_SIZE = 4096


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training. `block` is the length of a packed sequence, `batch` how many of them make a step.

    `prompt_weight` is how much a token of the prompt counts in the loss, an answer's counting 1. `compile`
    needs a C++ compiler and saves a third of the time. `only_unlearnt` leaves all as it is but the embeddings of
    tokens that the text of before never showed.
    """

    minutes: float = 50.0
    seed: int = 0
    block: int = 192
    batch: int = 24
    learning_rate: float = 3e-3
    muon_learning_rate: float = 0.02
    warmup_steps: int = 60
    decay_share: float = 0.3
    prompt_weight: float = 0.2
    save_every_s: float = 240.0
    compile: bool = True
    only_unlearnt: bool = False


@dataclass(frozen=True)
class Batch:
    """`input_ids`, `row` (which row of its block a token belongs to), `position` in it, `weight`: [batch, block]."""

    input_ids: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor
    weight: torch.Tensor


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """The untrained model, about 4 million parameters. Eager attention is what compiles best for a CPU."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        attention_bias=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM._from_config(config, attn_implementation="eager")


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the model in bf16 with its tokenizer, so that `folder` holds the old files or all the new ones."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    config = LlamaConfig.from_dict(model.config.to_dict())
    rounded = LlamaForCausalLM(config).to(torch.bfloat16)
    rounded.load_state_dict(model.state_dict())
    rounded.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    rounded.save_pretrained(part)
    tokenizer.save_pretrained(part)
    (part / "chat_template.jinja").write_text(CHAT_TEMPLATE, "utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(part.iterdir()):
        file.chmod(0o644)
        file.replace(folder / file.name)
    part.rmdir()


def encode(tokenizer: PreTrainedTokenizerFast, chat: list[dict[str, str]]) -> tuple[list[int], list[bool]]:
    """Token ids of a chat and which of them are the assistant's, as the chat template would give them."""
    backend = tokenizer.backend_tokenizer
    ids, answer = [backend.token_to_id(BOS)], [False]
    for message in chat:
        spoken = message["role"] == "assistant"
        text = backend.encode(message["content"], add_special_tokens=False).ids
        ids += [backend.token_to_id(f"<|{message['role']}|>"), *text, backend.token_to_id(END)]
        answer += [False, *([spoken] * (len(text) + 1))]
    return ids, answer


def batches(
    tokenizer: PreTrainedTokenizerFast, config: PretrainConfig, source: Iterator[Chat]
) -> Iterator[Batch]:
    """Batches without end. A block holds whole rows, best fit first, and padding that no loss counts."""
    pad = tokenizer.pad_token_id
    shape = (config.batch, config.block)
    waiting: list[tuple[list[int], list[bool]]] = []
    while True:
        input_ids = torch.full(shape, pad)
        row = torch.full(shape, -1)
        position = torch.zeros(shape, dtype=torch.long)
        weight = torch.zeros(shape)
        for line in range(config.batch):
            start = number = 0
            while True:
                if len(waiting) < 64:
                    fresh = (encode(tokenizer, chat) for chat in islice(source, 256))
                    waiting += [pair for pair in fresh if len(pair[0]) <= config.block]
                room = config.block - start
                best = next(
                    (at for at in range(len(waiting) - 1, -1, -1) if len(waiting[at][0]) <= room), None
                )
                if best is None or room < 12:
                    break
                ids, answer = waiting.pop(best)
                stop = start + len(ids)
                input_ids[line, start:stop] = torch.tensor(ids)
                row[line, start:stop] = number
                position[line, start:stop] = torch.arange(len(ids))
                spoken = torch.tensor(answer[1:], dtype=torch.float32)
                weight[line, start : stop - 1] = spoken + (1 - spoken) * config.prompt_weight
                start, number = stop, number + 1
        yield Batch(input_ids, row, position, weight)


def loss_of(model: LlamaForCausalLM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(weighted mean loss, mean loss of the answers' tokens), in nats a token."""
    block = batch.row.shape[1]
    causal = torch.ones(block, block, dtype=torch.bool).tril()
    seen = (batch.row[:, None, :, None] == batch.row[:, None, None, :]) & causal
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(
            input_ids=batch.input_ids,
            attention_mask=torch.where(seen, 0.0, -1e9).to(torch.bfloat16),
            position_ids=batch.position,
            use_cache=False,
        ).logits
    targets = batch.input_ids.roll(-1, 1).reshape(-1)
    losses = functional.cross_entropy(logits.float().reshape(-1, VOCAB_SIZE), targets, reduction="none")
    weight = batch.weight.reshape(-1)
    answers = (weight == 1).float()
    return (losses * weight).sum() / weight.sum(), (losses.detach() * answers).sum() / answers.sum()


def only_rows(model: LlamaForCausalLM, ids: torch.Tensor, config: PretrainConfig) -> torch.optim.Optimizer:
    """AdamW for these rows of the embedding; nothing else is trained any more."""
    model.requires_grad_(False)
    embedding = model.get_input_embeddings().weight.requires_grad_(True)
    chosen = torch.zeros(len(embedding), 1).index_fill_(0, ids, 1.0)
    embedding.register_hook(lambda gradient: gradient * chosen)
    return torch.optim.AdamW([embedding], lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)


def optimizers(model: LlamaForCausalLM, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(matrices, lr=config.muon_learning_rate, momentum=0.95, weight_decay=0.05),
        torch.optim.AdamW(others, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def pretrain(out: Path, config: PretrainConfig, *, resume: Path | None = None) -> dict[str, Any]:
    """Trains for `config.minutes` and leaves the model in `out`; checkpoints go there as well.

    `resume` is a folder that an earlier call saved: its weights are the start, not its optimizer's state.

    Returns:
        steps, tokens, tokens a second, and the last mean loss of the answers' tokens.
    """
    if resume is None:
        tokenizer = train_tokenizer(VOCAB_SIZE, config.seed)
        model = build_model(tokenizer, config.seed)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(resume)
        model = LlamaForCausalLM.from_pretrained(resume, dtype=torch.float32, attn_implementation="eager")
    save(model, tokenizer, out)
    model.train()
    loss_and_answers = torch.compile(loss_of) if config.compile else loss_of
    if config.only_unlearnt:
        embedding = model.get_input_embeddings().weight
        ids = unlearnt(embedding, tokenizer)
        scatter(embedding, ids, config.seed)
        chosen, source = [only_rows(model, ids, config)], chats_of(ids, tokenizer, config.seed)
    else:
        chosen, source = optimizers(model, config), chats(config.seed)
    peaks = [group["lr"] for optimizer in chosen for group in optimizer.param_groups]
    began = saved = time.monotonic()
    tokens = step = 0
    smooth = math.nan
    for step, batch in enumerate(batches(tokenizer, config, source)):
        spent = (time.monotonic() - began) / (config.minutes * 60)
        if spent >= 1:
            break
        scale = min(1.0, (step + 1) / config.warmup_steps, max(0.02, (1 - spent) / config.decay_share))
        for group, peak in zip((g for o in chosen for g in o.param_groups), peaks, strict=True):
            group["lr"] = peak * scale
        loss, answers = loss_and_answers(model, batch)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        tokens += int((batch.row >= 0).sum())
        smooth = float(answers) if math.isnan(smooth) else 0.95 * smooth + 0.05 * float(answers)
        if step % 20 == 0:
            rate = tokens / (time.monotonic() - began)
            print(
                f"step {step} loss {float(loss.detach()):.3f} answers {smooth:.3f} lr x{scale:.2f} "
                f"{tokens / 1e6:.2f}M tokens {rate:.0f}/s {spent:.0%}",
                flush=True,
            )
        if time.monotonic() - saved > config.save_every_s:
            save(model, tokenizer, out)
            saved = time.monotonic()
    save(model, tokenizer, out)
    return {
        "steps": step,
        "tokens": tokens,
        "tokens_per_s": tokens / (time.monotonic() - began),
        "answer_loss": smooth,
    }
