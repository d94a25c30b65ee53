"""Commands on the appliance itself: init, up, down, status, doctor, unlock, lock, whoami, demo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cloister.cli.leaving import SEE_STATUS, leaving
from cloister.cli.output import JsonFlag, print_json, print_table, say, size, visible
from cloister.cli.secret_input import Kind
from cloister.cli.session import connect, read_passphrase

if TYPE_CHECKING:
    from cloister.api import GpuStatus, Opening
    from cloister.client import Client

PassphraseFd = Annotated[
    int | None,
    typer.Option(
        "--passphrase-fd", metavar="N", help="Read the passphrase from this descriptor (0: standard input)."
    ),
]

OPTIONS = {
    Kind.PASSPHRASE: "--passphrase-fd",
    Kind.SHARES: "--shares-fd",
    Kind.TOKEN: "--pin-fd",
    Kind.CREDENTIAL: "--key-fd",
}


def add_commands(app: typer.Typer) -> None:
    """Hang the commands of this module into the root."""
    for command in (init, up, down, status, doctor, unlock, lock, whoami, demo):
        app.command()(command)


def init(passphrase_fd: PassphraseFd = None, json: JsonFlag = False) -> None:
    """Make the vault of this home with a first passphrase, and open it."""
    with connect() as client:
        client.initialise(read_passphrase(passphrase_fd, new=True))
        key = client.ledger_key()
    if json:
        print_json({"ok": True, "ledger_key": key})
    else:
        say("The vault is made and open. Keep the passphrase: without it nothing sealed here can be read.")
        say(f"The ledger's verifier key, to be kept by whoever audits: {key}")


def up(json: JsonFlag = False) -> None:
    """Start launcher, authority and gateway where they do not run."""
    from cloister import embedded
    from cloister.home import Home

    with leaving("what was started so far goes on."):
        started = embedded.start(Home.default())
    if json:
        print_json({"ok": True, "started": started})
    else:
        say(f"Started: {', '.join(started)}." if started else "Everything runs already.")
        with connect() as client:
            state = client.status()
        if not state.initialised:
            say("Next: `cloister init`.")
        elif state.locked:
            say("The vault is locked. Next: `cloister unlock`.")


def down(json: JsonFlag = False) -> None:
    """Stop gateway, authority and launcher, and with them what runs (runs can be resumed)."""
    from cloister import embedded
    from cloister.home import Home

    with leaving("what was told to stop goes on stopping, the rest runs.", "Again: `cloister down`."):
        stopped = embedded.stop(Home.default())
    if json:
        print_json({"ok": True, "stopped": stopped})
    else:
        say(f"Stopped: {', '.join(stopped)}." if stopped else "Nothing ran.")


def status(json: JsonFlag = False) -> None:
    """Say what runs, what is locked, what waits, and what is wrong."""
    with connect() as client:
        state = client.status()
    if json:
        print_json(state)
        return
    seal = "not initialised" if not state.initialised else ("LOCKED" if state.locked else "open")
    head = f"{state.ledger.entries} entries, {state.ledger.signed} signed"
    rows: list[tuple[object, ...]] = [
        ("home", state.home),
        ("vault", seal),
        ("ledger", f"{head}{', REFUSING' if state.ledger.failure else ''}"),
        ("sandbox", state.sandbox),
        *((process.name, _process(process.state, process.detail)) for process in state.processes),
        ("gateway at", state.gateway_url or "-"),
        ("jobs", ", ".join(f"{count} {name}" for name, count in state.jobs.items()) or "none"),
        ("deployments", ", ".join(f"{d.name} {d.state}" for d in state.deployments) or "none"),
        *(
            (f"sink {sink.name}", f"{'up' if sink.down_s is None else 'DOWN'}, {sink.behind} entries wait")
            for sink in state.sinks
        ),
        *((f"GPU {gpu.number}", gpu_told(gpu)) for gpu in state.gpus),
    ]
    print_table(("", ""), rows, empty="")
    for warning in state.warnings:
        say(f"! {visible(warning)}")


def gpu_told(gpu: GpuStatus) -> str:
    """A GPU in a line: what the driver does not tell is left out."""
    parts = [visible(gpu.name) or "GPU"]
    if gpu.problem is not None:
        parts.append(gpu.problem.upper())
    if gpu.memory_used is not None and gpu.memory_total is not None:
        parts.append(f"{size(gpu.memory_used)} of {size(gpu.memory_total)}")
    if gpu.utilisation_percent is not None:
        parts.append(f"{gpu.utilisation_percent}% busy")
    if gpu.temperature_c is not None:
        parts.append(f"{gpu.temperature_c} °C")
    return ", ".join([*parts, *(gpu.holders or ["free"])])


def _process(state: str, detail: str | None) -> str:
    return f"{state} ({detail})" if detail else state


def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not try the device, which takes some seconds.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Check this machine: sandbox, swap, core dumps, folders, disk, memory, clock, device."""
    from cloister.cli.checkup import examine
    from cloister.home import Home

    findings = examine(Home.default(), try_device=not quick)
    if json:
        print_json({"ok": all(f.state != "bad" for f in findings), "findings": [vars(f) for f in findings]})
    else:
        marks = {"good": "ok  ✓", "warn": "warn !", "bad": "BAD  ✗"}
        print_table(
            ("", "check", "finding", "what to do"),
            [(marks[f.state], f.check, f.finding, f.remedy or "") for f in findings],
            empty="",
        )
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


def unlock(
    passphrase_fd: PassphraseFd = None,
    kind: Annotated[
        Kind | None, typer.Option("--with", help="What to unlock with; a passphrase unless said otherwise.")
    ] = None,
    slot: Annotated[int | None, typer.Option("--slot", metavar="N", help="Try this slot alone.")] = None,
    shares_fd: Annotated[
        int | None,
        typer.Option("--shares-fd", metavar="N", help="Read recovery shares from here, a line each."),
    ] = None,
    pin_fd: Annotated[
        int | None, typer.Option("--pin-fd", metavar="N", help="Read a token's PIN from here.")
    ] = None,
    key_fd: Annotated[
        int | None, typer.Option("--key-fd", metavar="N", help="Read a credential's key from here.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Open the vault. Recovery shares may be entered by several people, each on a terminal of their own."""
    from cloister.cli.secret_input import ask_secret
    from cloister.errors import InvalidInput

    given = {
        Kind.PASSPHRASE: passphrase_fd,
        Kind.SHARES: shares_fd,
        Kind.TOKEN: pin_fd,
        Kind.CREDENTIAL: key_fd,
    }
    named = [one for one, descriptor in given.items() if descriptor is not None]
    if len(named) > 1 or (kind is not None and named not in ([], [kind])):
        raise InvalidInput("the options name several ways to unlock", remedy="Choose one.")
    chosen = kind or (named[0] if named else Kind.PASSPHRASE)
    with connect() as client:
        if chosen == Kind.SHARES and shares_fd is None:
            opening = _enter_shares(client, slot)
        else:
            opening = client.open_with(ask_secret(chosen, given[chosen], slot, option=OPTIONS[chosen]))
    if json:
        print_json({"ok": opening.open, **opening.model_dump()})
    elif opening.open:
        say("The vault is open.")
    else:
        say(
            f"{opening.given} of {opening.needed} shares. The others may be entered here or elsewhere, in 10 min."
        )


def _enter_shares(client: Client, slot: int | None) -> Opening:
    """Each share as it is entered; leaving early leaves the rest to somebody else."""
    from cloister.api import Opening, SlotSecret
    from cloister.cli.secret_input import ask_share

    opening = Opening(open=False)
    while not opening.open:
        share = ask_share(opening.given + 1, OPTIONS[Kind.SHARES])
        if share is None:
            break
        opening = client.open_with(SlotSecret(kind="shares", slot=slot, shares=(share,)))
        if not opening.open:
            say(f"{opening.given} of {opening.needed} shares.")
    return opening


def lock(
    drain: Annotated[
        bool, typer.Option("--drain", help="Wait for running jobs, then stop serving and lock.")
    ] = False,
    cut: Annotated[bool, typer.Option("--cut", help="Stop what runs now; runs can be resumed.")] = False,
    json: JsonFlag = False,
) -> None:
    """Close the vault and wipe its keys. Refuses while work runs unless told what to do with it.

    Ctrl-C while it drains leaves it draining; `cloister lock --cut` then ends it sooner.
    """
    from cloister.api import LockRequest
    from cloister.errors import InvalidInput

    if drain and cut:
        raise InvalidInput("--drain and --cut exclude each other")
    if drain:
        goes_on = "draining goes on: nothing new starts, and the vault is locked once nothing runs."
        remedy = "See `cloister status`; `cloister lock --cut` does not wait."
    else:
        goes_on, remedy = "locking goes on.", SEE_STATUS
    with connect() as client, leaving(goes_on, remedy):
        client.lock(LockRequest(mode="drain" if drain else "cut" if cut else "refuse"))
    print_json({"ok": True}) if json else say("The vault is locked.")


def whoami(json: JsonFlag = False) -> None:
    """Say who the authority takes you for, in which roles, and what they allow."""
    with connect() as client:
        answer = client.whoami()
    if json:
        print_json(answer)
        return
    print(f"{answer.account} (uid {answer.uid}): {', '.join(answer.roles) or 'no role'}")
    if answer.sole:
        print("This appliance has no roles: it belongs to the account that runs it.")
        return
    print(f"groups: {', '.join(answer.groups) or 'none of those that stand for a role'}")
    print(f"may: {', '.join(answer.actions)}")


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the demo's home to look around in.")] = False,
    rows: Annotated[
        int, typer.Option(min=200, max=20_000, help="How many customer messages to make up.")
    ] = 1_500,
    json: JsonFlag = False,
) -> None:
    """Walk the whole path on made-up data: sealed, fine-tuned, measured, merged, served, audited."""
    from cloister.demo.story import tell

    raise typer.Exit(tell(keep=keep, rows=rows, as_json=json))
