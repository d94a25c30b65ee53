"""Everything that can be done in the console, in one registry: an id, a key, a line of help, and where it counts.

Key bar, command palette, help and bindings are made from it. It does not know how anything is done: a screen does
the action `run.pause` in its method `do_run_pause`, and the application those that count everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloister.console.picture import Picture

EVERYWHERE = "everywhere"
PLACES = ("overview", "data", "runs", "models", "serving", "clients", "audit", "system")
"""The screens, in the order of their number keys."""


@dataclass(frozen=True)
class Action:
    """`policy` is what the authority decides on; None where nothing is asked of it. What `changes` something needs
    the console armed; what `destroys`, ends or lets out something shows first what it touches, and takes its name.
    `bar` puts it into the key bar at any width, unless `when` says that it makes no sense now."""

    id: str
    key: str
    label: str
    help: str
    scopes: tuple[str, ...] = (EVERYWHERE,)
    policy: str | None = None
    changes: bool = False
    bar: bool = True
    destroys: bool = False
    when: Callable[[Picture], bool] | None = None

    @property
    def method(self) -> str:
        return "do_" + self.id.replace(".", "_").replace("-", "_")

    @property
    def shown_key(self) -> str:
        """The key as it is printed on a keyboard."""
        return SHOWN_KEYS.get(self.key, self.key)


SHOWN_KEYS = {
    "slash": "/",
    "colon": ":",
    "question_mark": "?",
    "enter": "Enter",
    "escape": "Esc",
    "equals_sign": "=",
    "plus": "+",
    "minus": "-",
}


def _place(number: int, name: str, text: str) -> Action:
    return Action(f"go.{name}", str(number), name.capitalize(), text, bar=False)


def _change(
    id: str,
    key: str,
    label: str,
    help: str,
    *scopes: str,
    policy: str,
    bar: bool = True,
    destroys: bool = False,
    when: Callable[[Picture], bool] | None = None,
) -> Action:
    return Action(id, key, label, help, scopes, policy, changes=True, bar=bar, destroys=destroys, when=when)


_end = partial(_change, destroys=True)


def _look(
    id: str, key: str, label: str, help: str, *scopes: str, policy: str | None, bar: bool = True
) -> Action:
    return Action(id, key, label, help, scopes, policy, bar=bar)


def _unmade(picture: Picture) -> bool:
    return picture.status is not None and not picture.status.initialised


def _locked(picture: Picture) -> bool:
    return picture.status is not None and picture.status.initialised and picture.status.locked


def _unlocked(picture: Picture) -> bool:
    return picture.status is not None and picture.status.initialised and not picture.status.locked


def _alerted(picture: Picture) -> bool:
    return bool(picture.alerts)


ACTIONS = (
    _place(1, "overview", "the pipeline, devices, queue and alerts"),
    _place(2, "data", "datasets: bring in, classify, hold, shred"),
    _place(3, "runs", "fine-tuning: the queue, live curves, logs, results"),
    _place(4, "models", "base models, merged models, approvals"),
    _place(5, "serving", "deployments: start, stop, roll back, chat"),
    _place(6, "clients", "API keys: issue, rotate, revoke"),
    _place(7, "audit", "the ledger: follow, search, verify, export"),
    _place(8, "system", "doctor, settings, policy, slots, backups, alerts"),
    Action("open", "enter", "open", "open what the cursor is on"),
    Action("back", "escape", "back", "close what is open, one step"),
    Action("filter", "slash", "filter", "show only the lines that hold a word"),
    Action("copy", "y", "copy id", "copy the id under the cursor to your terminal's clipboard, and show it"),
    Action("palette", "colon", "commands", "find any action by name"),
    Action("help", "question_mark", "help", "what this screen shows and its keys; ctrl+g where something is typed"),
    Action("arm", "w", "arm", "allow changes, or make the console read-only again"),
    Action("messages", "M", "messages", "what was said above the keys, the newest first", bar=False),
    Action("reread", "r", "re-read", "ask the authority for everything on this screen again", bar=False),
    Action("quit", "q", "quit", "leave; nothing that runs is touched"),
    # --- the appliance
    _change(
        "vault.init", "v", "initialise", "make the vault's keys and a first passphrase", "overview", "system",
        policy="vault.init", when=_unmade,
    ),
    _change(
        "vault.unlock", "u", "unlock", "open the vault with a passphrase", "overview", "system",
        policy="vault.unlock", when=_locked,
    ),
    _end(
        "vault.lock", "l", "lock", "close the vault; refused while work runs", "overview", "system",
        policy="vault.lock", when=_unlocked,
    ),
    _change(
        "alert.acknowledge", "a", "acknowledge", "say that you have seen the alert under the cursor",
        "overview", "system", policy="alert.acknowledge", when=_alerted,
    ),
    # --- jobs of every sort
    _end(
        "job.cancel", "X", "cancel job", "stop the job under the cursor, or take it out of the queue",
        "overview", "data", "models", policy="job.cancel", bar=False,
    ),
    _change(
        "job.resume", "R", "resume job", "go on with a job that was paused, stopped or cut off", "overview",
        policy="job.resume", bar=False,
    ),
    # --- data
    _change(
        "dataset.import", "i", "import data", "bring rows in from a file, sealed", "overview", "data",
        policy="dataset.import",
    ),
    _look(
        "dataset.report", "o", "report", "lengths, balance, repeats, leakage, personal data: the newest report",
        "data", policy="dataset.list",
    ),
    _change(
        "dataset.measure", "m", "look", "have a worker look at the dataset and report, in numbers", "data",
        policy="dataset.report", bar=False,
    ),
    _look(
        "dataset.reveal", "v", "reveal", "see rows of the dataset, which is recorded", "data",
        policy="dataset.reveal",
    ),
    _look(
        "dataset.render", "t", "as learnt", "see a row as a run would learn it, every token; which is recorded",
        "data", policy="dataset.reveal", bar=False,
    ),
    _change(
        "dataset.derive", "n", "derive", "make a dataset of this one: a sample, no repeats, no personal data",
        "data", policy="dataset.derive",
    ),
    _change(
        "dataset.forget", "g", "forget", "a next version without the rows that mention one person", "data",
        policy="dataset.forget", bar=False,
    ),
    _change(
        "dataset.classify", "c", "classify", "keep the dataset more strictly, or ask to keep it less strictly",
        "data", policy="dataset.classify",
    ),
    _change(
        "dataset.hold", "h", "hold", "place a legal hold: nothing of it can be shredded", "data",
        policy="dataset.hold", bar=False,
    ),
    _end(
        "dataset.release", "e", "release", "end the legal holds on the dataset", "data",
        policy="dataset.release", bar=False,
    ),
    _end(
        "dataset.shred", "D", "shred", "see what a shred takes with it, then destroy it", "data",
        policy="shred.start",
    ),
    # --- runs
    _change(
        "run.start", "n", "new run", "fine-tune a base model on a dataset", "overview", "runs",
        policy="run.start",
    ),
    _change(
        "run.pause", "p", "pause", "stop at a checkpoint and free the device", "runs", policy="run.pause"
    ),
    _change("run.resume", "e", "resume", "go on from the last checkpoint", "runs", policy="run.resume"),
    _end("run.cancel", "c", "cancel", "stop the run; it can be resumed", "runs", policy="run.cancel"),
    _change(
        "run.retry", "t", "retry", "begin a run anew that failed or was stopped", "runs", policy="run.resume",
        bar=False,
    ),
    _look(
        "run.compare", "equals_sign", "compare", "mark this run, then another: both side by side", "runs",
        policy=None,
    ),
    _change(
        "run.merge", "m", "merge", "merge the run's adapter into 16 bits", "runs", "models",
        policy="model.merge",
    ),
    _change(
        "job.raise", "plus", "sooner", "one more priority: the run starts before those that have less", "runs",
        policy="job.raise", bar=False,
    ),
    _change(
        "job.lower", "minus", "later", "one less priority: runs that have more start before it", "runs",
        policy="job.lower", bar=False,
    ),
    _end(
        "run.shred", "D", "shred", "destroy a run with its adapter, evaluation and merged models", "runs",
        policy="shred.start", bar=False,
    ),
    # --- models and approvals
    _change(
        "base.import", "b", "add base", "bring a base model in from a local folder", "overview", "models",
        policy="base.import",
    ),
    _look(
        "evaluation.show", "t", "table", "was it worth it: every way of asking, intervals, costs, verdict",
        "models", policy="run.list",
    ),
    _change(
        "evaluation.start", "e", "evaluate", "measure the run beside prompting and retrieval", "models",
        policy="evaluation.start", bar=False,
    ),
    _change(
        "model.serve", "s", "serve", "serve the merged model under the cursor", "models",
        policy="deployment.start",
    ),
    _end(
        "model.rollback", "R", "roll back", "serve what the model's name served before it", "models",
        policy="deployment.start", bar=False,
    ),
    _change(
        "approval.give", "a", "approve", "approve the request under the cursor", "models",
        policy="approval.give",
    ),
    _change(
        "approval.refuse", "x", "refuse", "refuse the request under the cursor, with a reason", "models",
        policy="approval.refuse",
    ),
    _end(
        "approval.withdraw", "z", "withdraw", "take back what you asked for", "models",
        policy="approval.withdraw", bar=False,
    ),
    _end(
        "model.export", "o", "export", "take a merged model out of the house, encrypted and signed", "models",
        policy="model.export", bar=False,
    ),
    _end(
        "model.shred", "D", "shred", "destroy a merged model", "models", policy="shred.start", bar=False
    ),
    # --- serving
    _change(
        "deployment.start", "s", "start", "serve a merged model through vLLM", "serving",
        policy="deployment.start",
    ),
    _end(
        "deployment.stop", "x", "stop", "stop a deployment, also while the ledger refuses", "serving",
        policy="deployment.stop",
    ),
    _end(
        "deployment.drain", "d", "drain", "refuse new requests, let those in progress end, then stop", "serving",
        policy="deployment.stop",
    ),
    _end(
        "deployment.rollback", "b", "roll back", "serve what this name served before", "serving",
        policy="deployment.start",
    ),
    _change(
        "deployment.chat", "c", "chat", "ask it something, under a key that ends with the chat", "serving",
        policy="client.issue",
    ),
    _change(
        "deployment.compare", "equals_sign", "ask two", "the same prompts to two deployments, side by side",
        "serving", policy="client.issue",
    ),
    # --- clients
    _change(
        "client.issue", "n", "issue key", "issue an API key, shown once", "clients", policy="client.issue"
    ),
    _end(
        "client.rotate", "o", "rotate", "end a key and issue another for the same client, shown once", "clients",
        policy="client.issue",
    ),
    _end(
        "client.revoke", "x", "revoke", "end a key at once, also while the ledger refuses", "clients",
        policy="client.revoke",
    ),
    # --- audit
    _look(
        "audit.search", "f", "search", "find entries by who, what, to what and when", "audit",
        policy="ledger.read",
    ),
    _look(
        "audit.verify", "p", "verify", "check the proof of the entry under the cursor, here and now", "audit",
        policy="ledger.read",
    ),
    _look(
        "audit.prove", "t", "save proof", "write the proof of that entry to a file, for whoever audits", "audit",
        policy="ledger.read", bar=False,
    ),
    _look(
        "audit.older", "b", "older", "the page of entries before these", "audit", policy="ledger.read"
    ),
    _look(
        "audit.newest", "n", "newest", "the newest entries again, as they are made", "audit",
        policy="ledger.read", bar=False,
    ),
    _look(
        "audit.switch", "g", "other ledger", "show the control ledger, or the gateway's", "audit",
        policy="ledger.read",
    ),
    _look(
        "audit.witnesses", "v", "witnesses", "when tree heads left this machine, and who cosigned them",
        "audit", policy="ledger.head",
    ),
    _change(
        "audit.export", "o", "export", "copy both ledgers out into a new folder", "audit",
        policy="ledger.carry",
    ),
    # --- system
    _look(
        "policy.explain", "e", "explain", "who may do an action, and which policies say so", "system",
        policy="policy.read",
    ),
    _change(
        "slot.add", "n", "add slot", "another passphrase for the vault, or recovery shares", "system",
        policy="slot.add",
    ),
    _end(
        "slot.remove", "x", "drop slot", "end a way to open the vault, by another that stays", "system",
        policy="slot.remove", bar=False,
    ),
    _change(
        "backup.make", "b", "back up", "state, objects, keys and ledgers, into a folder", "system",
        policy="backup.make",
    ),
    _end(
        "backup.discard", "D", "discard", "note that a backup's key archive was destroyed", "system",
        policy="backup.discard", bar=False,
    ),
    _look(
        "support.bundle", "o", "support", "an archive for who helps from outside, without secrets and names",
        "system", policy="appliance.status", bar=False,
    ),
    _look("doctor", "d", "doctor", "look at this machine again", "system", policy=None),
)  # fmt: skip

BY_ID = {action.id: action for action in ACTIONS}


def in_scope(scope: str) -> list[Action]:
    """What counts on one screen, its own actions first."""
    own = [action for action in ACTIONS if scope in action.scopes]
    return [*own, *(action for action in ACTIONS if EVERYWHERE in action.scopes)]
