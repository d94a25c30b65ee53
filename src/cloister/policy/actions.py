"""Every action that the authority decides on: its name, what it may be done to, and what it is in words.

A route of the socket names one of these; one that does not is a fault that keeps the authority from starting.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Action:
    """`kinds` are the schema's entity types that it may be done to.

    A `gate` may take somebody else's approval: its route asks only whether the role could ever do it, and the
    approvals decide on the thing itself. So does a route whose action is `told` what it is done to in the request's
    body: the part that looks it up decides. `forms` are the ways in which it may be done, the mildest first; the
    policies see the one that was asked for in their context.
    """

    name: str
    kinds: tuple[str, ...]
    summary: str
    gate: bool = False
    forms: tuple[str, ...] = ()
    told: bool = False


ACTIONS = (
    Action("appliance.whoami", ("Appliance",), "ask for one's own account and roles"),
    Action("appliance.status", ("Appliance",), "see the state of the appliance"),
    Action("appliance.events", ("Appliance",), "follow the stream of events"),
    Action("metrics.read", ("Appliance",), "read the figures for Prometheus"),
    Action("alert.list", ("Appliance",), "see the alerts"),
    Action("alert.acknowledge", ("Appliance",), "acknowledge an alert"),
    Action("policy.read", ("Appliance",), "read the policies, explain a decision, print the table"),
    Action("policy.change", ("Appliance",), "put another policy set in force", gate=True),
    Action("approval.list", ("Appliance",), "see what was asked to be approved"),
    Action("approval.give", ("Approval",), "approve what somebody else asked for"),
    Action("approval.refuse", ("Approval",), "refuse what somebody else asked for"),
    Action("approval.withdraw", ("Approval",), "withdraw what one asked for oneself"),
    Action("vault.init", ("Appliance",), "make the keys of a new appliance"),
    Action("vault.unlock", ("Appliance",), "open the vault"),
    Action("vault.lock", ("Appliance",), "close the vault"),
    Action("vault.check", ("Appliance",), "check all that is stored"),
    Action("vault.rotate", ("Appliance",), "rotate the root key and the KEK"),
    Action("object.rotate", ("Appliance",), "seal an object anew"),
    Action("slot.list", ("Appliance",), "list unlock slots"),
    Action("slot.add", ("Appliance",), "add an unlock slot"),
    Action("slot.remove", ("Appliance",), "remove an unlock slot"),
    Action("dataset.list", ("Dataset",), "list datasets, without rows"),
    Action("dataset.import", ("Dataset",), "bring rows in", told=True),
    Action("dataset.report", ("Dataset",), "look at a dataset in numbers"),
    Action("dataset.reveal", ("Dataset",), "see rows of a dataset"),
    Action("dataset.derive", ("Dataset",), "make a dataset of others"),
    Action("dataset.classify", ("Dataset",), "classify a dataset more strictly"),
    Action("dataset.declassify", ("Dataset",), "classify a dataset less strictly", gate=True),
    Action("dataset.forget", ("Dataset",), "forget a person's rows"),
    Action("dataset.hold", ("Dataset",), "place a legal hold"),
    Action("dataset.release", ("Dataset",), "release a legal hold"),
    Action("shred.list", ("Appliance",), "list shreds and holds"),
    Action("shred.plan", ("Dataset", "Run", "Model"), "see what a shred would take"),
    Action("shred.start", ("Dataset", "Run", "Model"), "shred along lineage", gate=True),
    Action("base.list", ("Base",), "list base models"),
    Action("base.import", ("Base",), "bring a base model in"),
    Action("run.list", ("Run",), "list runs"),
    Action("run.start", ("Run",), "start a run", gate=True),
    Action("run.resume", ("Run",), "resume a run"),
    Action("run.pause", ("Run",), "pause a run"),
    Action("run.cancel", ("Run",), "cancel a run"),
    Action("evaluation.start", ("Run",), "measure a run"),
    Action("evaluation.reveal", ("Run",), "read the answers of a run's evaluation"),
    Action("job.list", ("Job",), "list jobs"),
    Action("job.resume", ("Job",), "resume a job"),
    Action("job.pause", ("Job",), "pause a job"),
    Action("job.cancel", ("Job",), "cancel a job"),
    Action("job.lower", ("Job",), "let others go before a job"),
    Action("job.raise", ("Job",), "put a job before others"),
    Action("model.list", ("Model",), "list merged models"),
    Action("model.merge", ("Model",), "merge an adapter", told=True),
    Action("model.export", ("Model",), "export a model", gate=True, forms=("encrypted", "plain")),
    Action("deployment.list", ("Deployment",), "list deployments"),
    Action("deployment.start", ("Deployment",), "serve a model", gate=True),
    Action("deployment.stop", ("Deployment",), "stop serving"),
    Action("client.list", ("Client",), "list clients"),
    Action("client.issue", ("Client",), "issue an API key"),
    Action("client.revoke", ("Client",), "revoke an API key"),
    Action("gateway.connect", ("Appliance",), "be the gateway"),
    Action("backup.list", ("Backup",), "list backups"),
    Action("backup.make", ("Backup",), "make a backup"),
    Action("backup.discard", ("Backup",), "discard a backup"),
    Action("ledger.head", ("Ledger",), "see tree head and key"),
    Action("ledger.read", ("Ledger",), "read, search and prove entries"),
    Action("ledger.carry", ("Ledger",), "carry heads out and take cosignatures in"),
    Action("ledger.sign", ("Ledger",), "have the newest entries signed now"),
    Action("body.reveal", ("Body",), "open a kept prompt or answer"),
    Action("body.shred", ("Body",), "shred kept prompts and answers"),
)

BY_NAME = {action.name: action for action in ACTIONS}
