"""Many prompts at once give what each gives alone, and what transformers' own greedy search gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tiny
from cloister.datasets.render import prompt_ids_all
from cloister.errors import Interrupted
from cloister.evaluation.generate import decode, greedy, stop_ids, texts
from cloister.evaluation.metrics import spoken, thinks_on
from cloister.training.fused import fuse


@pytest.fixture(scope="module")
def model() -> Any:
    """Fine-tuned a little, so that rows end at different times."""
    made = tiny.adapted()
    tiny.fine_tune(tiny.config(epochs=25, learning_rate=2e-2), made=made)
    return made.eval()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return prompt_ids_all(tiny.rows(40, seed=9), tiny.tokenizer())


def test_batched_equals_one_by_one(model: Any, prompts: list[list[int]]) -> None:
    tokenizer = tiny.tokenizer()
    assert len({len(prompt) for prompt in prompts}) > 5
    alone = [greedy(model, tokenizer, [prompt], 12, 1)[0] for prompt in prompts]
    assert len({len(answer) for answer in alone}) > 1
    for size in (3, 16, 64):
        assert greedy(model, tokenizer, prompts, 12, size) == alone


def test_equals_transformers_own_search(model: Any, prompts: list[list[int]]) -> None:
    tokenizer = tiny.tokenizer()
    mine = greedy(model, tokenizer, prompts[:8], 12, 8)
    for prompt, answer in zip(prompts[:8], mine, strict=True):
        theirs = model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=5
        )
        assert theirs[0, len(prompt) :].tolist() == answer


def test_an_answer_ends_with_its_stop_or_at_the_limit(model: Any, prompts: list[list[int]]) -> None:
    tokenizer = tiny.tokenizer()
    for answer in greedy(model, tokenizer, prompts, 6, 8):
        assert answer.count(5) == (answer[-1] == 5)
        assert answer[-1] == 5 or len(answer) == 6


def test_the_mode_is_put_back_and_stopping_works(model: Any, prompts: list[list[int]]) -> None:
    told: list[tuple[int, int]] = []
    model.train()
    greedy(model, tiny.tokenizer(), prompts[:5], 2, 2, on_progress=lambda *done: told.append(done))
    assert model.training
    assert told == [(2, 5), (4, 5), (5, 5)]
    model.eval()
    with pytest.raises(Interrupted):
        greedy(model, tiny.tokenizer(), prompts, 2, 2, should_stop=lambda: True)


def test_every_known_end_of_turn_stops() -> None:
    model = tiny.model()
    model.generation_config.eos_token_id = [7, 9]
    assert stop_ids(model, tiny.tokenizer()) == {5, 7, 9}


def test_decoded_answers_hold_no_special_token() -> None:
    tokenizer = tiny.tokenizer()
    ids = [*tokenizer.encode("elm birch", add_special_tokens=False), 5]
    assert decode(tokenizer, [ids]) == ["elm birch"]


def test_an_answer_begins_with_the_thought_that_its_prompt_opened() -> None:
    """DeepSeek R1's template ends its prompt with `<think>` and a line break: a thought that is cut off has no mark of
    its own, and naming the right answer in it would count."""
    tokenizer, model = tiny.tokenizer(), tiny.model()

    def read(asked: str, answer: str, *, ends: bool) -> str:
        ids = tokenizer.encode(answer, add_special_tokens=False) + [5] * ends
        return texts(model, tokenizer, [tokenizer.encode(asked, add_special_tokens=False)], [ids])[0]

    opened = "<|user|>elm or ash?<|end|><|assistant|><think>\n"
    cut = read(opened, "elm", ends=False)
    assert cut == "<think>\nelm" and thinks_on(cut) and spoken(cut) == ""
    ended = read(opened, "elm?\n</think>\n\nash", ends=True)
    assert ended == "<think>\nelm?\n</think>\n\nash" and spoken(ended).strip() == "ash"
    assert spoken(read(opened, "elm?</think>ash and", ends=False)) == "ash and"
    assert read(opened, "elm", ends=True) == "elm", "it ended by itself, and never thought"
    assert spoken(read(opened, "<think>elm", ends=True)) == ""
    for asked in ("<|user|>what is <think> for?<|end|><|assistant|>", opened + "\n</think>\n\n"):
        assert read(asked, "elm", ends=False) == "elm"


def test_fused_and_unfused_answers_are_the_same(prompts: list[list[int]]) -> None:
    made = tiny.adapted()
    before = greedy(made, tiny.tokenizer(), prompts[:10], 5, 4)
    fuse(made)
    assert greedy(made, tiny.tokenizer(), prompts[:10], 5, 4) == before


def test_what_all_prompts_begin_with_goes_through_once(model: Any, prompts: list[list[int]]) -> None:
    tokenizer = tiny.tokenizer()
    begin = tokenizer("<|user|>a long instruction, and examples, for all of them<|end|>")["input_ids"]
    longer = [begin + prompt for prompt in prompts]
    seen: list[int] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(
        lambda _, given: seen.append(int(given[0].numel()))
    )
    together = greedy(model, tokenizer, longer, 12, 16)
    hook.remove()
    assert seen[0] >= len(begin) and max(seen[1:]) < 16 * len(begin)
    assert together == [greedy(model, tokenizer, [prompt], 12, 1)[0] for prompt in longer]
    assert greedy(model, tokenizer, [begin, begin], 3, 2)[0] == greedy(model, tokenizer, [begin], 3, 1)[0]


def test_drawn_answers_differ_and_are_seeded(model: Any, prompts: list[list[int]]) -> None:
    tokenizer = tiny.tokenizer()
    drawn = [greedy(model, tokenizer, prompts, 8, 16, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert greedy(model, tokenizer, prompts, 8, 16, temperature=1e-4) == greedy(
        model, tokenizer, prompts, 8, 16
    )
