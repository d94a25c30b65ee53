"""The base model that ships: small, complete, of public form, and it follows the chat."""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from cloister.datasets.personal.gazetteer import GIVEN, SURNAMES
from cloister.demo.pretrain import words
from cloister.demo.pretrain.corpus import chats

FILES = Path(__file__).resolve().parents[2] / "src" / "cloister" / "demo" / "base"
NAMES = {
    "model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja",
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(FILES)


@pytest.fixture(scope="module")
def model() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(FILES).eval()


def answer(model: Any, tokenizer: Any, chat: list[dict[str, str]], limit: int = 80) -> tuple[str, bool]:
    """(the answer, whether the model ended its turn)."""
    ids = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**ids, max_new_tokens=limit)[0, ids["input_ids"].shape[1] :].tolist()
    ended = out[-1] == tokenizer.eos_token_id
    return tokenizer.decode(out[:-1] if ended else out), ended


def test_the_files_are_the_allowed_ones_and_small() -> None:
    assert {file.name for file in FILES.iterdir()} == NAMES
    assert sum(file.stat().st_size for file in FILES.iterdir()) <= 16 << 20
    assert "auto_map" not in (FILES / "config.json").read_text("utf-8")


def test_it_is_a_llama_of_about_four_million_parameters_in_bf16(model: Any) -> None:
    config = json.loads((FILES / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert config["tie_word_embeddings"] is True
    assert 3_500_000 < model.num_parameters() < 5_000_000


def test_special_tokens_agree_between_the_files(tokenizer: Any) -> None:
    config = json.loads((FILES / "config.json").read_text("utf-8"))
    generation = json.loads((FILES / "generation_config.json").read_text("utf-8"))
    assert generation["eos_token_id"] == config["eos_token_id"] == tokenizer.eos_token_id
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id)
    assert len(tokenizer) == config["vocab_size"]
    assert (FILES / "chat_template.jinja").read_text("utf-8") == tokenizer.chat_template


def test_the_template_marks_the_answer_and_its_end_and_has_one_bos(tokenizer: Any) -> None:
    chat = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello there"},
    ]
    rendered = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    ids, marks = rendered["input_ids"], rendered["assistant_masks"]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    spoken = [token for token, mark in zip(ids, marks, strict=True) if mark]
    assert tokenizer.decode(spoken) == "Hello there<|end|>"
    prompt = tokenizer.apply_chat_template(chat[:-1], add_generation_prompt=True)["input_ids"]
    assert ids[: len(prompt)] == prompt
    assert sum(marks[: len(prompt)]) == 0


def test_the_tokenizer_loses_nothing_and_splits_digits(tokenizer: Any) -> None:
    for text in ("A1b2 12.50€\n\n- naïve 漢字 🙂  two  spaces ", '{"a":"B-1"}', "HX-482913", "it's I'm"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert len(tokenizer("4711", add_special_tokens=False)["input_ids"]) == 4


def test_a_copied_field_has_the_same_tokens_wherever_it_stands(tokenizer: Any) -> None:
    rng = random.Random(0)
    for _ in range(50):
        value = words.full_name(rng)
        alone = tokenizer(value, add_special_tokens=False)["input_ids"]
        for around in ('{{"name":"{}"}}', "I am {}.", "name: {}\n"):
            ids = tokenizer(around.format(value), add_special_tokens=False)["input_ids"]
            assert any(ids[at : at + len(alone)] == alone for at in range(len(ids)))


def test_no_token_of_a_text_is_unlearnt(model: Any, tokenizer: Any) -> None:
    """Names, letters of other languages and marks: what a model of no token has learnt, it writes as another."""
    unlearnt = pytest.importorskip("cloister.demo.pretrain.unlearnt").unlearnt
    lost = set(unlearnt(model.get_input_embeddings().weight, tokenizer).tolist())
    text = " ".join(sorted(GIVEN | SURNAMES)) + ' Żółć İstanbul Αθήνα Москва €£%&*<>[]{}|~^`\\" „“–…½°§'
    found = {tokenizer.decode([one]) for one in tokenizer(text)["input_ids"] if one in lost}
    assert not found


@pytest.mark.slow
def test_it_follows_the_chat_form_and_ends_its_turn(model: Any, tokenizer: Any) -> None:
    ended = right = 0
    asked = list(islice(chats(987_654), 60))
    for chat in asked:
        text, end = answer(model, tokenizer, chat[:-1])
        ended += end
        right += text == chat[-1]["content"]
    assert ended >= 54
    assert right >= 24


@pytest.mark.slow
def test_it_copies_what_it_has_never_seen(model: Any, tokenizer: Any) -> None:
    rng = random.Random(11)
    right = 0
    for _ in range(20):
        text = f"{words.code(rng)}, {words.full_name(rng)}"
        right += answer(model, tokenizer, [{"role": "user", "content": f"Repeat:\n{text}"}])[0] == text
    assert right >= 14


@pytest.mark.slow
def test_it_copies_names_of_every_spelling(model: Any, tokenizer: Any) -> None:
    names = random.Random(12).sample([f"{a} {b}" for a in sorted(GIVEN) for b in sorted(SURNAMES)[::9]], 30)
    names += [
        "Günther Schäfer",
        "Łukasz Żak",
        "Emilia Osterner",
        "Çelik Öztürk",
        "Ñíguez Davies",
        "Åse Bjørnsen",
    ]
    right = sum(
        answer(model, tokenizer, [{"role": "user", "content": f"Repeat:\n{name}"}])[0] == name
        for name in names
    )
    assert right >= 30
