"""Who may do what: every action against every role, classification and situation, asked of a policy set one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from cloister.policy.actions import ACTIONS, BY_NAME, Action
from cloister.policy.cedar import ROLES, Demand, PolicySet, Question
from cloister.policy.things import CLASSIFICATIONS, CLASSIFIED, MILDEST, Bounds, Facts, Scores

NONE = "none"
"""The column of an account that has no role."""
COLUMNS = (*ROLES, NONE)
ANY = "any"
"""The classification of what has none."""


SOMEBODY = 1000
"""The user id of the account that the table asks for."""
_SCORED = {"Model", "Deployment"}
_SITUATIONS: dict[str, dict[str | None, Facts]] = {
    "asked": {
        "another's": MILDEST,
        "one's own": replace(MILDEST, requester=SOMEBODY),
        "second gate": replace(MILDEST, approved_before=frozenset({SOMEBODY})),
        "asked at another gate": replace(MILDEST, asked_before=frozenset({SOMEBODY})),
    },
    "queued": {
        "another's": MILDEST,
        "one's own": replace(MILDEST, requester=SOMEBODY),
    },
    "scored": {
        "measured better": MILDEST,
        "measured no better": replace(MILDEST, tuned=MILDEST.base, evaluation=Bounds()),
        "not measured": replace(MILDEST, evaluated=False, tuned=Scores(), base=Scores(), evaluation=Bounds()),
        "went wrong, not measured": replace(
            MILDEST, went_wrong=True, evaluated=False, tuned=Scores(), base=Scores(), evaluation=Bounds()
        ),
    },
    "read": {
        "no personal data": MILDEST,
        "personal data found": replace(MILDEST, personal="found"),
    },
}


def situations(action: Action, kind: str) -> dict[str | None, Facts]:
    """What else than the classification the policies may look at, by a word for it: of an approval whose request it
    is, and whether the account has approved, or asked for, something else on the same data; of a job whose it is; of a
    model that is to be let out or served, what its evaluation has shown against its base's; of a run to start, what was
    found in its rows."""
    if kind == "Approval":
        return _SITUATIONS["asked"]
    if action.name in ("job.lower", "job.raise"):
        return _SITUATIONS["queued"]
    if kind in _SCORED and action.gate and not action.name.startswith("shred."):
        return _SITUATIONS["scored"]
    if action.name == "run.start":
        return _SITUATIONS["read"]
    return {None: MILDEST}


@dataclass(frozen=True)
class Cell:
    """What one role alone gets for one action on one kind of thing, and which policies said so.

    `demand` is what it takes besides the role. `allowed`: it can be done at all.
    """

    action: str
    kind: str
    classification: str
    role: str
    demand: Demand
    policies: tuple[str, ...]
    form: str | None = None
    situation: str | None = None

    @property
    def doing(self) -> str:
        """The action, and in which form and situation where it has several."""
        more = ", ".join(one for one in (self.form, self.situation) if one is not None)
        return f"{self.action} ({more})" if more else self.action

    @property
    def allowed(self) -> bool:
        return self.demand is not Demand.DENIED

    @property
    def place(self) -> tuple[str, str, str, str]:
        return self.doing, self.kind, self.classification, self.role


@lru_cache(maxsize=2)  # a set never changes: the one in force is asked for again and again
def table(policies: PolicySet) -> tuple[Cell, ...]:
    """Every cell, by action, form, kind, situation, classification and role."""
    cells = []
    for action in ACTIONS:
        for form, kind in product(action.forms or (None,), action.kinds):
            found = [
                (
                    situation,
                    classification,
                    replace(facts, classification=classification or facts.classification),
                )
                for situation, facts in situations(action, kind).items()
                for classification in (CLASSIFICATIONS if kind in CLASSIFIED else (None,))
            ]
            for (situation, classification, facts), role in product(found, COLUMNS):
                question = Question(
                    "somebody",
                    frozenset() if role == NONE else frozenset({role}),
                    action.name,
                    kind,
                    uid=SOMEBODY,
                    facts=facts,
                    form=form,
                )
                demand, decision = policies.demand(question)
                cells.append(
                    Cell(
                        action.name,
                        kind,
                        classification or ANY,
                        role,
                        demand,
                        decision.policies,
                        form,
                        situation,
                    )
                )
    return tuple(cells)


def changed(before: PolicySet, after: PolicySet) -> tuple[tuple[Cell, Demand], ...]:
    """The cells of `after` that come out otherwise than in `before`, each with what it was; one for all situations
    that come out alike."""
    old = {cell.place: cell.demand for cell in table(before)}
    found: dict[tuple[str | None, ...], list[Cell]] = {}
    for cell in table(after):
        found.setdefault((cell.action, cell.form, cell.kind, cell.classification, cell.role), []).append(cell)
    pairs: list[tuple[Cell, Demand]] = []
    for cells in found.values():
        ways = {(old[cell.place], cell.demand) for cell in cells}
        other = [(cell, old[cell.place]) for cell in cells if old[cell.place] is not cell.demand]
        pairs += (
            [(replace(cell, situation=None), was) for cell, was in other[:1]] if len(ways) == 1 else other
        )
    return tuple(pairs)


def rows(cells: tuple[Cell, ...]) -> list[tuple[str, ...]]:
    """One line an action, kind, situation and classification; one for all of these that come out alike."""
    found: dict[tuple[str, str | None, str], dict[tuple[str | None, str], dict[str, str]]] = {}
    for cell in cells:
        mark = "-" if cell.demand is Demand.DENIED else str(cell.demand)
        lines_of = found.setdefault((cell.action, cell.form, cell.kind), {})
        lines_of.setdefault((cell.situation, cell.classification), {})[cell.role] = mark
    lines: list[tuple[str, ...]] = []
    for (action, form, kind), marks in found.items():
        by_situation: dict[str | None, dict[str, dict[str, str]]] = {}
        for (situation, classification), of_roles in marks.items():
            by_situation.setdefault(situation, {})[classification] = of_roles
        first = next(iter(by_situation.values()))
        if all(one == first for one in by_situation.values()):
            by_situation = {None: first}
        for situation, of_classes in by_situation.items():
            more = ", ".join(one for one in (form, situation) if one is not None)
            doing = f"{action} ({more})" if more else action
            lines += _lines(doing, kind, of_classes)
    return lines


def _lines(doing: str, kind: str, of_classes: dict[str, dict[str, str]]) -> list[tuple[str, ...]]:
    alike: dict[tuple[str, ...], list[str]] = {}
    for classification, marks in of_classes.items():
        alike.setdefault(tuple(marks[role] for role in COLUMNS), []).append(classification)
    return [
        (doing, kind, ANY if len(classes) == len(CLASSIFICATIONS) else ", ".join(classes), *marks)
        for marks, classes in alike.items()
    ]


def as_markdown(cells: tuple[Cell, ...]) -> str:
    """The table for people."""
    lines = [
        f"| action | on | classification | {' | '.join(COLUMNS)} |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    lines += [f"| {' | '.join('–' if mark == '-' else mark for mark in row)} |" for row in rows(cells)]
    return "\n".join(lines) + "\n"


@lru_cache(maxsize=512)  # asked at every refusal
def who_may(policies: PolicySet, action: str, kind: str) -> tuple[str, ...]:
    """The roles of which one alone is enough, with an approval where that is demanded."""
    assert kind in BY_NAME[action].kinds
    return tuple(
        role for role in ROLES if policies.ever(Question("somebody", frozenset({role}), action, kind)).allowed
    )


def unpermitted(policies: PolicySet) -> tuple[str, ...]:
    """The actions that nobody may do, of the six roles, those without one and the gateway's account."""
    may = {cell.action for cell in table(policies) if cell.allowed}
    for action in ACTIONS:
        question = Question("somebody", frozenset({"gateway"}), action.name, action.kinds[0])
        if policies.ever(question).allowed:
            may.add(action.name)
    return tuple(action.name for action in ACTIONS if action.name not in may)
