"""Commands on the vault: its unlock slots, the rotation of keys, and a check of all that is stored."""

from __future__ import annotations

import base64
import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cloister.cli.output import JsonFlag, print_json, print_table, say, size, visible
from cloister.cli.secret_input import Kind, ProofFd, ProofSlot, ProofWith, ask_line, ask_secret
from cloister.cli.session import connect, watch
from cloister.errors import InvalidInput, Tampered

app = typer.Typer(no_args_is_help=True)
slot = typer.Typer(no_args_is_help=True, help="Unlock slots: the ways to open the vault.")
add = typer.Typer(no_args_is_help=True, help="Add a way to open the vault. The vault must be open.")
rotate = typer.Typer(no_args_is_help=True, help="Replace keys by fresh ones.")
app.add_typer(slot, name="slot")
app.add_typer(rotate, name="rotate")
slot.add_typer(add, name="add")

PROOF = "Another slot: "


@slot.command("list")
def list_slots(json: JsonFlag = False) -> None:
    """List the unlock slots. Works while the vault is locked."""
    with connect() as client:
        found = client.slots()
    if json:
        print_json(found)
        return
    rows = [(s.slot, s.kind, "good" if s.state == "good" else "DAMAGED", s.detail) for s in found]
    print_table(("slot", "kind", "state", "what it asks for"), rows, empty="No slot.")


@add.command("passphrase")
def add_passphrase(
    passphrase_fd: Annotated[
        int | None, typer.Option("--passphrase-fd", metavar="N", help="Read the new passphrase from here.")
    ] = None,
    memory_mib: Annotated[int, typer.Option(min=8, max=4096, help="Memory that a try costs, MiB.")] = 256,
    iterations: Annotated[int, typer.Option(min=1, max=64, help="Passes over that memory.")] = 3,
    proof: ProofWith = Kind.PASSPHRASE,
    proof_fd: ProofFd = None,
    proof_slot: ProofSlot = None,
    json: JsonFlag = False,
) -> None:
    """Add a passphrase. With one descriptor for both, the proof comes first, a line each."""
    from cloister.api import NewSlot
    from cloister.cli.validation import validated

    proved = ask_secret(proof, proof_fd, proof_slot, option="--proof-fd", what=PROOF)
    text = ask_line("New passphrase: ", passphrase_fd, option="--passphrase-fd", twice=True)
    request = validated(
        NewSlot,
        kind="passphrase",
        proof=proved,
        passphrase=text,
        memory_mib=memory_mib,
        iterations=iterations,
    )
    with connect() as client:
        added = client.add_slot(request)
    print_json({"slot": added.slot, "kind": added.kind}) if json else say(
        f"Slot {added.slot} opens the vault."
    )


@add.command("credential")
def add_credential(
    name: Annotated[str, typer.Option("--name", help="The credential's name.")] = "cloister-unlock",
    out_fd: Annotated[
        int, typer.Option("--out-fd", metavar="N", help="Write the new key here (1: standard output).")
    ] = 1,
    key_fd: Annotated[
        int | None, typer.Option("--key-fd", metavar="N", help="Read an existing key instead of making one.")
    ] = None,
    proof: ProofWith = Kind.PASSPHRASE,
    proof_fd: ProofFd = None,
    proof_slot: ProofSlot = None,
    json: JsonFlag = False,
) -> None:
    """Add a random key that systemd gives to the service at start, which then opens the vault by itself.

    cloister vault slot add credential | systemd-creds encrypt --name=cloister-unlock - FILE

    and in the unit: LoadCredentialEncrypted=cloister-unlock:FILE
    """
    from cloister.api import NewSlot
    from cloister.cli.validation import validated

    if key_fd is None and os.isatty(out_fd):
        raise InvalidInput(
            "a key is nothing for a screen", remedy="Pipe it: … | systemd-creds encrypt --name=NAME - FILE"
        )
    if json and key_fd is None and out_fd == 1:
        raise InvalidInput("--json and the key cannot share standard output", remedy="Use --out-fd.")
    proved = ask_secret(proof, proof_fd, proof_slot, option="--proof-fd", what=PROOF)
    if key_fd is not None:
        key = ask_secret(Kind.CREDENTIAL, key_fd, None, option="--key-fd").key
    else:
        fresh = os.urandom(32)
        key = base64.b64encode(fresh).decode()
        with os.fdopen(out_fd, "wb", closefd=False) as out:
            out.write(fresh)  # first, and all of it: a slot whose key went nowhere would be of no use
    request = validated(NewSlot, kind="credential", proof=proved, key=key, name=name)
    with connect() as client:
        added = client.add_slot(request)
    if json:
        print_json({"slot": added.slot, "kind": added.kind, "name": name})
    else:
        say(f"Slot {added.slot} opens the vault where the service gets the credential {visible(name)}.")


@add.command("shares")
def add_shares(
    threshold: Annotated[int, typer.Option("--threshold", "-m", min=2, max=16, help="How many open.")] = 2,
    of: Annotated[int, typer.Option("--of", "-n", min=2, max=16, help="How many are made.")] = 3,
    proof: ProofWith = Kind.PASSPHRASE,
    proof_fd: ProofFd = None,
    proof_slot: ProofSlot = None,
    json: JsonFlag = False,
) -> None:
    """Add recovery shares (SLIP-39): words for paper, shown once, a few of which open the vault together."""
    from cloister.api import NewSlot
    from cloister.cli.validation import validated

    if not json and not sys.stdout.isatty():
        raise InvalidInput(
            "shares are shown on a terminal, one after another", remedy="A program takes them with --json."
        )
    proved = ask_secret(proof, proof_fd, proof_slot, option="--proof-fd", what=PROOF)
    request = validated(NewSlot, kind="shares", proof=proved, threshold=threshold, count=of)
    with connect() as client:
        added = client.add_slot(request)
    if json:
        print_json(added)
        return
    say(
        f"Slot {added.slot}: any {threshold} of these {of} shares open the vault. Each is shown once: write it"
    )
    say("on paper, give each to another person, and keep none in a file.")
    for number, share in enumerate(added.shares, 1):
        words = share.split()
        print(f"\nShare {number} of {of}\n")
        for at in range(0, len(words), 6):
            print("  " + "  ".join(f"{at + i + 1:2} {word:<10}" for i, word in enumerate(words[at : at + 6])))
        with contextlib.suppress(EOFError):
            input("\nEnter when it is written down; the screen is then cleared. ")
        print("\033[2J\033[3J\033[H", end="")  # the screen, and what has scrolled away


@add.command("token")
def add_token(
    module: Annotated[Path, typer.Option("--module", help="The token's PKCS#11 driver.", show_default=False)],
    token: Annotated[str, typer.Option("--token", help="The token's label.", show_default=False)],
    key_id: Annotated[
        str, typer.Option("--key-id", help="Id of an AES or RSA key on it, in hex.", show_default=False)
    ],
    pin_fd: Annotated[
        int | None, typer.Option("--pin-fd", metavar="N", help="Read the token's PIN from here.")
    ] = None,
    proof: ProofWith = Kind.PASSPHRASE,
    proof_fd: ProofFd = None,
    proof_slot: ProofSlot = None,
    json: JsonFlag = False,
) -> None:
    """Add a PKCS#11 token: a smart card or an HSM whose key never leaves it.

    The driver must be named under `vault: pkcs11_modules` in appliance.yaml.
    """
    from cloister.api import NewSlot
    from cloister.cli.validation import validated

    proved = ask_secret(proof, proof_fd, proof_slot, option="--proof-fd", what=PROOF)
    request = validated(
        NewSlot,
        kind="token",
        proof=proved,
        module=str(module),
        token=token,
        key_id=key_id.lower(),
        pin=ask_line("PIN of the new token: ", pin_fd, option="--pin-fd"),
    )
    with connect() as client:
        added = client.add_slot(request)
    print_json({"slot": added.slot, "kind": added.kind}) if json else say(
        f"Slot {added.slot} opens the vault."
    )


@slot.command("remove")
def remove_slot(
    number: Annotated[int, typer.Argument(help="The slot to remove.", show_default=False)],
    proof: ProofWith = Kind.PASSPHRASE,
    proof_fd: ProofFd = None,
    proof_slot: ProofSlot = None,
    json: JsonFlag = False,
) -> None:
    """Remove a way to open the vault, by opening another one: so that one that works remains."""
    proved = ask_secret(proof, proof_fd, proof_slot, option="--proof-fd", what="A slot that stays: ")
    with connect() as client:
        client.remove_slot(number, proved)
    print_json({"ok": True, "removed": number}) if json else say(f"Slot {number} is gone.")


@rotate.command("kek")
def rotate_kek(json: JsonFlag = False) -> None:
    """Wrap every key anew under a fresh key-encryption key; touches no object. Cut off, run it again."""
    with connect() as client:
        done = client.rotate_kek()
    if json:
        print_json(done)
        return
    old = ", ".join(map(str, done.destroyed)) or "none"
    again = " An earlier rotation was completed." if done.resumed else ""
    say(f"{done.rewrapped} keys are wrapped by version {done.version}; destroyed: version {old}.{again}")


@rotate.command("root")
def rotate_root(
    proof: ProofWith = Kind.PASSPHRASE,
    proof_fd: ProofFd = None,
    proof_slot: ProofSlot = None,
    json: JsonFlag = False,
) -> None:
    """Replace the root key where a slot's secret may be known. ONE SLOT STAYS: the one that you open.

    Every other slot ends and has to be added again. Objects that exist keep their keys: whoever has an old
    copy of the key store and the secret can open them until they are rotated too.
    """
    proved = ask_secret(proof, proof_fd, proof_slot, option="--proof-fd", what="The slot that stays: ")
    with connect() as client:
        done = client.rotate_root(proved)
    if json:
        print_json(done)
        return
    ended = ", ".join(map(str, done.ended)) or "none"
    say(f"The root key is new. Slot {done.kept} opens it; slots that ended: {ended}.")


@rotate.command("object")
def rotate_object(
    reference: Annotated[str, typer.Argument(help="Its id, or its name.", show_default=False)],
    json: JsonFlag = False,
) -> None:
    """Re-encrypt one object under a fresh key, as its next version; the old key is destroyed."""
    with connect() as client:
        job = client.rotate_object(reference)
        job = watch(client, job.job_id, quiet=json)
    if json:
        print_json(job)
    else:
        say(f"{job.subject} is sealed anew: {size(int(job.result.get('bytes', 0)))}.")


@app.command()
def check(
    quick: Annotated[
        bool, typer.Option("--quick", help="Sizes and headers only, no file read whole.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Check all that is stored: keys, slots, manifests, signatures, every file, and strays."""
    problems, result = [], None
    with connect() as client:
        for line in client.check_vault(quick=quick):
            if line.event == "problem":
                problems.append({"where": line.where, "problem": line.problem})
                if not json:
                    print(visible(f"{line.where}: {line.problem}"), flush=True)
            elif line.event == "progress" and not json and sys.stderr.isatty():
                share = line.done / line.total if line.total else 1.0
                print(f"\r{size(line.done)} of {size(line.total)} ({share:.0%})", end="\r", file=sys.stderr)
            elif line.event == "result":
                result = line
    if result is None:
        raise Tampered("the check broke off", remedy="See `cloister status` and the authority's log.")
    if json:
        figures = {"objects": result.objects, "keys": result.keys, "bytes": result.bytes}
        print_json({"ok": not problems, **figures, "problems": problems})
    elif not problems:
        say(f"Good: {result.objects} objects ({size(result.bytes)} read), {result.keys} keys.")
    else:
        say(f"{len(problems)} problems in {result.objects} objects and {result.keys} keys.")
    if problems:
        raise typer.Exit(Tampered.exit_code)
