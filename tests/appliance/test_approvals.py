"""Approvals, by real accounts over the socket, with real SSH keys; every way round them is refused."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.appliance.role_accounts import as_account, made_accounts, needs_root, run, shared_appliance
from tests.conftest import PASSPHRASE, Appliance, import_base, import_rows, short_run

from cloister import embedded
from cloister.api import (
    ApprovalDecision,
    ClassifyRequest,
    PolicyProposal,
    PolicyQuestion,
    ShredRequest,
)
from cloister.client import Client
from cloister.errors import ApprovalNeeded, CloisterError
from cloister.policy.cedar import PolicySet, default_policies, digest_of

pytestmark = needs_root

ROWS: list[dict[str, object]] = [
    {
        "messages": [
            {"role": "user", "content": f"question {n}"},
            {"role": "assistant", "content": f"answer {n}"},
        ]
    }
    for n in range(12)
]


@pytest.fixture(scope="module")
def people() -> Iterator[dict[str, str]]:
    more = {"second": ["approver"], "both": ["approver", "steward"], "adminapprover": ["admin", "approver"]}
    with made_accounts(more) as accounts:
        yield accounts


@pytest.fixture(scope="module")
def keys(people: dict[str, str]) -> Iterator[Path]:
    """An SSH key of each approver, each readable by its owner alone, and the file that allows them."""
    folder = Path(tempfile.mkdtemp(prefix="sk"))
    folder.chmod(0o755)
    allowed = []
    for name in ("approver", "second", "both", "adminapprover", "stranger"):
        path = folder / name
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path))
        if name == "stranger":
            continue
        os.chown(path, pwd.getpwnam(people[name]).pw_uid, -1)
        allowed.append(
            f'{people[name]} namespaces="cloister-approval" {path.with_suffix(".pub").read_text()}'
        )
    (folder / "allowed").write_text("".join(allowed))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def shared(people: dict[str, str], keys: Path) -> Iterator[Appliance]:
    with shared_appliance(
        approvals={"allowed_signers": str(keys / "allowed")}, queue={"stop_grace_s": 1}
    ) as appliance:
        path = appliance.home.authority_socket

        def begin() -> None:
            with Client(path) as client:
                client.initialise(PASSPHRASE)

        as_account(people["admin"], begin)
        yield appliance


@pytest.fixture
def act(shared: Appliance, people: dict[str, str]) -> Callable[[str, Callable[[Client], Any]], Any]:
    """What some work gives in a process of that person, or the code of what it was refused with."""

    def work_as(person: str, work: Callable[[Client], Any]) -> Any:
        def inside() -> Any:
            with Client(shared.home.authority_socket) as client:
                try:
                    return work(client)
                except CloisterError as error:
                    return {"code": error.code, "told": str(error), **error.values}

        return as_account(people[person], inside)

    return work_as


Act = Callable[[str, Callable[[Client], Any]], Any]


def dataset(act: Act, name: str, classification: str) -> None:
    def bring(client: Client) -> None:
        import_rows(client, name, ROWS, holdout=0.0)
        if client.dataset(name).classification != classification:
            client.classify(name, ClassifyRequest(classification=classification))

    assert act("steward", bring) is None


def shred(name: str, **more: Any) -> Callable[[Client], Any]:
    def ask(client: Client) -> Any:
        return client.shred("datasets", name, ShredRequest(confirm=name, **more)).state

    return ask


def sign(keys: Path, who: str, document: str, namespace: str = "cloister-approval") -> str:
    ended = subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-n", namespace, "-f", str(keys / who)],
        input=document.encode(),
        capture_output=True,
        check=True,
    )
    return ended.stdout.decode()


def give(
    act: Act, who: str, approval: str, signature: Callable[[str], str] | None = None, **more: Any
) -> Any:
    shown = act(who, lambda client: client.approval(approval).model_dump(mode="json"))
    if "document" not in shown:
        return shown
    made = signature(shown["document"]) if signature else None
    decision = ApprovalDecision(**({"digest": shown["digest"], "signature": made} | more))
    return act(who, lambda client: client.approve(approval, decision).state)


def entries(act: Act, *objects: str) -> list[dict[str, Any]]:
    def read(client: Client) -> Any:
        found = []
        while batch := client.entries(len(found), 1000):
            found += [entry.model_dump() for entry in batch]
        return found

    return [e for e in act("auditor", read) if set(objects) & set(e["objects"])]


def actions(act: Act, *objects: str) -> list[str]:
    return [e["action"] for e in entries(act, *objects)]


def test_a_shred_waits_for_somebody_else_and_then_goes_through(act: Act, people: dict[str, str]) -> None:
    dataset(act, "plain", "confidential")
    with_class = act("steward", lambda client: client.dataset("plain").classification)
    assert with_class == "confidential"
    dataset(act, "inner", "restricted")
    asked = act("steward", shred("plain"))
    assert asked["code"] == "approval-needed" and "signs it with their SSH key" in asked["told"]
    again = act("steward", shred("plain"))
    assert again["approval"] == asked["approval"], "asked twice, it is one request"
    shown = act("approver", lambda client: client.approval(asked["approval"]).model_dump(mode="json"))
    assert shown["requested_by"] == people["steward"] and shown["signature_needed"]
    assert any("destroys dataset plain" in line for line in shown["summary"])
    assert f"digest: sha256 {shown['digest']}" in shown["document"]


def test_a_signed_approval_is_used_once(act: Act, keys: Path, people: dict[str, str]) -> None:
    dataset(act, "once", "confidential")
    approval = act("steward", shred("once"))["approval"]
    unsigned = give(act, "approver", approval)
    assert unsigned["code"] == "invalid-input" and "--sign" in unsigned["told"]
    assert give(act, "approver", approval, lambda text: sign(keys, "approver", text)) == "approved"
    assert act("steward", shred("once")) == "done"
    state = act("auditor", lambda client: client.approval(approval).model_dump(mode="json"))
    assert state["state"] == "used" and state["signer"].startswith("ED25519 SHA256:")
    verified = act("auditor", lambda client: client.verify_approval(approval).decided_by)
    assert verified == people["approver"]
    assert actions(act, approval) == ["approval.request", "approval.reject", "approval.give"]
    (given,) = [e for e in entries(act, approval) if e["action"] == "approval.give"]
    assert given["actor"] == people["approver"] and "BEGIN SSH SIGNATURE" in given["details"]["signature"]
    dataset(act, "once-more", "confidential")
    assert act("steward", shred("once-more"))["code"] == "approval-needed"
    shreds = [e for e in entries(act, state["thing"]) if e["action"] == "dataset.shred"]
    assert [e["details"].get("approval") for e in shreds if e["decision"] == "intended"] == [approval]


def test_the_same_signature_does_for_nothing_else(act: Act, keys: Path) -> None:
    dataset(act, "this", "confidential")
    dataset(act, "that", "confidential")
    first = act("steward", shred("this"))["approval"]
    second = act("steward", shred("that"))["approval"]
    document = act("approver", lambda client: client.approval(first).document)
    replayed = give(act, "approver", second, lambda _: sign(keys, "approver", document))
    assert replayed["code"] == "unauthenticated"
    digest = act("approver", lambda client: client.approval(first).digest)
    other = give(act, "approver", second, lambda text: sign(keys, "approver", text), digest=digest)
    assert other["code"] == "conflict" and "not what you were shown" in other["told"]
    assert actions(act, second)[1:] == ["approval.reject", "approval.reject"]
    assert act("approver", lambda client: client.approval(second).state) == "pending"


def test_signatures_that_do_not_count(act: Act, keys: Path) -> None:
    dataset(act, "signed", "confidential")
    approval = act("steward", shred("signed"))["approval"]
    wrong: list[Callable[[str], str]] = [
        lambda text: sign(keys, "stranger", text),  # not in the file
        lambda text: sign(keys, "second", text),  # another approver's
        lambda text: sign(keys, "approver", text, "git"),  # for something else
        lambda text: sign(keys, "approver", text.replace("signed", "singed")),
        lambda text: sign(keys, "approver", text)[:200],
        lambda text: "-----BEGIN SSH SIGNATURE-----\n\x1b[2J\n",
        lambda text: "",
    ]
    for number, make in enumerate(wrong):
        assert give(act, "approver", approval, make)["code"] == "unauthenticated", number
    assert actions(act, approval) == ["approval.request", *["approval.reject"] * len(wrong)]
    assert give(act, "second", approval, lambda text: sign(keys, "second", text)) == "approved"


def test_nobody_approves_what_they_asked_for(act: Act, keys: Path) -> None:
    dataset(act, "mine", "confidential")
    approval = act("both", shred("mine"))["approval"]
    own = give(act, "both", approval, lambda text: sign(keys, "both", text))
    assert own["code"] == "denied" and "nobody-approves-what-they-asked-for" in own["told"]
    steward = give(act, "steward", approval)
    assert steward["code"] == "denied"
    denied = [e for e in entries(act, approval) if e["action"] == "access.deny"]
    assert [e["action"] for e in entries(act, approval)] == ["approval.request"] and not denied
    seen = act(
        "auditor", lambda c: [e.model_dump() for e in c.search_ledger(50, action="access.deny").entries]
    )
    assert any(e["details"]["asked"] == "approval.give" for e in seen)
    # Approved by somebody else, it is whoever asked that goes on, and not another steward.
    assert give(act, "approver", approval, lambda text: sign(keys, "approver", text)) == "approved"
    assert act("steward", shred("mine"))["code"] == "approval-needed"
    assert act("both", shred("mine")) == "done"


def test_whoever_approved_does_not_use_it(act: Act, keys: Path) -> None:
    dataset(act, "turned", "confidential")
    approval = act("steward", shred("turned"))["approval"]
    assert give(act, "both", approval, lambda text: sign(keys, "both", text)) == "approved"
    assert act("both", shred("turned"))["code"] == "approval-needed"


def test_what_changed_is_void(act: Act, keys: Path) -> None:
    dataset(act, "moving", "confidential")
    approval = act("steward", shred("moving"))["approval"]
    act(
        "steward", lambda client: client.classify("moving", ClassifyRequest(classification="restricted")).name
    )
    late = give(act, "approver", approval, lambda text: sign(keys, "approver", text))
    assert late["code"] == "conflict" and "void" in late["told"]
    assert actions(act, approval) == ["approval.request", "approval.void"]
    assert act("approver", lambda client: client.approval(approval).state) == "void"
    new = act("steward", shred("moving"))["approval"]
    assert new != approval
    assert give(act, "approver", new, lambda text: sign(keys, "approver", text)) == "approved"
    act("steward", lambda client: client.hold("moving", _hold()).name)
    assert act("steward", shred("moving"))["code"] == "conflict", "a hold still stands in the way"


def _hold() -> Any:
    from cloister.api import HoldRequest

    return HoldRequest(reason="a court asked")


def test_milder_takes_an_approval_and_stricter_none(act: Act, keys: Path) -> None:
    dataset(act, "mild", "confidential")
    up = act(
        "steward", lambda c: c.classify("mild", ClassifyRequest(classification="restricted")).classification
    )
    assert up == "restricted"
    down = ClassifyRequest(classification="internal")
    assert act("steward", lambda c: c.classify("mild", down).name)["code"] == "conflict"
    asked = act("steward", lambda c: c.declassify("mild", down).name)
    assert asked["code"] == "approval-needed"
    assert give(act, "approver", asked["approval"], lambda text: sign(keys, "approver", text)) == "approved"
    assert act("steward", lambda c: c.declassify("mild", down).classification) == "internal"
    assert act("steward", lambda c: c.declassify("mild", down).name)["code"] == "conflict"


def test_forgetting_at_once_goes_round_no_approval(act: Act) -> None:
    from cloister.api import ForgetConfig, ForgetRequest

    dataset(act, "asked-about", "confidential")
    request = ForgetRequest(
        config=ForgetConfig(identifiers=("question 3",)), shred="now", confirm="asked-about"
    )
    told = act("steward", lambda client: client.forget("asked-about", request).job_id)
    assert told["code"] == "approval-needed" and "--shred later" in told["told"]


def test_refused_withdrawn_and_decided_twice(act: Act, keys: Path) -> None:
    dataset(act, "kept", "confidential")
    approval = act("steward", shred("kept"))["approval"]
    digest = act("approver", lambda client: client.approval(approval).digest)
    silent = act("approver", lambda c: c.disapprove(approval, ApprovalDecision(digest=digest)).state)
    assert silent["code"] == "invalid-input"
    decision = ApprovalDecision(digest=digest, reason="not before the audit")
    assert act("approver", lambda client: client.disapprove(approval, decision).state) == "refused"
    late = give(act, "second", approval, lambda text: sign(keys, "second", text))
    assert late["code"] == "conflict" and "refused" in late["told"]
    other = act("steward", shred("kept"))["approval"]
    assert other != approval
    assert act("approver", lambda client: client.withdraw(other).state)["code"] == "denied"
    assert act("steward", lambda client: client.withdraw(other).state) == "withdrawn"
    assert actions(act, other) == ["approval.request", "approval.withdraw"]


def test_explain_says_what_it_would_take(act: Act) -> None:
    dataset(act, "why", "restricted")

    def ask(action: str, **more: Any) -> Callable[[Client], Any]:
        return lambda client: client.explain(PolicyQuestion(action=action, **more)).model_dump()

    answer = act("steward", ask("shred.start", kind="Dataset", thing="why"))
    assert answer["demand"] == "signed approval" and answer["classification"] == "restricted"
    assert answer["policies"] == ["shredding-is-approved"] and answer["roles_that_may"] == ["steward"]
    assert act("trainer", ask("shred.start", kind="Dataset", thing="why"))["demand"] == "no"
    assert act("steward", ask("dataset.list", thing="why"))["demand"] == "yes"


def test_no_route_stands_in_for_an_approval(act: Act) -> None:
    assert act("steward", lambda client: client.approval("ap-nothing").name)["code"] == "not-found"
    assert (
        act("approver", lambda client: client.approve("ap-nothing", _decision()).name)["code"] == "not-found"
    )
    assert act("none", lambda client: [a.name for a in client.approvals()])["code"] == "denied"


def _decision() -> ApprovalDecision:
    return ApprovalDecision(digest="0" * 64)


def test_an_allowed_signers_file_that_others_may_write_proves_nothing(act: Act, keys: Path) -> None:
    dataset(act, "loose", "confidential")
    approval = act("steward", shred("loose"))["approval"]
    (keys / "allowed").chmod(0o666)
    try:
        told = give(act, "approver", approval, lambda text: sign(keys, "approver", text))
        assert told["code"] == "unavailable" and "chmod" in told["told"]
    finally:
        (keys / "allowed").chmod(0o644)


def test_a_run_whose_data_became_restricted_while_it_waited_does_not_start(act: Act) -> None:
    dataset(act, "behind", "confidential")
    assert act("trainer", import_base) is None

    def start(name: str, **train: Any) -> Callable[[Client], Any]:
        return lambda client: client.start_run(short_run(name, dataset="behind", **train)).train_job.job_id

    first = act("trainer", start("in-front", epochs=1000))
    end = time.monotonic() + 120
    while act("trainer", lambda client: client.job(first).state) != "running":
        assert time.monotonic() < end
        time.sleep(0.05)
    job_id = act("trainer", start("waits"))
    act("steward", lambda c: c.classify("behind", ClassifyRequest(classification="restricted")).name)
    assert act("trainer", lambda client: client.cancel_run("in-front").run_id).startswith("rn-")
    told = act("trainer", lambda client: client.finished_job(job_id).state)
    assert told["code"] == "approval-needed" and "restricted data" in told["told"]
    assert "signed with their SSH key" in told["told"] and "`cloister run resume waits`" in told["told"]
    assert actions(act, job_id) == ["job.refused"], "no worker was started for it"
    assert "job.train" in actions(act, first)
    asked = act("trainer", lambda client: client.resume_run("waits").run_id)
    assert asked["code"] == "approval-needed" and asked["approval"]
    act("trainer", lambda client: client.withdraw(asked["approval"]).state)


def proposed(appliance: Appliance) -> dict[str, tuple[str, dict[str, Any]]]:
    """What the state keeps of proposed policy sets: the state of each and its request."""
    with sqlite3.connect(f"file:{appliance.home.state}?mode=ro", uri=True) as state:
        rows = state.execute(
            "select approval_id, state, request from approvals where action = 'policy.change'"
        )
        return {approval: (found, json.loads(request)) for approval, found, request in rows}


def test_of_a_closed_proposal_the_digest_stays_and_the_files_go(act: Act, shared: Appliance) -> None:
    shipped = PolicySet.load(default_policies()).files

    def propose(name: str) -> tuple[str, PolicyProposal]:
        text = f'@id("{name}")\nforbid (principal in Role::"gateway", action == Action::"run.start", resource);\n'
        made = PolicyProposal(files={**shipped, "more.cedar": text})
        return act("admin", lambda client: client.propose_policies(made).digest)["approval"], made

    first, one = propose("first-more")
    assert proposed(shared)[first][1] == {"files": one.files}
    shown = act("approver", lambda client: client.approval(first).model_dump(mode="json"))
    decision = ApprovalDecision(digest=shown["digest"], reason="not this one")
    assert act("approver", lambda client: client.disapprove(first, decision).state) == "refused"
    second, other = propose("second-more")
    assert act("admin", lambda client: client.withdraw(second).state) == "withdrawn"
    digests = {digest_of(made.files) for made in (one, other)}
    left = [proposed(shared)[approval] for approval in (first, second)]
    assert [state for state, _ in left] == ["refused", "withdrawn"]
    assert {request.pop("digest") for _, request in left} == digests and not any(r for _, r in left)
    after = act("auditor", lambda client: client.approval(first).model_dump(mode="json"))
    assert after["summary"] == shown["summary"] and after["document"] == shown["document"]
    assert any(digest_of(one.files) in line for line in after["summary"])
    (asked,) = [e for e in entries(act, first) if e["action"] == "approval.request"]
    assert digest_of(one.files) in asked["details"]["document"], "the ledger names it as well"


def test_a_policy_set_changes_by_approval_and_voids_what_waited(
    act: Act, keys: Path, shared: Appliance, people: dict[str, str]
) -> None:
    dataset(act, "waiting", "confidential")
    waiting = act("steward", shred("waiting"))["approval"]
    shipped = PolicySet.load(default_policies())
    more = (
        '@id("admin-trains")\npermit (principal in Role::"admin", action == Action::"run.start", resource);\n'
    )
    proposal = PolicyProposal(files={**shipped.files, "more.cedar": more})
    bad = PolicyProposal(files={**shipped.files, "more.cedar": "permit (principal, action, resource);"})
    assert act("admin", lambda c: c.propose_policies(bad).digest)["code"] == "invalid-input"
    failing = PolicyProposal(
        files=proposal.files,
        tests={"t.json": json.dumps([{"roles": ["admin"], "action": "run.start", "allow": False}])},
    )
    assert "t.json: 1" in act("admin", lambda c: c.propose_policies(failing).digest)["told"]
    asked = act("admin", lambda client: client.propose_policies(proposal).digest)
    assert asked["code"] == "approval-needed"
    summary = act("approver", lambda client: client.approval(asked["approval"]).summary)
    assert any("run.start on a Run (public), admin: no to yes" in line for line in summary)
    assert "policies added: admin-trains" in summary and "schema: as before" in summary
    diff = act("approver", lambda client: client.approval(asked["approval"]).diff)
    assert '+@id("admin-trains")' in diff
    weaker = PolicyProposal(
        files={
            **shipped.files,
            "separation.cedar": '@id("nothing")\nforbid (principal in Role::"gateway", action, resource);',
        }
    )
    blunt = act("admin", lambda client: client.propose_policies(weaker).digest)["approval"]
    told = "\n".join(act("approver", lambda client: client.approval(blunt).summary))
    assert "not-the-same-person-at-two-gates" in told and "come out otherwise: approvals.json: " in told
    asked = act("admin", lambda client: client.propose_policies(proposal).digest)
    own = act("adminapprover", lambda client: client.propose_policies(proposal).digest)["approval"]
    assert give(act, "adminapprover", own, lambda text: sign(keys, "adminapprover", text))["code"] == "denied"
    assert give(act, "approver", asked["approval"], lambda text: sign(keys, "approver", text)) == "approved"
    digest = act("admin", lambda client: client.propose_policies(proposal).digest)
    assert digest == PolicySet(proposal.files, "").digest != shipped.digest
    assert act("steward", lambda client: client.approval(waiting).state) == "void"
    assert act("admin", lambda c: c.explain(PolicyQuestion(action="run.start")).demand) == "signed approval"
    last = act("auditor", lambda client: client.search_ledger(1).entries[0].policy)
    assert last == digest
    left = proposed(shared)
    assert left[asked["approval"]] == ("used", {"digest": digest}), "its files are those of the set in force"
    assert {state for state, _ in left.values()} == {"used", "void", "refused", "withdrawn"}
    assert all(request.keys() == {"digest"} for _, request in left.values())
    # It holds over a restart, whatever lies in the folder of the settings.
    embedded.stop(shared.home)
    embedded.start(shared.home, gateway=False)
    assert act("auditor", lambda client: client.policies().model_dump(mode="json"))["origin"] == "approved"
    assert act("auditor", lambda client: client.whoami().policies) == digest
    unlock = act("admin", lambda client: client.unlock(PASSPHRASE))
    assert unlock is None


def test_a_request_nobody_decides_on_ends(people: dict[str, str], keys: Path) -> None:
    """What waits ends, and so does what was approved; each under settings of its own, so that nothing hurries."""
    hours, days = {"brief": 0.0008, "long": 72}, {"brief": 0.00004, "long": 30}

    def limits(wait: str, stands: str) -> dict[str, Any]:
        return {"allowed_signers": str(keys / "allowed"), "wait_h": hours[wait], "stands_days": days[stands]}

    with shared_appliance(approvals=limits("brief", "long")) as appliance:
        path = appliance.home.authority_socket

        def in_time(client: Client) -> Any:
            with suppress(ApprovalNeeded):
                client.shred("datasets", "brief", ShredRequest(confirm="brief"))
            return client.approvals()[-1].approval_id

        def as_person(person: str, work: Callable[[Client], Any]) -> Any:
            def inside() -> Any:
                with Client(path) as client:
                    try:
                        return work(client)
                    except CloisterError as error:
                        return {"code": error.code, "told": str(error)}

            return as_account(people[person], inside)

        def expired(approval: str) -> None:
            end = time.monotonic() + 60
            while as_person("auditor", lambda client: client.approval(approval).state) != "expired":
                assert time.monotonic() < end
                time.sleep(0.2)

        as_person("admin", lambda client: client.initialise(PASSPHRASE))
        as_person("steward", lambda client: import_rows(client, "brief", ROWS, holdout=0.0))
        first = as_person("steward", in_time)
        expired(first)
        late = give(as_person, "approver", first, lambda text: sign(keys, "approver", text))
        assert late["code"] == "conflict" and "expired" in late["told"]
        settings = json.loads(appliance.home.settings_file.read_text())
        settings["approvals"] = limits("long", "brief")
        appliance.home.settings_file.write_text(json.dumps(settings))
        embedded.stop(appliance.home)
        embedded.start(appliance.home, gateway=False)
        as_person("admin", lambda client: client.unlock(PASSPHRASE))
        second = as_person("steward", in_time)
        assert second != first
        assert give(as_person, "approver", second, lambda text: sign(keys, "approver", text)) == "approved"
        expired(second)
        gone = as_person(
            "steward", lambda c: c.shred("datasets", "brief", ShredRequest(confirm="brief")).state
        )
        assert gone["code"] == "approval-needed", "what was approved does not stand for ever"
        states = as_person("auditor", lambda client: [one.state for one in client.approvals()])
        assert states == ["expired", "expired", "pending"]
