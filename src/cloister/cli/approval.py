"""Commands on approvals: see what was asked for, approve, refuse, sign here or elsewhere, verify later."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from cloister.cli.output import JsonFlag, moment, print_json, print_table, say, visible
from cloister.cli.session import connect
from cloister.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from cloister.api import Approval

app = typer.Typer(no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="As `cloister approval list` shows it.")]
MAX_SIGNATURE = 16_384


@app.command("list")
def list_(
    every: Annotated[bool, typer.Option("--all", help="Those that are decided, too.")] = False,
    json: JsonFlag = False,
) -> None:
    """List what waits for an approval, what is approved and not yet used, and what is kept for what is served."""
    with connect() as client:
        found = client.approvals()
    if not every:
        found = [one for one in found if one.state in ("pending", "approved", "kept")]
    if json:
        print_json(found)
        return
    print_table(
        ("id", "state", "action", "name", "class", "asked by", "asked", "ends", "decided by"),
        [
            (
                a.approval_id,
                a.state,
                a.action,
                a.name,
                a.classification,
                a.requested_by,
                moment(a.requested_at),
                moment(a.stands_until or a.expires_at),
                a.decided_by or "-",
            )
            for a in found
        ],
        empty="Nothing waits for an approval.",
    )


@app.command()
def show(approval_id: Id, json: JsonFlag = False) -> None:
    """Show what was asked for: the thing, its digest, who asked, and who decided."""
    with connect() as client:
        approval = client.approval(approval_id)
    if json:
        print_json(approval)
        return
    _show(approval, sys.stdout)


@app.command()
def give(
    approval_id: Id,
    reason: Annotated[str | None, typer.Option("--reason", help="Stands in the ledger.")] = None,
    sign: Annotated[
        bool,
        typer.Option("--sign", help="Sign with your SSH key, through the agent that your session forwards."),
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", help="Which: a public key that the agent holds, or a private key's file. Implies --sign."
        ),
    ] = None,
    signature: Annotated[
        Path | None, typer.Option("--signature", help="A signature that was made elsewhere.")
    ] = None,
    digest: Annotated[
        str | None, typer.Option("--digest", help="Only this one; without, what is shown is asked about.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Approve what somebody else asked for.

    For confidential data and above it is signed: here with --sign, or on your own machine, over the file of
    `cloister approval export ID`:

        ssh-keygen -Y sign -n cloister-approval -f ~/.ssh/id_ed25519 ID.txt
    """
    from cloister.api import ApprovalDecision
    from cloister.cli.validation import validated

    if signature is not None and (sign or key is not None):
        raise InvalidInput("either --sign or --signature")
    with connect() as client:
        approval = client.approval(approval_id)
        signs = signature is None and (sign or key is not None)
        if signs:
            _require_own(approval, digest or approval.digest)
        if digest is None:
            out = sys.stderr if json else sys.stdout  # a program reads the other
            if signs:
                print(visible(approval.document, lines=True), end="", file=out)
                _show_diff(approval, out)
            else:
                _show(approval, out)
            _confirm(approval)
            digest = approval.digest
        made = None
        if signature is not None:
            made = _read(signature)
        elif signs:
            made = _sign(approval, key)
        decision = validated(ApprovalDecision, digest=digest, reason=reason, signature=made)
        approval = client.approve(approval_id, decision)
    if json:
        print_json(approval)
        return
    signed = f", signed with {approval.signer}" if approval.signer else ""
    say(f"{approval.approval_id} is approved{signed}. {visible(approval.requested_by)} may go on.")


@app.command()
def refuse(
    approval_id: Id,
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the ledger.")],
    json: JsonFlag = False,
) -> None:
    """Refuse what somebody else asked for."""
    from cloister.api import ApprovalDecision
    from cloister.cli.validation import validated

    with connect() as client:
        digest = client.approval(approval_id).digest
        approval = client.disapprove(approval_id, validated(ApprovalDecision, digest=digest, reason=reason))
    print_json(approval) if json else say(f"{approval.approval_id} is refused.")


@app.command()
def withdraw(approval_id: Id, json: JsonFlag = False) -> None:
    """Take back what you asked for."""
    with connect() as client:
        approval = client.withdraw(approval_id)
    print_json(approval) if json else say(f"{approval.approval_id} is withdrawn.")


@app.command()
def export(approval_id: Id) -> None:
    """Print the document that a signature signs, to the byte, for signing it on another machine."""
    with connect() as client:
        sys.stdout.write(client.approval(approval_id).document)


@app.command()
def verify(approval_id: Id, json: JsonFlag = False) -> None:
    """Check a kept signature again, with the keys that were allowed when it was given."""
    with connect() as client:
        approval = client.verify_approval(approval_id)
    if json:
        print_json(approval)
        return
    say(
        f"{approval.approval_id}: a good signature of {visible(approval.decided_by or '')}, {approval.signer}, "
        f"of {moment(approval.decided_at)}."
    )


def _show(approval: Approval, out: TextIO) -> None:
    lines = [
        f"{approval.state.upper()}  {approval.action}: {approval.name} ({approval.classification})",
        f"  asked by   {approval.requested_by}, {moment(approval.requested_at)}",
        *(f"  - {line}" for line in approval.summary),
        f"  digest     {approval.digest}",
    ]
    if approval.state == "pending":
        lines.append(f"  ends       {moment(approval.expires_at)}")
        if approval.signature_needed:
            lines.append("  needs      the approver's signature")
    if approval.decided_by:
        why = f": {approval.reason}" if approval.reason else ""
        lines.append(f"  decided by {approval.decided_by}, {moment(approval.decided_at)}{why}")
    elif approval.reason:
        lines.append(f"  because    {approval.reason}")
    if approval.stands_until:
        lines.append(f"  stands     until {moment(approval.stands_until)}")
    if approval.signer:
        lines.append(f"  signed     {approval.signer}")
    for line in lines:
        print(visible(line), file=out)
    _show_diff(approval, out)


def _show_diff(approval: Approval, out: TextIO) -> None:
    if approval.diff:
        print(visible(approval.diff, lines=True), file=out)


def _require_own(approval: Approval, digest: str) -> None:
    """Errors: InvalidInput where the document to be signed is not about just this: the key is yours, not the
    appliance's."""
    wanted = {f"approval: {approval.approval_id}", f"digest: sha256 {digest}", f"name: {approval.name}"}
    if not wanted <= set(approval.document.splitlines()):
        raise InvalidInput(
            "the document to be signed is about something else; nothing was signed",
            where=approval.approval_id,
            remedy="Tell the administrators: the appliance shows one thing and has another signed.",
        )


def _confirm(approval: Approval) -> None:
    """Ask for the name of what is approved; without a terminal the digest has to be given."""
    if not sys.stdin.isatty():
        raise InvalidInput(
            "there is no terminal to ask at",
            remedy="Look with `cloister approval show`, then give --digest with what it shows.",
        )
    print(f"Type {visible(approval.name)} to approve just this: ", end="", file=sys.stderr, flush=True)
    typed = input().strip()
    if typed != approval.name:
        raise InvalidInput("that is not its name; nothing was approved", where=approval.approval_id)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SIGNATURE + 1)
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from None
    if len(raw) > MAX_SIGNATURE or not raw.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        raise InvalidInput("is no armored SSH signature", where=str(path))
    return raw.decode("ascii", errors="replace")


def _sign(approval: Approval, key: Path | None) -> str:
    """Sign the document with ssh-keygen, which may ask for a touch or a passphrase at the terminal."""
    from cloister.api import APPROVAL_NAMESPACE

    with tempfile.TemporaryDirectory(prefix="cloister-sign-") as folder:
        public = key
        if public is None:
            public = Path(folder) / "key.pub"
            public.write_bytes(_only_key_of_agent())
        document = Path(folder) / "document"
        document.write_text(approval.document, "utf-8")
        command = ["ssh-keygen", "-Y", "sign", "-n", APPROVAL_NAMESPACE, "-f", str(public), str(document)]
        try:
            # Its errors, and the wish for a touch, go straight to the terminal.
            ended = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
        except FileNotFoundError:
            raise _no_openssh() from None
        made = Path(f"{document}.sig")
        if ended.returncode or not made.exists():
            raise InvalidInput(
                "ssh-keygen has not signed",
                where=str(key or "the agent's key"),
                remedy="Give --key with a key that your agent holds, or sign elsewhere and give --signature.",
            )
        return _read(made)


def _only_key_of_agent() -> bytes:
    """The one key that the agent holds. Errors: InvalidInput where there is none, or more than one."""
    if "SSH_AUTH_SOCK" not in os.environ:
        raise InvalidInput(
            "your session forwards no SSH agent",
            remedy="Connect with `ssh -A`, give --key FILE, or sign elsewhere: `cloister approval export`.",
        )
    try:
        ended = subprocess.run(["ssh-add", "-L"], check=False, capture_output=True)
    except FileNotFoundError:
        raise _no_openssh() from None
    keys = [line for line in ended.stdout.splitlines() if b" " in line] if ended.returncode == 0 else []
    if len(keys) != 1:
        raise InvalidInput(
            f"your SSH agent holds {len(keys) or 'no'} keys",
            remedy="Say which with --key FILE.pub." if keys else "Add one: `ssh-add` where your key is.",
        )
    return keys[0] + b"\n"


def _no_openssh() -> Unavailable:
    return Unavailable(
        "there is no OpenSSH client on this machine", remedy="Install it (Debian: openssh-client)."
    )
