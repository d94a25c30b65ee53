"""What the policies may know of a thing: its attributes by kind, and how they are put to Cedar.

What is not known about a thing counts as the strictest. Knows no state and no store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from cloister.api import Classification

CLASSIFICATIONS: tuple[Classification, ...] = get_args(Classification)
"""From the mildest to the strictest."""

CLASSIFIED = frozenset({"Dataset", "Run", "Model", "Deployment", "Approval"})
"""The kinds of things that have a classification: datasets, what was made of them, and what was asked for on them."""
OF_SOMEBODY = frozenset({"Approval", "Job"})
"""The kinds of things of which it counts who asked for them."""
PersonalData = Literal["none", "redacted", "replaced", "unknown", "found"]
PERSONAL: tuple[PersonalData, ...] = get_args(PersonalData)
"""What is known of personal data in a dataset, the best first. `unknown`: nobody has looked at all of it."""
SCORES = ("loss", "exact_match", "accuracy", "macro_f1")


BOUNDS = (
    "accuracy_low",
    "macro_f1_low",
    "exact_match_low",
    "field_accuracy_low",
    "json_valid_low",
    "rouge_l_low",
    "house_terms_low",
    "own_low",
    "loss_high",
    "gain_low",
    "larger_gain_low",
    "general_change_low",
    "general_low",
    "consistency",
)
"""Numbers of an evaluation's whole table that policies may refer to; `rows` and `advice` besides."""


LATER = ("wentWrong",)
"""Attributes that sets of an older version have no word for in their schemas, and no rule on."""


def strictest(found: frozenset[Classification] | set[Classification]) -> Classification:
    """The strictest of several; that of nothing is the mildest."""
    return max(found, key=CLASSIFICATIONS.index, default=CLASSIFICATIONS[0])


@dataclass(frozen=True)
class Scores:
    """An evaluation's numbers. The loss is in nats a supervised token, the others are shares of 1."""

    loss: float | None = None
    exact_match: float | None = None
    accuracy: float | None = None
    macro_f1: float | None = None

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> Scores:
        """Out of an evaluation's report; what is no number is left out."""
        found = {name: numbers.get(name) for name in SCORES}
        return cls(**{name: float(n) for name, n in found.items() if isinstance(n, int | float)})

    def for_cedar(self) -> dict[str, Any]:
        return _decimals(vars(self))


@dataclass(frozen=True)
class Bounds:
    """What the whole table of an evaluation showed; `numbers` by the names of `BOUNDS`."""

    rows: int | None = None
    advice: str | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Bounds:
        """Out of an evaluation's report; what is no number is left out."""
        rows, advice = found.get("rows"), found.get("advice")
        return cls(
            rows if isinstance(rows, int) else None,
            advice if isinstance(advice, str) else None,
            {name: float(n) for name in BOUNDS if isinstance(n := found.get(name), int | float)},
        )

    def for_cedar(self) -> dict[str, Any]:
        found = _decimals(self.numbers)
        if self.rows is not None:
            found["rows"] = self.rows
        if self.advice is not None:
            found["advice"] = self.advice
        return found


def _decimals(numbers: Mapping[str, float | None]) -> dict[str, Any]:
    """Cedar's decimals have four digits."""
    return {
        name: {"__extn": {"fn": "decimal", "arg": f"{value:.4f}"}}
        for name, value in numbers.items()
        if value is not None and abs(value) < 1e14
    }


@dataclass(frozen=True)
class Facts:
    """What is known of a thing. `went_wrong` is a model's: its run's numbers did, and its adapter is from before.
    `requester` is a job's and an approval's: who asked (uid). Three are an approval's: for which action, and who gave,
    and who asked for, what was approved before on the same data. `personal` is a run's: the worst of its datasets."""

    classification: Classification = CLASSIFICATIONS[-1]
    evaluated: bool = False
    went_wrong: bool = True
    tuned: Scores = field(default_factory=Scores)
    base: Scores = field(default_factory=Scores)
    evaluation: Bounds = field(default_factory=Bounds)
    requester: int = -1
    action: str = ""
    approved_before: frozenset[int] = frozenset()
    asked_before: frozenset[int] = frozenset()
    personal: PersonalData = "unknown"

    def for_cedar(self, kind: str) -> dict[str, Any]:
        """The attributes of an entity of this kind."""
        found: dict[str, Any] = {}
        if kind in CLASSIFIED:
            found["classification"] = self.classification
        if kind == "Job":
            found["requester"] = self.requester
        if kind == "Run":
            found["personalData"] = self.personal
        if kind in ("Model", "Deployment"):
            found |= {
                "evaluated": self.evaluated,
                "wentWrong": self.went_wrong,
                "tuned": self.tuned.for_cedar(),
                "base": self.base.for_cedar(),
                "evaluation": self.evaluation.for_cedar(),
            }
        if kind == "Approval":
            found = {
                "classification": self.classification,
                "requester": self.requester,
                "action": self.action,
                "approvedBefore": sorted(self.approved_before),
                "askedBefore": sorted(self.asked_before),
            }
        return found

    def told(self, kind: str) -> dict[str, str]:
        """The same in words, by the names that policies use."""
        return dict(_words("", self.for_cedar(kind)))


def _words(before: str, found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in found.items():
        if not isinstance(value, Mapping):
            yield before + name, str(value).lower() if isinstance(value, bool) else str(value)
        elif "__extn" in value:
            yield before + name, str(value["__extn"]["arg"])
        else:
            yield from _words(f"{before}{name}.", value)


STRICTEST = Facts()
MILDEST = Facts(
    classification=CLASSIFICATIONS[0],
    evaluated=True,
    went_wrong=False,
    tuned=Scores(loss=0.0, exact_match=1.0, accuracy=1.0, macro_f1=1.0),
    base=Scores(loss=1000.0, exact_match=0.0, accuracy=0.0, macro_f1=0.0),
    evaluation=Bounds(
        rows=1_000_000_000, advice="deploy", numbers={name: float(name != "loss_high") for name in BOUNDS}
    ),
    requester=-2,
    personal="none",
)
"""Public, and evaluated as well as can be: what is denied even here is denied always."""


@dataclass(frozen=True)
class Consent:
    """What somebody else has said to it: nothing, an approval, or one that they signed."""

    given: bool = False
    signed: bool = False

    def for_cedar(self) -> dict[str, Any]:
        return {"approval": {"given": self.given, "signed": self.signed}}


NO_CONSENT = Consent()
APPROVED = Consent(given=True)
SIGNED = Consent(given=True, signed=True)
