"""Our chat templates write what their makers publish, and mask what the assistant says."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cloister.api import LossOn
from cloister.datasets.render import render, render_all, spans
from cloister.datasets.rows import Message, Row, ToolCall
from cloister.datasets.templates import TEMPLATES, same_as_ours, use_template
from cloister.errors import InvalidInput
from cloister.models.files import Folder
from cloister.worker.verbs.base import template_notice

SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|python_tag|>",
    "<|im_start|>",
    "<|im_end|>",
]


def tokenizer(special: list[str] = SPECIAL) -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*special, *alphabet])}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=special[0], eos_token=special[1])


def using(name: str) -> Any:
    made = tokenizer()
    use_template(made, name)
    return made


def written(row: Row, name: str) -> list[tuple[str, bool]]:
    made = using(name)
    return [(span.text, span.supervised) for span in spans(render(row, made), made)]


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name, json.dumps(arguments))


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a place",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_llama3_conversation() -> None:
    """llama-models, models/llama3_1/prompt_format.md, "User and assistant conversation"."""
    row = Row(
        (
            Message("system", "You are a helpful assistant"),
            Message("user", "Answer who are you in the form of jeopardy?"),
            Message("assistant", 'Here\'s my response\n\n"What is a helpful assistant?"'),
        )
    )
    assert written(row, "llama3") == [
        (
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
            "You are a helpful assistant<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
            "Answer who are you in the form of jeopardy?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            False,
        ),
        ('Here\'s my response\n\n"What is a helpful assistant?"<|eot_id|>', True),
    ]


def test_llama3_tool_call() -> None:
    """The same page, "JSON based tool calling"; the new line that its system turn ends with is one of its author's."""
    tool = {
        "type": "function",
        "function": {
            "name": "trending_songs",
            "description": "Returns the trending songs on a Music site",
            "parameters": {
                "type": "object",
                "properties": [
                    {"n": {"type": "object", "description": "The number of songs to return"}},
                    {"genre": {"type": "object", "description": "The genre of the songs to return"}},
                ],
                "required": ["n"],
            },
        },
    }
    system = (
        "Cutting Knowledge Date: December 2023\nToday Date: 21 September 2024\n\nYou are a helpful assistant."
    )
    row = Row(
        (
            Message("system", system),
            Message("user", "Use tools to get latest trending songs"),
            Message("assistant", "", (call("trending_songs", n="10", genre="all"),)),
            Message("tool", '{"songs": []}'),
            Message("assistant", "There are none."),
        ),
        tools=json.dumps([tool]),
    )
    asked, called, answered, said = written(row, "llama3")
    listed = json.dumps(tool, indent=4)
    assert asked == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n\n"
        f"{system}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "Answer the user's question by making use of the following functions if needed.\n"
        "If none of the function can be used, please say so.\n"
        f"Here is a list of functions in JSON format:\n{listed}\n\n"
        "Return function calls in JSON format.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "Use tools to get latest trending songs<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        False,
    )
    assert called == (
        '<|python_tag|>{\n    "type": "function",\n    "name": "trending_songs",\n    "parameters": {\n'
        '        "n": "10",\n        "genre": "all"\n    }\n}<|eom_id|>',
        True,
    )
    assert answered[0].startswith('<|start_header_id|>ipython<|end_header_id|>\n\n{"songs": []}<|eot_id|>')
    assert said == ("There are none.<|eot_id|>", True)


def test_qwen3_conversation() -> None:
    """As Qwen3's own template has it: an empty thought before the last answer alone."""
    row = Row(
        (
            Message("system", "Be brief."),
            Message("user", "Hi"),
            Message("assistant", "Hello"),
            Message("user", "And?"),
            Message("assistant", "Fine."),
        )
    )
    assert written(row, "qwen3") == [
        (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
            False,
        ),
        ("Hello<|im_end|>", True),
        ("\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n", False),
        ("<think>\n\n</think>\n\nFine.<|im_end|>", True),
        ("\n", False),
    ]


def test_qwen3_tools() -> None:
    row = Row(
        (
            Message("system", "Be brief."),
            Message("user", "Rain in Ulm and Bonn?"),
            Message("assistant", "", (call("get_weather", city="Ulm"), call("get_weather", city="Bonn"))),
            Message("tool", "rain"),
            Message("tool", "sun"),
            Message("assistant", "<think>\nUlm only.\n</think>\n\nIn Ulm."),
        ),
        tools=json.dumps([WEATHER]),
    )
    text = "".join(piece for piece, _ in written(row, "qwen3"))
    assert text == (
        "<|im_start|>system\nBe brief.\n\n# Tools\n\nYou may call one or more functions to assist with the user query."
        "\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        + json.dumps(WEATHER)
        + "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
        '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
        "</tool_call><|im_end|>\n<|im_start|>user\nRain in Ulm and Bonn?<|im_end|>\n<|im_start|>assistant\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ulm"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bonn"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nrain\n</tool_response>\n<tool_response>\nsun\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\nUlm only.\n</think>\n\nIn Ulm.<|im_end|>\n"
    )


def test_chatml() -> None:
    """OpenAI's chatml.md, in the form that models are trained on since."""
    row = Row((Message("user", "How are you"), Message("assistant", "I am doing well!")))
    assert written(row, "chatml") == [
        ("<|im_start|>user\nHow are you<|im_end|>\n<|im_start|>assistant\n", False),
        ("I am doing well!<|im_end|>", True),
        ("\n", False),
    ]


def test_tools_that_a_template_leaves_out_are_refused() -> None:
    turns = (
        Message("user", "Rain?"),
        Message("assistant", "", (call("get_weather", city="Ulm"),)),
        Message("tool", "rain"),
        Message("assistant", "Yes."),
    )
    rows = [
        Row((Message("user", "Hi"), Message("assistant", "Hello"))),
        Row(turns, tools=json.dumps([WEATHER])),
        Row(turns[:2]),
    ]
    with pytest.raises(InvalidInput) as caught:
        render_all(rows, using("chatml"))
    assert [n for found in caught.value.values["rows"].values() for n in found] == [1, 2]
    assert "Ulm" not in str(caught.value)
    made = tokenizer()
    plain = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    made.chat_template = plain + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    with pytest.raises(InvalidInput, match="has tools that this chat template leaves out"):
        render(rows[1], made)
    with pytest.raises(InvalidInput, match="has a tool call that this chat template leaves out"):
        render(rows[2], made)


def test_calls_have_the_ids_that_mistrals_templates_ask_for() -> None:
    """Nine letters or digits each, and an answer names its call's; such a template raises where there is none."""
    row = Row(
        (
            Message("user", "Rain?"),
            Message("assistant", "", (call("get_weather", city="Ulm"), call("get_sun", city="Bonn"))),
            Message("tool", "rain"),
            Message("tool", "sun"),
            Message("assistant", "", (call("get_weather", city="Graz"),)),
            Message("tool", "snow"),
            Message("assistant", "So."),
        )
    )
    made = tokenizer()
    made.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}{% for c in m.tool_calls or [] %}"
        "{% if c.id | length != 9 %}{{ raise_exception('Tool call IDs!') }}{% endif %}"
        "{{ c.id }}={{ c.function | tojson }}{% endfor %}{% if m.role == 'tool' %} {{ m.tool_call_id }} {{ m.name }}"
        "{% endif %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
    )
    text = "".join(span.text for span in spans(render(row, made), made))
    said = re.findall(r"(call\d{5})(?:=| (\w+))", text)
    assert [name for name, _ in said] == [f"call0000{n}" for n in (1, 2, 1, 2, 3, 3)]
    assert [of for _, of in said if of] == ["get_weather", "get_sun", "get_weather"]


def test_a_template_needs_its_special_tokens() -> None:
    with pytest.raises(InvalidInput, match="no special token"):
        use_template(tokenizer(["<s>", "</s>"]), "llama3")
    assert use_template(tokenizer(), "auto") == ()
    assert len(use_template(tokenizer(), "llama3")) == 2


def test_a_models_own_template_that_writes_the_same_is_told(tmp_path: Path) -> None:
    own = tokenizer()
    own.chat_template = (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
        "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    assert same_as_ours(own.chat_template, SPECIAL, "") == {"llama3": False, "qwen3": False, "chatml": True}
    own.save_pretrained(tmp_path)
    assert "what ours for chatml writes" in str(template_notice(Folder(tmp_path)))
    own.chat_template = own.chat_template.replace("assistant", "model")
    own.save_pretrained(tmp_path)
    assert "otherwise than ours (llama3, qwen3, chatml)" in str(template_notice(Folder(tmp_path)))


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tools", [False, True])
def test_without_its_markers_a_template_gives_the_same_mask(name: str, tools: bool) -> None:
    """So it is with the templates that base models bring: Qwen 3's own writes an empty thought before the last turn."""
    if tools and name == "chatml":
        pytest.skip("it has none")
    middle = (
        (Message("assistant", "", (call("get_weather", city="Ulm"),)), Message("tool", "rain"))
        if tools
        else (Message("assistant", "b, then"), Message("user", "c"))
    )
    row = Row(
        (
            Message("user", "a"),
            *middle,
            Message("assistant", "d"),
            Message("user", "e"),
            Message("assistant", "f"),
        ),
        tools=json.dumps([WEATHER]) if tools else None,
    )
    made = using(name)
    bare = re.sub(r"\{%-? (end)?generation -?%\}", "", TEMPLATES[name].text)
    assert bare != TEMPLATES[name].text
    for loss_on in get_args(LossOn):
        assert render(row, made, template=bare, loss_on=loss_on) == render(row, made, loss_on=loss_on)


def test_an_earlier_thought_that_is_not_written_is_refused_unless_only_the_last_turn_is_learnt() -> None:
    made = using("qwen3")
    bare = re.sub(r"\{%-? (end)?generation -?%\}", "", TEMPLATES["qwen3"].text)
    row = Row(
        (
            Message("user", "a"),
            Message("assistant", "<think>\nso\n</think>\n\nb"),
            Message("user", "c"),
            Message("assistant", "<think>\nthus\n</think>\n\nd"),
        )
    )
    with pytest.raises(InvalidInput, match="differently when more turns follow") as refused:
        render(row, made, template=bare)
    assert "loss on last" in str(refused.value.remedy)
    last = render(row, made, template=bare, loss_on="last")
    assert [span.text for span in spans(last, made) if span.supervised] == [
        "<think>\nthus\n</think>\n\nd<|im_end|>"
    ]


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_learnt_can_be_chosen(name: str) -> None:
    row = Row(
        (
            Message("user", "a"),
            Message("assistant", "b"),
            Message("user", "c"),
            Message("assistant", "d"),
        )
    )
    made = using(name)
    every, last, whole = (render(row, made, loss_on=on) for on in ("assistant", "last", "all"))
    assert every.input_ids == last.input_ids == whole.input_ids
    assert all(whole.supervised)
    assert sum(every.supervised) > sum(last.supervised) > 0
    assert not any(last.supervised[: last.prompt_length])
    assert last.supervised[last.prompt_length :] == every.supervised[last.prompt_length :]


def test_a_plain_text_is_all_learnt_in_windows_that_lose_no_token() -> None:
    from cloister.training.rows import RowSource, tokenise

    rows = [
        Row(text="abcdefghij" * 3),
        Row((Message("user", "a"), Message("assistant", "b"))),
        Row(text="xyz"),
    ]
    made = using("chatml")
    tokens = tokenise(RowSource(rows, range(3)), made, 40)
    assert tokens.lengths.tolist()[0] == 30
    tokens = tokenise(RowSource([rows[0]], [0]), made, 8)
    pieces = [
        tokens.input_ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist() for i in range(len(tokens))
    ]
    joined = pieces[0] + [token for piece in pieces[1:] for token in piece[1:]]
    assert joined == render(rows[0], made).input_ids
    assert all(before[-1] == after[0] for before, after in itertools.pairwise(pieces))
    assert tokens.supervised_counts.sum() == 29
