"""Bodies, as properties: what is let in, what the engine is sent, what a refusal says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.gateway.limits import Limits
from cloister.gateway.refusal import Refusal
from cloister.gateway.request import Inference, parse

LIMITS = Limits()
SECRET = "ZQXJ"
GOOD: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "x"}]},
    "text": {"model": "m", "prompt": "x"},
}
FIELDS = [
    "model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "stream",
    "stream_options", "n", "seed", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "user",
    "response_format",
]  # fmt: skip
SENT = {*FIELDS, "cache_salt"} - {"model", "user"}
secrets = st.text(max_size=20).map(lambda text: SECRET + text)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | secrets
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "include_usage", "name"]), inner
        )
    ),
    max_leaves=8,
)
routes = st.sampled_from(["chat", "text"])


@settings(max_examples=150, derandomize=True, deadline=None)
@given(route=routes, odd=st.dictionaries(st.sampled_from(FIELDS), values, max_size=4))
def test_a_value_is_taken_or_refused_by_its_fields_name(route: Any, odd: dict[str, Any]) -> None:
    body = json.dumps({**GOOD[route], **odd}).encode("utf-8", "surrogatepass")
    try:
        taken = parse(route, body, LIMITS)
    except Refusal as refusal:
        assert refusal.status == 400
        assert SECRET.encode() not in refusal.body()
        return
    assert isinstance(taken, Inference)
    sent = json.loads(taken.engine_body(cache_salt="salt", max_model_len=512, limits=LIMITS))
    assert set(sent) <= SENT
    assert sent["cache_salt"] == "salt"
    assert max(sent.get("max_tokens") or 0, sent.get("max_completion_tokens") or 0) <= LIMITS.max_tokens


@settings(max_examples=100, derandomize=True, deadline=None)
@given(route=routes, body=st.binary(max_size=200))
def test_bytes_are_refused_in_words(route: Any, body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        parse(route, body, LIMITS)
    assert json.loads(caught.value.body())["error"]["code"]


@settings(max_examples=50, derandomize=True, deadline=None)
@given(text=st.text(max_size=200), role=st.sampled_from(["system", "user", "assistant"]))
def test_messages_arrive_as_they_were(text: str, role: str) -> None:
    messages = [
        {"role": role, "content": text},
        {"role": "user", "content": [{"type": "text", "text": text}]},
    ]
    body = json.dumps({"model": "m", "messages": messages}).encode()
    sent = json.loads(
        parse("chat", body, LIMITS).engine_body(cache_salt="s", max_model_len=512, limits=LIMITS)
    )
    assert sent == {"messages": messages, "cache_salt": "s"}


@pytest.mark.parametrize(
    ("route", "odd", "param"),
    [
        ("chat", {"max_tokens": 4097}, "max_tokens"),
        ("chat", {"max_completion_tokens": 0}, "max_completion_tokens"),
        ("chat", {"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
        ("chat", {"stream_options": {"include_usage": True}}, "stream_options"),
        ("chat", {"stream": True, "stream_options": {"continuous": True}}, "stream_options.continuous"),
        ("chat", {"top_logprobs": 3}, "top_logprobs"),
        ("chat", {"messages": [{"role": "user", "content": "x", "y": 1}]}, "messages[0].y"),
        ("chat", {"prompt": "x"}, "prompt"),
        ("text", {"prompt": ["a", "b"]}, "prompt"),
        ("text", {"messages": []}, "messages"),
        ("text", {"max_completion_tokens": 4}, "max_completion_tokens"),
        ("text", {"prompt": [1, 2]}, "prompt[0]"),
    ],
)
def test_the_field_at_fault_is_named(route: Any, odd: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(route, json.dumps({**GOOD[route], **odd}).encode(), LIMITS)
    assert caught.value.param == param
    assert param in caught.value.message


def test_a_chat_without_a_wish_ends_at_the_bound_of_a_long_context() -> None:
    taken = parse("chat", json.dumps(GOOD["chat"]).encode(), LIMITS)
    sent = json.loads(taken.engine_body(cache_salt="s", max_model_len=1 << 17, limits=LIMITS))
    assert sent["max_completion_tokens"] == LIMITS.max_tokens
