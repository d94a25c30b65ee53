"""What a request is about, to the byte: the things it names, their digests, and the configuration.

The same request over the same things freezes to the same; anything that changed changes it. It reads the
state, and neither decides nor keeps anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from cloister.api import (
    ClassifyRequest,
    EvaluateConfig,
    ExportRequest,
    ObjectKind,
    RunRequest,
    ServeConfig,
    ServeRequest,
    ShredRequest,
    TrainConfig,
)
from cloister.appliance.catalogue import find
from cloister.appliance.facts import (
    data_class,
    dataset_class,
    model_facts,
    nearest_data,
    object_data,
    run_data,
    run_of_model,
)
from cloister.appliance.personal_data import personal_in
from cloister.appliance.runs import find_run, run_inputs, went_wrong
from cloister.appliance.shred_plan import plan_of, roots_of
from cloister.appliance.state import ObjectRow
from cloister.errors import InvalidInput
from cloister.ledger.entry import canonical_json
from cloister.policy.things import Facts

SHOWN = 12
UNNAMED: dict[str, dict[str, Any]] = {
    "train": TrainConfig.frozen({}).model_dump(mode="json"),
    "evaluate": EvaluateConfig().model_dump(mode="json", exclude_none=True),
    "config": ServeConfig().model_dump(mode="json"),
}
"""What settings mean that a request does not name, by where the request has them."""


@dataclass(frozen=True)
class Frozen:
    """`pinned` is all that the digest covers, `summary` the same in words; `data` are the datasets behind it.
    `form` is how, for an action that has forms: what is pinned has it, too. `settings` are those parts of what is
    pinned that are settings, each with where the request has it."""

    kind: str
    thing: str
    name: str
    facts: Facts
    pinned: dict[str, Any]
    summary: tuple[str, ...]
    data: tuple[str, ...]
    form: str | None = None
    settings: tuple[tuple[str, str], ...] = ()

    def as_of(self, request: Mapping[str, Any]) -> Frozen:
        """The same as the version froze it that took that request in, whole: settings that it did not know yet are
        left out where they say what was done before."""
        pinned = dict(self.pinned)
        for part, place in self.settings:
            pinned[part] = _without_later(pinned[part], request.get(place), UNNAMED[place])
        return replace(self, pinned=pinned)

    def digest(self, action: str, policies: str) -> str:
        """SHA-256, hex, over the action, the policy set in force and everything pinned."""
        whole = {
            "action": action,
            "kind": self.kind,
            "thing": self.thing,
            "name": self.name,
            "classification": self.facts.classification,
            "policies": policies,
            "pinned": self.pinned,
        }
        return hashlib.sha256(canonical_json(whole)).hexdigest()


Freezer = Callable[[Session, dict[str, Any], datetime], Frozen]
"""From a request as it was asked for. Errors: NotFound, Shredded, where something of it is no longer there."""


def freeze_run(session: Session, request: dict[str, Any], now: datetime) -> Frozen:
    """A fine-tuning: dataset, base, hold-out, the adapter that it goes on from, and the whole configuration."""
    asked = RunRequest.model_validate({**request, "train": TrainConfig.frozen(request["train"])})
    inputs = run_inputs(session, asked)
    if "holdout" in inputs and inputs["holdout"].object_id == inputs["dataset"].object_id:
        raise InvalidInput(
            "the hold-out is the dataset itself: what is measured on rows that were learnt says nothing",
            where=asked.name,
            remedy="Leave it out, for the dataset's own split, or name another dataset.",
        )
    data = sorted(set().union(*(object_data(session, row) for row in inputs.values())))
    learnt = sorted(set().union(*(nearest_data(session, row) for row in inputs.values())))
    train = asked.train
    personal = personal_in(session, learnt)
    return Frozen(
        kind="Run",
        thing=asked.name,
        name=asked.name,
        facts=Facts(data_class(session, learnt), personal=personal),
        pinned={
            **{role: _pin(row) for role, row in inputs.items()},
            "train": train.model_dump(mode="json"),
            "evaluate": asked.evaluate.model_dump(mode="json", exclude_none=True) if asked.evaluate else None,
        },
        summary=(
            *(f"{role}: {_told(row)}" for role, row in inputs.items()),
            *([f"personal data in it: {personal}"] if personal != "unknown" else []),
            f"training: {train.method}, rank {train.lora.rank}, {train.epochs:g} epochs, "
            f"learning rate {train.learning_rate:g}, rows of at most {train.max_length} tokens"
            + (f", on {train.processes} devices" if train.processes > 1 else ""),
            *_unusual(train),
            f"evaluation: {_asked_of(asked)}",
        ),
        data=tuple(data),
        settings=(("train", "train"), ("evaluate", "evaluate")),
    )


def freeze_deployment(session: Session, request: dict[str, Any], now: datetime) -> Frozen:
    """A promotion to serving: the model, what it came of, what its evaluation showed, and how it is served."""
    asked = ServeRequest.model_validate(request)
    model = find(session, ObjectKind.MODEL, asked.model)
    facts = model_facts(session, model)
    run = run_of_model(session, model)
    measured = run.evaluation if run is not None else None
    shown = [f"model: {_told(model)}"]
    if run is not None:
        shown.append(f"of the run {run.name} ({run.run_id}) by {run.created_by}")
        shown.append(
            f"trained on {run.dataset}, base {run.base}, measured on {run.holdout or 'its hold-out'}"
        )
        if (why := went_wrong(session, run)) is not None:
            shown.append(f"its run went wrong: {why}")
    shown.append(_measured(facts, measured))
    shown += _verdict(measured)
    return Frozen(
        kind="Deployment",
        thing=model.object_id,
        name=asked.name,
        facts=facts,
        pinned={
            "model": _pin(model),
            "run": run.run_id if run is not None else None,
            "made_of": [run.dataset, run.base, run.holdout] if run is not None else None,
            "evaluation": _pinned(measured),
            "serve": asked.config.model_dump(mode="json"),
        },
        summary=(*shown, f"served as: {asked.name}, up to {asked.config.max_model_len} tokens"),
        data=tuple(sorted(object_data(session, model))),
        settings=(("serve", "config"),),
    )


def freeze_shred(session: Session, request: dict[str, Any], now: datetime) -> Frozen:
    """A shred: the thing, and everything that goes with it. `request` holds kind, reference and the rest."""
    kind = str(request["kind"])
    asked = ShredRequest.model_validate(request["request"])
    object_id, name, roots = roots_of(session, kind, str(request["reference"]), asked.version)
    plan = plan_of(session, kind, object_id, name, roots, now)
    entity = {"run": "Run", ObjectKind.MODEL: "Model"}.get(kind, "Dataset")
    if kind == "run":
        data = set(run_data(session, find_run(session, object_id)))
    else:
        data = object_data(session, find(session, ObjectKind(kind), object_id))
    for item in plan.items:  # what goes may have come of other data, too, and stricter
        row = session.get(ObjectRow, (item.object_id, item.version))
        data |= object_data(session, row) if row is not None else set()
    for run_id in plan.runs:
        data |= set(run_data(session, find_run(session, run_id)))
    which = "" if asked.version is None else f" version {asked.version}"
    items = [f"{item.kind} {item.name} ({item.object_id} version {item.version})" for item in plan.items]
    rest = [f"and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return Frozen(
        kind=entity,
        thing=object_id,
        name=name,
        facts=Facts(data_class(session, data)),
        pinned={
            "items": sorted([item.object_id, item.version] for item in plan.items),
            "version": asked.version,
            "take_down": asked.take_down,
        },
        summary=(
            f"destroys {kind} {name}{which} and all that came of it, for good:",
            *items[:SHOWN],
            *rest,
            f"stops what uses it: {'yes' if asked.take_down else 'no'}",
        ),
        data=tuple(sorted(data)),
    )


def freeze_declassify(session: Session, request: dict[str, Any], now: datetime) -> Frozen:
    """A milder classification of a dataset."""
    asked = ClassifyRequest.model_validate({"classification": request["classification"]})
    row = find(session, ObjectKind.DATASET, str(request["reference"]))
    before = dataset_class(session, row.object_id)
    return Frozen(
        kind="Dataset",
        thing=row.object_id,
        name=row.name,
        facts=Facts(before),
        pinned={"dataset": _pin(row), "classification": asked.classification},
        summary=(f"dataset: {_told(row)}", f"from {before} to {asked.classification}"),
        data=(row.object_id,),
    )


def freeze_export(session: Session, request: dict[str, Any], now: datetime) -> Frozen:
    """A model that leaves the house: which, in which form, and who can open it there."""
    asked = ExportRequest.model_validate(request["request"])
    model = find(session, ObjectKind.MODEL, str(request["reference"]))
    run = run_of_model(session, model)
    why = went_wrong(session, run) if run is not None else None
    if asked.form == "plain":
        told = ["leaves in the open: whoever has the folder has the model"]
    else:
        told = [f"leaves encrypted to {recipient}" for recipient in asked.recipients]
    return Frozen(
        kind="Model",
        thing=model.object_id,
        name=model.name,
        facts=model_facts(session, model),
        pinned={"model": _pin(model), "form": asked.form, "recipients": list(asked.recipients)},
        summary=(
            f"model: {_told(model)}",
            *([f"of the run {run.name} ({run.run_id}) by {run.created_by}"] if run is not None else []),
            *([f"its run went wrong: {why}"] if why is not None else []),
            *told,
            "once out, nothing here reaches it: no shred, no revocation",
        ),
        data=tuple(sorted(object_data(session, model))),
        form=asked.form,
    )


def _pin(row: ObjectRow) -> dict[str, Any]:
    return {"id": row.object_id, "version": row.version, "manifest": row.manifest_sha256}


def _told(row: ObjectRow) -> str:
    return f"{row.name} ({row.object_id} version {row.version}, manifest {row.manifest_sha256[:16]})"


def _without_later(pinned: Any, then: Any, unnamed: Any) -> Any:
    """`pinned` without what `then` does not name, where that is as if unnamed."""
    if not (isinstance(pinned, dict) and isinstance(then, dict) and isinstance(unnamed, dict)):
        return pinned
    return {
        name: _without_later(value, then.get(name), unnamed.get(name))
        for name, value in pinned.items()
        if name in then or name not in unnamed or value != unnamed[name]
    }


def _unusual(train: TrainConfig) -> list[str]:
    """The settings that are not as usual, beside those that are always told: an approver sees what they sign."""
    told = {"method", "epochs", "learning_rate", "max_length", "processes"}
    found = {name: value for name, value in _flat(train).items() if name not in {*told, "lora.rank"}}
    usual = _flat(TrainConfig())
    other = [f"{name} {value}" for name, value in found.items() if value != usual[name]]
    return [f"not as usual: {', '.join(other)}"] if other else []


def _flat(train: TrainConfig) -> dict[str, Any]:
    """Settings by their names in a run file."""
    found = train.model_dump(mode="json")
    lora = found.pop("lora")
    return {**found, **{f"lora.{name}": value for name, value in lora.items()}}


def _asked_of(asked: RunRequest) -> str:
    if asked.evaluate is None:
        return "none"
    whole = ", beside prompting and retrieval" if asked.evaluate.table is not None else ""
    return f"base against tuned on the hold-out{whole}"


def _pinned(report: dict[str, Any] | None) -> dict[str, Any] | None:
    """What of an evaluation an approval is bound to: of the whole table its bounds, not what its queries took."""
    if report is None or "full" not in report:
        return report
    pair = {name: value for name, value in report.items() if name != "full"}
    return {**pair, "bounds": report["full"].get("bounds", {})}


def _verdict(report: dict[str, Any] | None) -> list[str]:
    """What the whole table says, where it was measured."""
    sentences = ((report or {}).get("full") or {}).get("verdict", {}).get("sentences", [])
    return [f"verdict: {sentence}" for sentence in sentences]


def _measured(facts: Facts, report: dict[str, Any] | None) -> str:
    if not facts.evaluated:
        return "evaluation: none"
    numbers = [
        f"{name} {getattr(facts.base, name):.4f} to {value:.4f}"
        for name, value in vars(facts.tuned).items()
        if value is not None and getattr(facts.base, name) is not None
    ]
    return f"evaluation on {(report or {}).get('rows', '?')} rows, base to tuned: {', '.join(numbers)}"
