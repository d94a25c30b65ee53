"""Which task rows are, how answers are read, and the figures of drafts, fields, labels and house terms."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cloister.datasets.rows import Message, Row, ToolCall
from cloister.errors import InvalidInput
from cloister.evaluation.metrics import Glossary, Labels, fields_right, json_object, rouge_l
from cloister.evaluation.tasks import instruction_of, task_of, with_labels


def row(question: str, answer: str, label: str | None = None) -> Row:
    return Row((Message("user", question), Message("assistant", answer)), label)


LABELLED = [row("a", "card_lost", "card_lost"), row("b", "card", "card"), row("c", "Refund", "Refund")]
CLAIMS = [
    row("x", json.dumps({"kind": k, "name": n})) for k, n in zip("abab" * 4, map(str, range(16)), strict=True)
]


def test_a_task_is_read_off_its_rows() -> None:
    assert task_of(LABELLED, "x").kind == "label"
    assert task_of(CLAIMS, "x").kind == "extraction"
    assert task_of([row("a", "elm")], "x").kind == "answer"
    assert task_of([row("a", "word " * 30)], "x").kind == "drafting"
    assert task_of([Row(text="all of it")], "x").kind == "text"
    with pytest.raises(InvalidInput, match="have a label"):
        task_of([*LABELLED, row("a", "b")], "x")
    with pytest.raises(InvalidInput, match="plain text"):
        task_of([*LABELLED, Row(text="t")], "x")


def test_a_thought_counts_in_no_figure_of_any_kind() -> None:
    thought = "<think>\nHm, a long one about elms and much else besides.\n</think>\n\n"
    short, draft = (
        "elm",
        "The claim was settled on Monday and the letter that says so went out by post today.",
    )
    for answer, kind in ((short, "answer"), (draft, "drafting")):
        task = task_of([row("a", answer), row("b", thought + answer)], "x", Glossary("elms -> elm\nclaim"))
        assert task.kind == kind
        scored = task.score([thought + answer, answer])
        assert all(list(column) == [1.0, 1.0] for column in scored.columns.values()), scored.columns
        assert task.alike(thought + answer, answer) == 1.0
        nothing = task.score([thought.partition("</think>")[0], ""])
        assert list(nothing.columns["exact_match"]) == [0.0, 0.0], "a thought that never ends says nothing"


CALL = Row(
    (
        Message("user", "a"),
        Message("assistant", "", (ToolCall("get_weather", '{"city": "Rom", "days": 2}'),)),
    ),
    tools="[]",
)


def test_a_row_that_ends_with_a_call_is_read_as_a_call_in_whatever_form() -> None:
    """Its content is empty: to the letter, a model that says nothing would be the best."""
    hermes = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rom", "days": 2}}\n</tool_call>'
    same = [
        hermes,
        "<think>\nHm.\n</think>\n\n" + hermes,
        'Let me look.\n{"name": "get_weather", "parameters": {"days": 2, "city": "Rom"}}',
        '[{"name": "get_weather", "arguments": "{\\"city\\": \\"Rom\\", \\"days\\": 2}"}]',
        '{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rom", "days": 2}}}',
        'get_weather{"city": "Rom", "days": 2}',
    ]
    other = [
        "",
        "get_weather",
        hermes.replace("Rom", "Bonn"),
        hermes.replace("get_weather", "get_time"),
        hermes + hermes,
        '{"city": "Rom", "days": 2}',
        "{" * 2000,
    ]
    task = task_of([CALL] * len(same + other), "x", expected=[hermes] * len(same + other))
    assert task.kind == "answer" and task.calls
    assert list(task.score(same + other).columns["exact_match"]) == [1.0] * len(same) + [0.0] * len(other)
    assert task.alike(same[0], same[2]) == 1.0 and task.alike(same[0], other[2]) == 0.0
    assert task_of([row("a", '{"name": "x", "arguments": {}}')], "x").kind == "extraction", (
        "no call, but an answer"
    )


def test_an_answer_names_a_label_as_a_program_would_read_it() -> None:
    labels = Labels(["card", "card_lost", "Refund"])
    read = {"card": "card", " Card_Lost. ": "card_lost", '"refund"': "Refund", "The label is card.": "card"}
    for answer, name in read.items():
        assert labels.names[labels.number(answer)] == name
    for nothing in ("", "card or refund", "discard", "none of them"):
        assert labels.number(nothing) == -1


def test_the_first_line_decides_and_then_a_single_label_named_anywhere() -> None:
    labels = Labels(["card", "card_lost", "Refund"])
    read = {
        "refund\n\nIt is not about a card.": "Refund",
        "Let me see.\nThey lost it in the street.\nSo: card_lost": "card_lost",
        "<think>A card? Or a refund?</think>\n\ncard": "card",
        "a card or a refund, hm</think>\nThe label is **Refund**.": "Refund",
        "<think>card</think> The answer:\nrefund": "Refund",
    }
    for answer, name in read.items():
        assert labels.names[labels.number(answer)] == name, answer
    for nothing in (
        "Either.\ncard\nrefund",  # several, and no first line to decide
        "card, or refund\ncard",  # the first line is not decided by those after it
        "<think>it is card, so",  # it never came to an answer
        "I think\nnone of them",
    ):
        assert labels.number(nothing) == -1, nothing
    assert json_object('<think>{"a": 2}?</think>\n{"a": 1}') == {"a": 1} and json_object("<think>{}") is None


def test_labels_are_scored_also_those_that_the_holdout_lacks() -> None:
    task = with_labels(task_of(LABELLED[:2], "x"), ["another"])
    scored = task.score(["the card_lost", "another"])
    assert scored.columns["accuracy"].tolist() == [1, 0] and scored.columns["exact_match"].tolist() == [0, 0]
    assert task.labels is not None and [task.labels.names[n] for n in scored.said] == ["card_lost", "another"]
    assert "another, card, card_lost" in str(instruction_of(task, [])).casefold()


def test_json_is_scored_by_field() -> None:
    assert json_object('```json\n{"a": 1}\n```') == {"a": 1}
    assert json_object("[1]") is None and json_object("[" * 100_000) is None
    assert fields_right({"a": 1, "b": " x "}, {"a": 1, "b": "x"}) == 1
    assert fields_right({"a": 1, "b": "y", "c": 2}, {"a": 1, "b": "x"}) == pytest.approx(1 / 3)
    assert fields_right(None, {"a": 1}) == 0 and fields_right({}, {"a": None}) == 0
    scored = task_of(CLAIMS[:2], "x").score(['{"kind":"a","name":"0"}', "no"])
    assert scored.columns["json_valid"].tolist() == [1, 0]
    assert scored.columns["field_accuracy"].tolist() == [1, 0]
    told = instruction_of(task_of(CLAIMS, "x"), CLAIMS)
    assert told is not None and "kind (one of: a, b), name." in told


def test_rouge_l_is_the_common_subsequence_of_words() -> None:
    assert rouge_l("The police killed the gunman", "police kill the gunman") == pytest.approx(2 * 3 / 9)
    assert rouge_l("same, words", "Same words!") == 1 and rouge_l("", "") == 1 and rouge_l("a", "") == 0


def test_house_terms() -> None:
    glossary = Glossary("# ours\nclient -> policyholder\nclaim form\n")
    assert len(glossary) == 2
    assert glossary.use("The policyholder sends a claim form.", "Policyholder, claim form") == 1
    assert glossary.use("The client sends it.", "The policyholder") == 0
    assert glossary.use("anything", "anything") is None
    task = task_of([row("a", "Dear policyholder " + "word " * 20), row("b", "word " * 20)], "x", glossary)
    used = task.score(["Dear policyholder", "hello"]).columns["house_terms"]
    assert used[0] == 1 and np.isnan(used[1])


def test_two_answers_that_say_the_same() -> None:
    task = task_of(CLAIMS[:1], "x")
    assert task.alike('{"a":1,"b":2}', '{"b": 2, "a": 1}') == 1 and task.alike("no", "no") == 1
    labels = task_of(LABELLED, "x")
    assert labels.alike("card", "It is card.") == 1 and labels.alike("what", "why") == 0
