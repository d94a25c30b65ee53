"""What policy denies: why, and what would permit it, where a key was pressed and where it is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from console_world import WIDE, console, type_in, until
from recorded import NOW, Recorded

from cloister.api import PolicyAnswer, PolicyQuestion, PolicyRule
from cloister.console.denial import LINES, ask_why, told
from cloister.console.picture import Picture
from cloister.errors import InvalidInput, NotFound

RULE = PolicyRule(
    policy_id="trainer-sees-rows-of-public-and-internal-data",
    file="roles.cedar",
    source='permit (principal in Role::"trainer", action, resource)\nwhen { resource.classification <= 1 };',
)


class Strict(Recorded):
    """Says of shreds what it would take; of a thing that it is none of one kind."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[PolicyQuestion] = []
        who = self.answers["whoami"]
        may = [action for action in who.actions if action != "shred.start"]
        self.answers["whoami"] = who.model_copy(update={"actions": may})

    def explain(self, question: PolicyQuestion) -> PolicyAnswer:
        self.asked.append(question)
        if question.action == "shred.start":
            if question.kind is None:
                raise InvalidInput("say on what: Dataset, Run, Model", where="shred.start")
            if question.thing is not None and question.kind != "Run":
                raise NotFound("there is no such thing")
        answer = super().explain(question)
        return answer.model_copy(
            update={
                "kind": question.kind or "Appliance",
                "thing": question.thing,
                "policies": [],
                "forbids": [],
                "permits": [RULE],
                "attributes": {"classification": "confidential", "personal": "unknown"},
            }
        )


def test_a_denial_shows_what_would_permit_it_and_what_is_known() -> None:
    client = Strict()

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, (120, 60), clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("2")
            await until(app, lambda text: "letters" in text and "×shred" in text)
            await pilot.press("D")
            drawn = await until(app, lambda text: "Denied: shred" in text)
            seen = " ".join(drawn.replace("│", " ").split())
            for wanted in (
                "permitted by trainer-sees-rows-of-public-and-internal-data, roles.cedar, where this holds",
                "when { resource.classification <= 1 };",
                "classification confidential, personal unknown",
                "no policy permits it",
            ):
                assert wanted in seen, wanted
            assert "forbidden by" not in seen

    asyncio.run(walk())
    client.close()
    assert [one.kind for one in client.asked] == [None, "Dataset", "Run", "Model"]


def test_a_decision_about_a_thing_is_explained_of_what_it_is() -> None:
    client = Strict()

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, WIDE, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("8", "e")
            await until(app, lambda text: "Explain a decision" in text)
            await type_in(pilot, "shred.start")
            await pilot.press("enter", "enter")
            await type_in(pilot, "first")
            await pilot.press("enter")
            seen = await until(app, lambda text: "Who may: shred.start" in text)
            assert "Run first" in seen and "Dataset" not in seen

    asyncio.run(walk())
    client.close()


def test_what_cannot_be_asked_is_refused_in_words() -> None:
    """A word that is too long to be an action; a thing that is of no kind."""

    class Nothing(Strict):
        def explain(self, question: PolicyQuestion) -> PolicyAnswer:
            self.asked.append(question)
            if question.kind is None:
                raise InvalidInput("say on what: Dataset, Run, Model")
            raise NotFound("there is no such thing")

    client: Any = Nothing()
    with pytest.raises(NotFound):
        ask_why(client, "shred.start", thing="nothing")
    assert [one.kind for one in client.asked] == [None, "Dataset", "Run", "Model"]
    with pytest.raises(InvalidInput, match="action"):
        ask_why(client, "x" * 65)
    assert len(client.asked) == 4


def test_a_long_policy_says_that_there_is_more() -> None:
    rule = RULE.model_copy(update={"source": "\n".join(f"line {n}" for n in range(LINES + 7))})
    answer = Recorded().explain(PolicyQuestion(action="run.start")).model_copy(update={"forbids": [rule]})
    text = told("run.start", [answer], Picture()).plain
    assert f"line {LINES - 1}\n… 7 more lines" in text and f"line {LINES}\n" not in text
