"""The verdict in words, by rules on the intervals of the table. Knows numbers; it says nothing that they do not.

The tuned model is set against the best of what needs no tuning. It is worth deploying where the whole interval of its
gain is above zero; not, where the interval holds no gain that anybody would notice; else there are too few rows. Where
it surely lost general abilities, or a larger untuned model is surely better, it is to be weighed before it is deployed.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from cloister.evaluation.general import CANNOT, General
from cloister.evaluation.statistics import rows_needed
from cloister.evaluation.table import (
    BASE,
    FEW_SHOT,
    LARGER,
    LOWER_IS_BETTER,
    RETRIEVAL,
    TUNED,
    Line,
    Table,
    counted,
)

Advice = Literal["deploy", "weigh", "do-not-deploy", "cannot-tell"]
Reservation = Literal["general-abilities-lost", "larger-model-better"]
HEADLINES: dict[Advice, str] = {
    "deploy": "It was worth it.",
    "weigh": "It was worth it, at a price: weigh it.",
    "do-not-deploy": "It was not worth it.",
    "cannot-tell": "It cannot be told yet.",
}
"""The advice in a sentence, for whoever reads no other."""
NOTICED = 0.03
"""A gain of fewer points than that is not worth a model of one's own."""
NOTICED_NATS = 0.02

UNABLE = 0.1
"""A share of right answers below that is said to be none."""

_CALLED = {
    BASE: "the base as it is",
    FEW_SHOT: "few-shot prompting",
    RETRIEVAL: "prompting with retrieved examples",
}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What follows. `against` is the line that the tuned model was set against; what makes of `deploy` a `weigh` are
    the `reservations`."""

    advice: Advice
    against: str | None
    sentences: list[str]
    reservations: list[Reservation] = []


def verdict(table: Table) -> Verdict:
    """The rules, in order: against prompting, against a larger model, what it costs, what was lost."""
    rivals = [line for line in table.lines if line.name in _CALLED and line.gain is not None]
    advice: Advice = "cannot-tell"
    sentences: list[str] = []
    against: str | None = None
    if rivals:
        best = min(rivals, key=lambda line: line.gain.value if line.gain else 0.0)
        against = best.name
        advice, sentences = _against(table, best)
        sentences += _unable(table, best)
    if advice != "do-not-deploy":
        sentences += [text for line in table.lines if (text := _larger(table, line))]
        sentences += _money(table)
    tuned = table.line(TUNED)
    if tuned is not None and tuned.consistency is not None and tuned.consistency.high < 0.9:
        sentences.append(
            f"Asked again, in other words or at a temperature, it answers alike only {tuned.consistency.value:.0%} of "
            "the time."
        )
    if table.general is not None:
        sentences.append(_lost(table.general))
    reservations = _reservations(table)
    if advice == "deploy" and reservations:
        advice = "weigh"
        sentences.append(_WEIGH[tuple(reservations)])
    return Verdict(advice=advice, against=against, sentences=sentences, reservations=reservations)


_ALONE = "deploy it for its own task alone, where nothing else is asked of it"
_INSTEAD = "serving that one, or tuning it, may be the better choice"
_WEIGH: dict[tuple[Reservation, ...], str] = {
    (
        "general-abilities-lost",
    ): f"Weigh it: it is better at its task and lost what it could do beside it; {_ALONE}.",
    ("larger-model-better",): f"Weigh it: a larger model does better untuned; {_INSTEAD}.",
    ("general-abilities-lost", "larger-model-better"): (
        f"Weigh it: it lost what it could do beside its task, and a larger model does better untuned; {_INSTEAD}."
    ),
}


def _reservations(table: Table) -> list[Reservation]:
    """What speaks against deploying a model that is better than prompting."""
    found: list[Reservation] = []
    general = table.general
    if general is not None and general.base.value >= CANNOT and general.change.high < 0:
        found.append("general-abilities-lost")
    larger = [line.gain for line in table.lines if line.name.startswith(LARGER) and line.gain is not None]
    if any(gain.high < 0 for gain in larger):
        found.append("larger-model-better")
    return found


def _against(table: Table, best: Line) -> tuple[Advice, list[str]]:
    gain, called = best.gain, _called(best)
    assert gain is not None
    least = _noticed(table, best)
    told = f"{_points(table, gain.value)} [{_number(table, gain.low)}, {_number(table, gain.high)}]"
    figure = table.primary.replace("_", " ")
    if gain.high < 0:
        worse = f"{_points(table, -gain.value)} [{_number(table, -gain.high)}, {_number(table, -gain.low)}]"
        return "do-not-deploy", [
            f"{_capital(called)} is better than fine-tuning by {worse} ({figure}, {table.rows} rows): do not deploy."
        ]
    if gain.high < least:
        so = "within the noise of" if gain.low <= 0 else "as good as makes no difference to"
        return "do-not-deploy", [
            f"{_capital(called)} is {so} fine-tuning here: do not deploy. The difference is {told} "
            f"({figure}, {table.rows} rows)."
        ]
    if gain.low > 0:
        return "deploy", [f"Fine-tuning is better than {called} by {told} ({figure}, {table.rows} rows)."]
    if (
        gain.value <= 0 and gain.high < 2 * least
    ):  # no better, and no gain that would count twice over is left
        return "do-not-deploy", [
            f"{_capital(called)} is within the noise of fine-tuning here: do not deploy. The difference is {told} "
            f"({figure}, {table.rows} rows)."
        ]
    needed = rows_needed(table.rows, gain, least)
    return "cannot-tell", [
        f"Too few hold-out rows ({table.rows}) to tell fine-tuning from {called}: the difference is {told} ({figure}). "
        f"About {needed} rows would do."
    ]


def _called(line: Line) -> str:
    return "the base with an instruction" if line.name == BASE and line.instructed else _CALLED[line.name]


def _unable(table: Table, best: Line) -> list[str]:
    """That nobody can do the task, where that is so: then it is the run that is to be looked at."""
    tuned = table.line(TUNED)
    if tuned is None or table.primary in LOWER_IS_BETTER or table.primary.startswith("own"):
        return []
    own, theirs = (line.figures[table.primary].value for line in (tuned, best))
    if max(own, theirs) >= UNABLE:
        return []
    return [
        f"Neither can do the task ({own:.1%} and {theirs:.1%}): the run has not learnt it. `cloister evaluate errors` "
        "shows what it answers; more epochs, another learning rate or a larger base may help."
    ]


def _noticed(table: Table, best: Line) -> float:
    """What a gain has to be for anybody to notice; of a metric of one's own, whose scale is not known, a share."""
    if table.primary in LOWER_IS_BETTER:
        return NOTICED_NATS
    if not table.primary.startswith("own"):
        return NOTICED
    tuned = table.line(TUNED)
    values = [abs(line.figures[table.primary].value) for line in (best, tuned) if line is not None]
    return NOTICED * (max(values) or 1.0)


def _larger(table: Table, line: Line) -> str | None:
    if not line.name.startswith(LARGER) or line.gain is None:
        return None
    called = "The larger untuned model" + (" with few-shot examples" if "few-shot" in line.name else "")
    told = _points(table, abs(line.gain.value))
    if line.gain.low > 0:
        return f"{called} does worse by {told}."
    if line.gain.high < 0:
        return f"{called} does better by {told}: weigh it against a model of your own."
    return f"{called} is within the noise of the tuned one."


def _money(table: Table) -> list[str]:
    if all(line.cost is None for line in table.lines):
        return ["What it costs is not known: the settings name no price of the device (`prices`)."]
    if table.training_cost is None:
        return ["When its training is paid back is not known: how long it took was not kept."]
    said = []
    for line in table.lines:
        if line.name not in _CALLED or line.cost is None or table.training_cost is None:
            continue
        if line.pays_after is not None:
            said.append(f"after {counted(line.pays_after)} queries against {_called(line)}")
    if table.pays_after_person is not None:
        cases = f"{counted(table.pays_after_person)} case{'' if table.pays_after_person == 1 else 's'}"
        said.append(f"after {cases} against a person's minutes")
    timed = (
        f"by times of {table.timed_with}, not of vLLM"
        if "vLLM" not in table.timed_with
        else "by vLLM's times"
    )
    if said:
        return [f"Its training is paid back {'; '.join(said)} ({timed})."]
    return [f"By cost alone it never pays: a query is no cheaper than one that is prompted ({timed})."]


def _lost(general: General) -> str:
    change = f"{abs(general.change.value) * 100:.0f} points"
    if general.base.value < CANNOT:
        return (
            f"The base cannot do the general check either ({general.base.value:.0%} of {general.items} items): nothing "
            "can be said about what was lost."
        )
    if general.change.high < 0:
        return (
            f"General abilities fell by {change} [{-general.change.high * 100:.0f}, {-general.change.low * 100:.0f}], "
            f"from {general.base.value:.0%} to {general.tuned.value:.0%} of {general.items} items"
            + ("." if general.tuned.value >= general.base.value / 2 else ": more than half of them are gone.")
        )
    if general.change.low > 0:
        return f"General abilities rose by {change}."
    return (
        f"General abilities: {general.base.value:.0%} before, {general.tuned.value:.0%} after, of {general.items} "
        "items; the difference is within the noise."
    )


def _points(table: Table, value: float) -> str:
    if table.primary in LOWER_IS_BETTER:
        return f"{value:.3f} nats a token"
    if table.primary.startswith("own"):
        return f"{value:.3f}"
    return f"{value * 100:.1f} points"


def _number(table: Table, value: float) -> str:
    if table.primary in LOWER_IS_BETTER or table.primary.startswith("own"):
        return f"{value:.3f}"
    return f"{value * 100:.1f}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
