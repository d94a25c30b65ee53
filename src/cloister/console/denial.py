"""Why the policies deny an action, as the authority explains it, in words for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.asking import checked
from cloister.console.paint import facts, outside, stack, styled
from cloister.console.picture import Picture
from cloister.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from cloister.api import PolicyAnswer, PolicyRule
    from cloister.client import Client

LINES = 20
"""Of one policy that are shown."""


def ask_why(
    client: Client, action: str, account: str | None = None, thing: str | None = None
) -> list[PolicyAnswer]:
    """One answer for each kind that the action may be done to; about a thing, of the kind that it is.

    Errors: InvalidInput for what is no question, Denied where nothing may be asked, NotFound where there is no such
    thing.
    """
    from cloister.api import PolicyQuestion

    question = checked(PolicyQuestion, action=action, account=account, thing=thing)
    try:
        return [client.explain(question)]
    except InvalidInput as error:  # it has several kinds, which the message lists
        if ":" not in error.message:
            raise
        kinds = error.message.rpartition(":")[2].split(",")
    answers: list[PolicyAnswer] = []
    missing: NotFound | None = None
    for kind in kinds:
        try:
            answers.append(client.explain(question.model_copy(update={"kind": kind.strip()})))
        except NotFound as error:
            missing = error
    if missing is not None and not answers:
        raise missing
    return answers


def told(action: str, answers: list[PolicyAnswer], picture: Picture) -> Text:
    """Who you are, which roles may, and the policies that forbid it, or that would permit it to you where what they
    say of the thing held, beside what is known of it."""
    who = picture.whoami
    parts = []
    if who is not None:
        roles = ", ".join(who.roles) or "no role"
        parts.append(facts([("you are", f"{who.account}: {roles}"), ("action", action)]))
    for answer in answers:
        may = ", ".join(answer.roles_that_may) or "nobody"
        parts.append(
            facts(
                [
                    ("on", answer.kind if answer.thing is None else f"{answer.kind} {answer.thing}"),
                    ("allowed", "yes" if answer.allowed else "no"),
                    ("it takes", answer.demand if answer.demand not in ("yes", "no") else ""),
                    ("who may", may),
                    ("decided by", ", ".join(answer.policies) or "no policy permits it"),
                    ("problem", answer.problem),
                    ("it has", ", ".join(f"{name} {value}" for name, value in answer.attributes.items())),
                ]
            )
        )
        parts += [_rule("forbidden by ", rule, "") for rule in answer.forbids]
        parts += [_rule("permitted by ", rule, ", where this holds") for rule in answer.permits]
    return stack(*parts)


def _rule(effect: str, rule: PolicyRule, where: str) -> Text:
    """A policy by its name and file, then as it stands there."""
    named = styled(effect, "bold").append_text(outside(f"{rule.policy_id}, {rule.file}")).append(where)
    lines = rule.source.splitlines()
    more = [Text(f"… {len(lines) - LINES} more lines", "dim")] if len(lines) > LINES else []
    return Text("\n").join([named, *map(outside, lines[:LINES]), *more])
