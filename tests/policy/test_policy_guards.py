"""A bound that no evaluation can have is refused: Cedar takes it for false, and the policy would never forbid."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.cli.policy import check
from cloister.errors import InvalidInput
from cloister.policy.cedar import PolicySet, default_policies
from cloister.policy.guards import MOST, refuse_unknown_names
from cloister.policy.things import BOUNDS

SERVING = 'principal, action == Action::"deployment.start", resource'
ANY = "principal, action, resource"
FILES = {path.name: path.read_text() for path in default_policies().glob("*.cedar*")}


def with_policy(condition: str, scope: str = SERVING) -> PolicySet:
    """Valid by Cedar's own validator."""
    text = f'@id("own-bound") forbid ({scope}) when {{ {condition} }};'
    return PolicySet({**FILES, "own.cedar": text}, "own")


def test_the_set_that_ships_asks_for_what_there_is() -> None:
    refuse_unknown_names(PolicySet.load(default_policies()), "shipped")


@pytest.mark.parametrize("name", [*BOUNDS, "rows", "advice"])
def test_every_bound_of_an_evaluation_can_be_asked_for(name: str) -> None:
    refuse_unknown_names(with_policy(f"resource.evaluation has {name}"), "own")


@pytest.mark.parametrize(
    ("condition", "scope"),
    [
        ("resource has evaluation && resource.evaluation has gain_low", ANY),
        ("resource has requester", ANY),
        ("principal has uid", ANY),
        ("context has approval && context.approval has given", SERVING),
    ],
)
def test_what_some_things_within_its_scope_have_can_be_asked_for(condition: str, scope: str) -> None:
    refuse_unknown_names(with_policy(condition, scope), "own")


@pytest.mark.parametrize(
    ("condition", "scope"),
    [
        ("resource.evaluation has macro_f1_lo", SERVING),
        (
            'resource.evaluation has macro_f1 && resource.evaluation.macro_f1.lessThan(decimal("0.5"))',
            SERVING,
        ),
        ("resource.tuned has loss && (principal.uid == 0 || resource.evaluation has loss)", SERVING),
        ("!(resource.evaluation has Advice)", SERVING),
        ('resource.evaluation has "gain low"', SERVING),
        ("resource has requester", SERVING),
        ("resource has evaluation && resource.evaluation has gain", ANY),
        ("principal has gid", ANY),
    ],
)
def test_what_nothing_within_its_scope_has_is_refused_by_name(condition: str, scope: str) -> None:
    with pytest.raises(InvalidInput, match=r"own-bound: .* would never hold"):
        refuse_unknown_names(with_policy(condition, scope), "own")


def test_a_set_with_too_many_questions_is_refused_before_they_are_asked() -> None:
    many = " || ".join(f"resource.evaluation has x{number}" for number in range(101))
    texts = [f'@id("own-{n}") forbid ({SERVING}) when {{ {many} }};' for n in range(MOST // 100)]
    with pytest.raises(InvalidInput, match="at most"):
        refuse_unknown_names(PolicySet({**FILES, "own.cedar": "\n".join(texts)}, "own"), "own")


def test_a_check_of_a_folder_names_it(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "own.cedar").write_text(
        f'@id("own-bound") forbid ({SERVING}) when {{ resource.evaluation has gain }};'
    )
    with pytest.raises(InvalidInput, match="own-bound"):
        check(tmp_path)
    (tmp_path / "own.cedar").write_text(
        f'@id("own-bound") forbid ({SERVING}) when {{ resource.evaluation has gain_low }};'
    )
    check(tmp_path)
