"""Why the policies deny an action, as the authority explains it, in words for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.paint import facts, outside, stack, styled
from cloister.console.picture import Picture

if TYPE_CHECKING:
    from cloister.api import PolicyAnswer
    from cloister.client import Client


def ask_why(client: Client, action: str, account: str | None = None) -> list[PolicyAnswer]:
    """One answer for each kind that the action may be done to. Errors: Denied where nothing may be asked."""
    from cloister.api import PolicyQuestion
    from cloister.errors import InvalidInput

    try:
        return [client.explain(PolicyQuestion(action=action, account=account))]
    except InvalidInput as error:  # it has several kinds, which the message lists
        if ":" not in error.message:
            raise
        kinds = error.message.rpartition(":")[2].split(",")
        return [
            client.explain(PolicyQuestion(action=action, kind=kind.strip(), account=account))
            for kind in kinds
        ]


def told(action: str, answers: list[PolicyAnswer], picture: Picture) -> Text:
    """Who you are, which roles may, and the policies that forbid it."""
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
                    ("on", answer.kind),
                    ("allowed", "yes" if answer.allowed else "no"),
                    ("takes", answer.demand),
                    ("who may", may),
                    ("decided by", ", ".join(answer.policies) or "no policy permits it"),
                    ("problem", answer.problem),
                ]
            )
        )
        for rule in answer.forbids:
            named = styled("forbidden by ", "bold").append_text(outside(f"{rule.policy_id}, {rule.file}"))
            parts.append(Text("\n").join([named, *map(outside, rule.source.splitlines()[:20])]))
    return stack(*parts)
