"""Every row begins with exactly one BOS, and the end of its answer is learned."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

import tiny
from cloister.datasets.render import prompt_ids_all
from cloister.training.rows import RowSource, tokenise

DEMO_BASE = Path(__file__).parents[2] / "src" / "cloister" / "demo" / "base"


@pytest.mark.parametrize("name", ["tiny", "demo"])
def test_one_bos_and_a_supervised_end_of_turn(name: str) -> None:
    tokenizer = tiny.tokenizer() if name == "tiny" else AutoTokenizer.from_pretrained(DEMO_BASE)
    data = tiny.rows(32)
    tokens = tokenise(RowSource(data, range(32)), tokenizer, 256)
    prompts = prompt_ids_all(data, tokenizer)
    for row in range(32):
        place = slice(int(tokens.offsets[row]), int(tokens.offsets[row + 1]))
        ids, mask = tokens.input_ids[place].tolist(), tokens.supervised[place].tolist()
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids[-1] == tokenizer.eos_token_id
        assert mask[-1]
        # What is asked at inference is the beginning of what was trained on, and all that follows is learned.
        assert ids[: len(prompts[row])] == prompts[row]
        assert mask == [position >= len(prompts[row]) for position in range(len(ids))]
