"""Chat templates of our own: Llama 3, Qwen 3 and ChatML, each with `{% generation %}` markers.

They write what the formats' makers publish (sources beside each name). Knows tokenizers, handed in; no model.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from cloister.errors import InvalidInput

OwnTemplate = Literal["llama3", "qwen3", "chatml"]


@dataclass(frozen=True)
class ChatTemplate:
    """`special` must each be one special token of the tokenizer; `ends` close an assistant's turn."""

    name: OwnTemplate
    special: tuple[str, ...]
    ends: tuple[str, ...]

    @property
    def text(self) -> str:
        """The template, in Jinja as transformers and vLLM read it."""
        return (files(__package__) / f"{self.name}.jinja").read_text(encoding="utf-8")


TEMPLATES: dict[str, ChatTemplate] = {
    # llama-models, llama3_1/prompt_format.md: conversation, and JSON based tool calling.
    "llama3": ChatTemplate(
        "llama3",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        ("<|eot_id|>", "<|eom_id|>"),
    ),
    # The chat template in Qwen3's tokenizer_config.json (any size).
    "qwen3": ChatTemplate("qwen3", ("<|im_start|>", "<|im_end|>"), ("<|im_end|>",)),
    # OpenAI's chatml.md, as everybody has it since: a new line after each role and each turn. It has no tools.
    "chatml": ChatTemplate("chatml", ("<|im_start|>", "<|im_end|>"), ("<|im_end|>",)),
}


def use_template(tokenizer: Any, name: str) -> tuple[int, ...]:
    """Have `tokenizer` render with the template of that name; `auto` and `model` leave it its own.

    Returns:
        The ids that end a turn in one of ours, for whoever generates; none for the model's own.

    Raises:
        InvalidInput: the tokenizer does not have the template's special tokens.
    """
    if name in ("auto", "model"):
        return ()
    template = TEMPLATES[name]
    ids = special_ids(tokenizer)
    lacking = [token for token in template.special if token not in ids]
    if lacking:
        raise InvalidInput(
            f"the base model's tokenizer has no special token {lacking[0]}, which the template {name} is made of",
            where="template",
            remedy="Use `template: auto`, or another base model.",
        )
    tokenizer.chat_template = template.text
    return tuple(ids[token] for token in template.ends if token in ids)


def special_ids(tokenizer: Any) -> dict[str, int]:
    """The tokenizer's special tokens by their text."""
    return {
        token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special
    }


EXAMPLES: tuple[tuple[dict[str, str], ...], ...] = (
    ({"role": "user", "content": "Which tree is evergreen?"}, {"role": "assistant", "content": "The cedar."}),
    (
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "Which tree is evergreen?"},
        {"role": "assistant", "content": "Cedar"},
    ),
    (
        {"role": "user", "content": "Name a river."},
        {"role": "assistant", "content": "The Rhine."},
        {"role": "user", "content": "Another one?"},
        {"role": "assistant", "content": "The Rhone."},
    ),
)
"""Conversations on which a model's own template is compared with ours."""


def same_as_ours(own: str, special: Collection[str], bos_token: str) -> dict[OwnTemplate, bool]:
    """For each of our templates whose special tokens are among `special`: whether the template `own` writes the same.

    Compared on whole conversations and on prompts. The same text is the same token ids, whatever the tokenizer.
    """
    fitting = [t for t in TEMPLATES.values() if all(token in special for token in t.special)]
    return {t.name: _agree(own, t.text, bos_token) for t in fitting}


def _agree(own: str, ours: str, bos_token: str) -> bool:
    from transformers.utils.chat_template_utils import render_jinja_template

    for example in EXAMPLES:
        for turns, prompt in ((example, False), (example[:-1], True)):
            try:
                one, other = (
                    render_jinja_template(
                        [list(turns)], chat_template=text, add_generation_prompt=prompt, bos_token=bos_token
                    )[0]
                    for text in (own, ours)
                )
            except Exception:  # a template may refuse a system turn, in any words
                return False
            if one != other:
                return False
    return True
