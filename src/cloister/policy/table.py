"""Who may do what: every action against every role, asked of a policy set one by one."""

from __future__ import annotations

from dataclasses import dataclass

from cloister.policy.actions import ACTIONS
from cloister.policy.cedar import ROLES, PolicySet, Question

NONE = "none"
"""The column of an account that has no role."""
COLUMNS = (*ROLES, NONE)


@dataclass(frozen=True)
class Cell:
    """What one role alone gets for one action on one kind of thing, and which policies said so."""

    action: str
    kind: str
    role: str
    allowed: bool
    policies: tuple[str, ...]


def table(policies: PolicySet) -> tuple[Cell, ...]:
    """Every cell, by action, kind and role."""
    cells = []
    for action in ACTIONS:
        for kind in action.kinds:
            for role in COLUMNS:
                roles = frozenset() if role == NONE else frozenset({role})
                decision = policies.decide(Question("somebody", roles, action.name, kind))
                cells.append(Cell(action.name, kind, role, decision.allowed, decision.policies))
    return tuple(cells)


def changed(before: PolicySet, after: PolicySet) -> tuple[Cell, ...]:
    """The cells of `after` that come out otherwise than in `before`."""
    old = {(cell.action, cell.kind, cell.role): cell.allowed for cell in table(before)}
    return tuple(cell for cell in table(after) if old[cell.action, cell.kind, cell.role] != cell.allowed)


def as_markdown(cells: tuple[Cell, ...]) -> str:
    """The table for people: one line an action and kind."""
    allowed = {(cell.action, cell.kind, cell.role): cell.allowed for cell in cells}
    lines = [f"| action | on | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for action, kind in dict.fromkeys((cell.action, cell.kind) for cell in cells):
        marks = ["yes" if allowed[action, kind, role] else "–" for role in COLUMNS]
        lines.append(f"| {action} | {kind} | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"


def who_may(policies: PolicySet, action: str, kind: str) -> tuple[str, ...]:
    """The roles of which one alone is enough."""
    return tuple(
        role
        for role in ROLES
        if policies.decide(Question("somebody", frozenset({role}), action, kind)).allowed
    )
