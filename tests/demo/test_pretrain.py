"""The pre-training text and the loop that learns from it."""

from __future__ import annotations

import random
import re
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloister.demo.claims import CATEGORIES
from cloister.demo.pretrain import words
from cloister.demo.pretrain.corpus import chats
from cloister.demo.pretrain.grammar import everyday, expand, intents, traits, typo

FILES = Path(__file__).resolve().parents[2] / "src" / "cloister" / "demo" / "base"


def test_the_same_seed_gives_the_same_text() -> None:
    first = list(islice(chats(5), 300))
    assert first == list(islice(chats(5), 300))
    assert first != list(islice(chats(6), 300))


def test_every_chat_ends_with_an_answer() -> None:
    for chat in islice(chats(0), 3000):
        roles = [message["role"] for message in chat]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert turns
        assert all(message["content"].strip() for message in chat)


def test_every_template_expands_without_leftovers() -> None:
    rng = random.Random(0)
    templates = [*everyday(), *(template for intent in intents() for template in intent.templates)]
    templates += [says for trait in traits() for _, all_says in trait.values for says in all_says]
    assert len(templates) > 300
    for template in templates:
        for _ in range(3):
            assert not set("[]{}|") & set(expand(rng, template)), template


def test_intents_have_labels_of_their_own() -> None:
    labels = [intent.label for intent in intents()]
    assert len(labels) == len(set(labels))
    for trait in traits():
        own = [label for names, _ in trait.values for label in names]
        assert len(own) == len(set(own)) > 1, trait.name


def test_the_text_keeps_out_of_the_demos_domain() -> None:
    labels = {intent.label for intent in intents()} | {intent.domain for intent in intents()}
    assert not {"claims", "insurance", *CATEGORIES} - {"travel"} & labels
    text = "\n".join(message["content"] for chat in islice(chats(1), 5000) for message in chat)
    assert not re.search(r"\b(insurance|insured|insurer|urgency|claims desk)\b", text, re.IGNORECASE)


@pytest.mark.parametrize(
    "maker", [words.code, words.full_name, words.email, words.phone, words.date, words.price]
)
def test_made_up_strings_vary(maker: object) -> None:
    rng = random.Random(0)
    assert callable(maker)
    assert len({maker(rng) for _ in range(200)}) > 100


def test_a_typo_changes_at_most_two_characters() -> None:
    rng = random.Random(0)
    for _ in range(100):
        assert len(typo(rng, "a sentence of words")) in (18, 19)
    assert typo(rng, "short") == "short"


def test_encoding_agrees_with_the_chat_template() -> None:
    transformers = pytest.importorskip("transformers")
    from cloister.demo.pretrain.train import encode

    tokenizer = transformers.AutoTokenizer.from_pretrained(FILES)
    for chat in islice(chats(2), 100):
        ids, answer = encode(tokenizer, chat)
        rendered = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
        assert ids == rendered["input_ids"]
        assert answer == [bool(mark) for mark in rendered["assistant_masks"]]


def test_packed_rows_do_not_see_each_other() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from cloister.demo.pretrain.train import PretrainConfig, batches, build_model

    tokenizer = transformers.AutoTokenizer.from_pretrained(FILES)
    config = PretrainConfig(batch=2)
    batch = next(batches(tokenizer, config, chats(0)))
    assert float((batch.row >= 0).float().mean()) > 0.9
    model = build_model(tokenizer, 0).eval()
    same = (batch.row[:, None, :, None] == batch.row[:, None, None, :]) & torch.ones(192, 192).tril().bool()
    with torch.no_grad():
        mask = torch.where(same, 0.0, -1e9)
        packed = model(
            input_ids=batch.input_ids, attention_mask=mask, position_ids=batch.position, use_cache=False
        ).logits
        second = (batch.row[0] == 1).nonzero().squeeze(1)
        alone = model(input_ids=batch.input_ids[:1, second], use_cache=False).logits
    assert torch.allclose(packed[0, second], alone[0], atol=1e-4)


def test_words_of_unlearnt_tokens_stand_in_question_and_answer_alike() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from cloister.demo.pretrain.unlearnt import chats_of, unlearnt

    tokenizer = transformers.AutoTokenizer.from_pretrained(FILES)
    lost = [tokenizer.convert_tokens_to_ids(chr(byte)) for byte in range(0xF5, 0x100)]
    missed = [tokenizer.convert_tokens_to_ids(piece) for piece in ("Em", "Dav", "Os", "gh")]
    embedding = torch.randn(len(tokenizer), 32, generator=torch.Generator().manual_seed(0))
    embedding[[*lost, *missed]] = embedding[lost[0]].clone()
    ids = unlearnt(embedding, tokenizer)
    assert {*lost, *missed} <= set(ids.tolist()) and len(ids) < 40
    text = list(islice(chats_of(ids, tokenizer, 3), 2000))
    assert text == list(islice(chats_of(ids, tokenizer, 3), 2000))
    seen = {token for chat in text for part in chat for token in tokenizer(part["content"])["input_ids"]}
    assert set(missed) <= seen
    for before, chat in zip(chats(3), text, strict=False):
        assert [part["role"] for part in before] == [part["role"] for part in chat]
    changed = [(a, b) for a, b in zip(chats(3), text, strict=False) if a != b]
    assert len(changed) > 1000
    assert all(a[-1]["content"] != b[-1]["content"] for a, b in changed if len(a) == 2)


def test_only_the_rows_of_unlearnt_tokens_are_trained(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from cloister.demo.pretrain.train import PretrainConfig, build_model, only_rows

    model = build_model(transformers.AutoTokenizer.from_pretrained(FILES), 0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = only_rows(model, torch.tensor([3, 70]), PretrainConfig())
    model(input_ids=torch.arange(100)[None], labels=torch.arange(100)[None]).loss.backward()
    optimizer.step()
    for name, tensor in model.state_dict().items():
        moved = (tensor != before[name]).flatten(1).any(1) if tensor.ndim == 2 else tensor != before[name]
        wanted = [3, 70] if name in ("model.embed_tokens.weight", "lm_head.weight") else []
        assert moved.nonzero().flatten().tolist() == wanted, name


@pytest.mark.slow
def test_a_moment_of_pre_training_lowers_the_loss_and_leaves_a_whole_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    from cloister.demo.pretrain import train
    from cloister.demo.pretrain.train import PretrainConfig, pretrain

    passed = count()  # a clock that goes on when it is looked at: the same steps on a machine of any speed
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: next(passed) / 4))
    out = tmp_path / "model"
    config = PretrainConfig(minutes=0.3, batch=8, warmup_steps=5, compile=False)
    done = pretrain(out, config)
    assert done["steps"] > 1
    assert done["answer_loss"] < 8.2
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert model.num_parameters() < 5_000_000
    again = pretrain(tmp_path / "more", PretrainConfig(minutes=0.05, batch=4, compile=False), resume=out)
    assert again["steps"] >= 1
    assert not (tmp_path / "model.part").exists()
