"""Who may do what: every action against every role and classification, asked of a policy set one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from cloister.policy.actions import ACTIONS, BY_NAME
from cloister.policy.cedar import ROLES, Demand, PolicySet, Question
from cloister.policy.things import CLASSIFICATIONS, CLASSIFIED, MILDEST

NONE = "none"
"""The column of an account that has no role."""
COLUMNS = (*ROLES, NONE)
ANY = "any"
"""The classification of what has none."""


@dataclass(frozen=True)
class Cell:
    """What one role alone gets for one action on one kind of thing, and which policies said so.

    `demand` is what it takes besides the role, for a model on one that was evaluated well. `allowed`: it can
    be done at all.
    """

    action: str
    kind: str
    classification: str
    role: str
    demand: Demand
    policies: tuple[str, ...]
    form: str | None = None

    @property
    def doing(self) -> str:
        """The action, and in which form where it has several."""
        return self.action if self.form is None else f"{self.action} ({self.form})"

    @property
    def allowed(self) -> bool:
        return self.demand is not Demand.DENIED

    @property
    def place(self) -> tuple[str, str, str, str]:
        return self.doing, self.kind, self.classification, self.role


def table(policies: PolicySet) -> tuple[Cell, ...]:
    """Every cell, by action, form, kind, classification and role."""
    cells = []
    for action in ACTIONS:
        for form, kind in product(action.forms or (None,), action.kinds):
            mildest = [(name, replace(MILDEST, classification=name)) for name in CLASSIFICATIONS]
            for classification, facts in mildest if kind in CLASSIFIED else [(ANY, MILDEST)]:
                for role in COLUMNS:
                    roles = frozenset() if role == NONE else frozenset({role})
                    question = Question("somebody", roles, action.name, kind, facts=facts, form=form)
                    demand, decision = policies.demand(question)
                    cells.append(
                        Cell(action.name, kind, classification, role, demand, decision.policies, form)
                    )
    return tuple(cells)


def changed(before: PolicySet, after: PolicySet) -> tuple[tuple[Cell, Demand], ...]:
    """The cells of `after` that come out otherwise than in `before`, each with what it was."""
    old = {cell.place: cell.demand for cell in table(before)}
    return tuple((cell, old[cell.place]) for cell in table(after) if old[cell.place] is not cell.demand)


def rows(cells: tuple[Cell, ...]) -> list[tuple[str, ...]]:
    """One line an action, kind and classification; one for all classifications that come out alike."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for cell in cells:
        mark = "-" if cell.demand is Demand.DENIED else str(cell.demand)
        found.setdefault((cell.doing, cell.kind, cell.classification), {})[cell.role] = mark
    lines: list[tuple[str, ...]] = []
    for (action, kind, classification), marks in found.items():
        line = (action, kind, classification, *(marks[role] for role in COLUMNS))
        before = lines[-1] if lines else ()
        if (*before[:2], *before[3:]) == (*line[:2], *line[3:]):
            lines[-1] = (*before[:2], f"{before[2]}, {classification}", *before[3:])
        else:
            lines.append(line)
    everything = ", ".join(CLASSIFICATIONS)
    return [(*line[:2], ANY if line[2] == everything else line[2], *line[3:]) for line in lines]


def as_markdown(cells: tuple[Cell, ...]) -> str:
    """The table for people."""
    lines = [
        f"| action | on | classification | {' | '.join(COLUMNS)} |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    lines += [f"| {' | '.join('–' if mark == '-' else mark for mark in row)} |" for row in rows(cells)]
    return "\n".join(lines) + "\n"


def who_may(policies: PolicySet, action: str, kind: str) -> tuple[str, ...]:
    """The roles of which one alone is enough, with an approval where that is demanded."""
    assert kind in BY_NAME[action].kinds
    return tuple(
        role for role in ROLES if policies.ever(Question("somebody", frozenset({role}), action, kind)).allowed
    )
