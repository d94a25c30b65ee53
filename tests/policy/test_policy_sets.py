"""Policy sets: the one that ships holds, and whatever is wrong with one keeps it from being in force."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.errors import InvalidInput
from cloister.policy import actions, cedar
from cloister.policy import table as table_module
from cloister.policy.actions import ACTIONS, Action
from cloister.policy.cases import run_cases
from cloister.policy.cedar import PolicySet, Question, default_policies
from cloister.policy.table import as_markdown, changed, table, unpermitted, who_may
from cloister.policy.things import MILDEST

FOLDER = default_policies()


@pytest.fixture(scope="module")
def shipped() -> PolicySet:
    return PolicySet.load(FOLDER)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy to spoil."""
    copy = tmp_path / "policies"
    copy.mkdir()
    for path in FOLDER.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    shutil.copytree(FOLDER / "tests", copy / "tests")
    return copy


def test_its_own_tests_pass(shipped: PolicySet) -> None:
    results = run_cases(shipped, FOLDER / "tests")
    assert len(results) >= 20
    assert [one for one in results if one.problem] == []


def test_the_checked_in_table_is_the_one_it_gives(shipped: PolicySet) -> None:
    assert as_markdown(table(shipped)) == (FOLDER / "TABLE.md").read_text()


def test_no_action_is_without_a_policy(shipped: PolicySet) -> None:
    assert unpermitted(shipped) == ()


def test_a_new_action_is_denied_and_fails_the_build(
    folder: Path, shipped: PolicySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = Action("run.brag", ("Run",), "tell of a run")
    for module in (actions, cedar, table_module):
        monkeypatch.setattr(module, "ACTIONS", (*ACTIONS, new))
    monkeypatch.setitem(actions.BY_NAME, new.name, new)
    with pytest.raises(InvalidInput, match=r"run\.brag"):  # not in the schema: the authority does not start
        PolicySet.load(folder)
    with (folder / "cloister.cedarschema").open("a") as file:
        file.write('action "run.brag" appliesTo { principal: [Account], resource: [Run] };\n')
    policies = PolicySet.load(folder)
    assert {cell.demand for cell in table(policies) if cell.action == new.name} == {cedar.Demand.DENIED}
    assert unpermitted(policies) == ("run.brag",)
    assert as_markdown(table(policies)) != (FOLDER / "TABLE.md").read_text()


def test_the_table_tells_situations_apart_and_a_change_of_one_is_a_changed_cell(
    folder: Path, shipped: PolicySet
) -> None:
    told = {cell.place: str(cell.demand) for cell in table(shipped)}
    assert told["approval.withdraw (one's own)", "Approval", "internal", "none"] == "yes"
    assert told["approval.give (second gate)", "Approval", "restricted", "approver"] == "no"
    assert told["deployment.start (measured no better)", "Deployment", "restricted", "operator"] == "no"
    path = folder / "approvals.cedar"
    path.write_text(path.read_text().split("// What an evaluation must have shown.")[0])
    cells = changed(shipped, PolicySet.load(folder))
    assert {(cell.situation, cell.classification, str(cell.demand), str(was)) for cell, was in cells} == {
        (how, strict, "signed approval", "no")
        for how in ("measured no better", "not measured")
        for strict in ("confidential", "restricted")
    } | {
        ("went wrong, not measured", whose, consent, "no")
        for whose, consent in (
            ("public", "approval"),
            ("internal", "approval"),
            ("confidential", "signed approval"),
            ("restricted", "signed approval"),
        )
    }


def test_a_set_of_an_older_version_whose_schema_lacks_an_attribute_decides_as_it_did(
    folder: Path, shipped: PolicySet
) -> None:
    schema, rules = folder / "cloister.cedarschema", folder / "approvals.cedar"
    schema.write_text(schema.read_text().replace("wentWrong: Bool, ", ""))
    with pytest.raises(InvalidInput, match="do not fit the schema"):
        PolicySet.load(folder)
    rules.write_text(rules.read_text().split("// A run whose loss was no number")[0])
    before = PolicySet.load(folder)
    otherwise = {(cell.action, cell.situation) for cell, _ in changed(before, shipped)}
    assert otherwise == {("deployment.start", "went wrong, not measured")}


def test_who_may_names_those_who_may_do_it_to_what_is_theirs(shipped: PolicySet) -> None:
    assert who_may(shipped, "job.raise", "Job") == ("operator",)
    assert set(who_may(shipped, "job.lower", "Job")) >= {"operator", "steward", "trainer"}
    assert "auditor" not in who_may(shipped, "approval.withdraw", "Approval")
    assert who_may(shipped, "approval.give", "Approval") == ("approver",)


def test_an_auditor_changes_nothing_whatever_else_they_are(shipped: PolicySet) -> None:
    reads = {action.name for action in ACTIONS if "auditor" in who_may(shipped, action.name, action.kinds[0])}
    for action in ACTIONS:
        for other in ("admin", "steward", "trainer", "approver", "operator", "sole"):
            question = Question("ada", frozenset({"auditor", other}), action.name, action.kinds[0])
            if shipped.decide(question).allowed:
                assert action.name in reads | {"ledger.read", "ledger.carry", "ledger.sign"}


@pytest.mark.parametrize(
    "question",
    [
        Question("ada", frozenset({"trainer"}), "run.strat", "Run"),
        Question("ada", frozenset({"trainer"}), "run.start", "Dataset"),
        Question("ada", frozenset({"trainer"}), "run.start", "Nothing"),
        Question("ada", frozenset({"root"}), "run.start", "Run"),
        Question("ada", frozenset(), "run.start", "Run"),
    ],
)
def test_what_is_not_known_is_denied(shipped: PolicySet, question: Question) -> None:
    assert not shipped.decide(question).allowed


@pytest.mark.parametrize("name", ['Role::"admin"', "\n", "a" * 10_000, "\u202e", '") || true', ""])
def test_a_name_is_never_syntax(shipped: PolicySet, name: str) -> None:
    assert not shipped.decide(Question(name, frozenset(), "run.start", "Run", name)).allowed
    question = Question(name, frozenset({"trainer"}), "run.start", "Run", name, facts=MILDEST)
    assert shipped.decide(question).allowed


def test_a_misspelt_attribute_in_a_forbid_is_never_in_force(folder: Path) -> None:
    with (folder / "separation.cedar").open("a") as file:
        file.write(
            '\n@id("no-secrets")\nforbid (principal, action, resource) when { resource.clasification == "x" };\n'
        )
    with pytest.raises(InvalidInput, match="no-secrets"):
        PolicySet.load(folder)


def test_a_missing_entity_type_is_never_in_force(folder: Path) -> None:
    text = (folder / "roles.cedar").read_text()
    (folder / "roles.cedar").write_text(text.replace('Role::"steward"', 'Rolle::"steward"'))
    with pytest.raises(InvalidInput, match="Rolle"):
        PolicySet.load(folder)


def test_a_schema_without_an_action_is_never_in_force(folder: Path) -> None:
    lines = (folder / "cloister.cedarschema").read_text().splitlines()
    kept = [line for line in lines if '"backup.discard"' not in line]
    (folder / "cloister.cedarschema").write_text("\n".join(kept))
    with pytest.raises(InvalidInput):
        PolicySet.load(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("roles.cedar", b"permit ("),
        ("roles.cedar", b"\xff\xfe"),
        ("roles.cedar", b"permit (principal, action, resource);"),
        ("roles.cedar", b'@id("BAD ID")\npermit (principal, action, resource);'),
        ("more.cedar", b'@id("trainer-trains")\npermit (principal, action, resource);'),
        ("more.cedar", b" " * ((1 << 20) + 1)),
        ("more.cedar", b'@id("a-template")\npermit (principal == ?principal, action, resource);'),
        ("cloister.cedarschema", b"entity Role"),
        ("cloister.cedarschema", b""),
    ],
)
def test_a_file_that_is_not_right_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        PolicySet.load(folder)
    assert str(folder) in (caught.value.where or "")


def test_an_empty_or_missing_folder_allows_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        PolicySet.load(tmp_path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        PolicySet.load(tmp_path / "gone")


def test_a_folder_in_a_files_place_is_named(folder: Path) -> None:
    (folder / "odd.cedar").mkdir()
    with pytest.raises(InvalidInput, match="cannot be read"):
        PolicySet.load(folder)


def test_every_policy_is_found_as_its_file_has_it(shipped: PolicySet) -> None:
    for policy in shipped.policies:
        source = shipped.source(policy.id)
        assert source is not None and source in shipped.files[policy.file]
        assert source.count("@id(") == 1 and f'@id("{policy.id}")' in source and source.endswith(";")
    assert shipped.source("none-such") is None


def test_a_policy_is_told_with_its_own_comment_and_no_other(folder: Path) -> None:
    first = (
        '// Why; not "what".\n@id("odd-one")\n@note("a; b \\" // c")\nforbid (principal, action, resource)\n'
        "when { principal.uid == 7 // seven; or so\n};"
    )
    second = '@id("odd-two") forbid (principal, action, resource) when { principal.uid == 4 };'
    (folder / "odd.cedar").write_text(
        f'// About the file.\n\n{first} // about the first\n{second}\n// The end; "odd"\n'
    )
    policies = PolicySet.load(folder)
    assert policies.source("odd-one") == first
    assert policies.source("odd-two") == second
    with (folder / "odd.cedar").open("a") as file:
        file.write("//; " * 50_000)
    assert PolicySet.load(folder).source("odd-two") == second


def test_the_digest_is_of_names_and_contents(folder: Path, shipped: PolicySet) -> None:
    assert PolicySet.load(folder).digest == shipped.digest
    (folder / "roles.cedar").rename(folder / "people.cedar")
    assert PolicySet.load(folder).digest != shipped.digest


def test_changed_cells_are_those_that_come_out_otherwise(folder: Path, shipped: PolicySet) -> None:
    with (folder / "more.cedar").open("w") as file:
        file.write(
            '@id("admin-trains")\npermit (principal in Role::"admin", action == Action::"run.start", resource);\n'
            '@id("no-serving")\nforbid (principal, action == Action::"deployment.start", resource);\n'
        )
    cells = changed(shipped, PolicySet.load(folder))
    assert {(c.action, c.role, str(c.demand), str(before)) for c, before in cells} == {
        ("run.start", "admin", "yes", "no"),
        ("run.start", "admin", "signed approval", "no"),  # restricted
        ("deployment.start", "operator", "no", "approval"),
        ("deployment.start", "operator", "no", "signed approval"),
    }
    assert len(cells) == 12


def test_a_failing_case_says_which_and_why(folder: Path, shipped: PolicySet) -> None:
    case = [{"roles": ["admin"], "action": "dataset.import", "allow": True}]
    (folder / "tests" / "wrong.json").write_text(json.dumps(case))
    (bad,) = [one for one in run_cases(shipped, folder / "tests") if one.problem]
    assert bad.where == "wrong.json: 1" and "denied to admin" in (bad.problem or "")


@pytest.mark.parametrize("content", [b"[", b"{}", b'[{"roles": []}]', b"[" * 100_000, b'[{"alow": 1}]'])
def test_a_file_of_cases_that_is_none_is_named(folder: Path, shipped: PolicySet, content: bytes) -> None:
    (folder / "tests" / "broken.json").write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        run_cases(shipped, folder / "tests")
    assert "broken.json" in (caught.value.where or "")


def test_the_limits_on_exports_are_the_administrators_to_change(folder: Path) -> None:
    """Without one limit, or with a condition in it, just that comes out otherwise."""
    before = PolicySet.load(folder)
    path = folder / "exports.cedar"
    kept, limit = path.read_text().split('@id("confidential-models-leave-encrypted")')
    path.write_text(kept)
    let = {cell.place for cell, _ in changed(before, PolicySet.load(folder))}
    assert let == {("model.export (plain)", "Model", "confidential", "operator")}
    bound = 'resource.evaluated && resource.tuned has accuracy && resource.tuned.accuracy.lessThan(decimal("2.0"))'
    path.write_text(
        f'{kept}@id("confidential-models-leave-encrypted"){limit.rstrip()[:-1]}\nunless {{ {bound} }};\n'
    )
    measured = {cell.place for cell, _ in changed(before, PolicySet.load(folder))}
    assert measured == {
        (f"model.export (plain, {how})", "Model", "confidential", "operator")
        for how in ("measured better", "measured no better")
    }
    path.write_text(
        f'{path.read_text()}@id("none")\nforbid (principal, action == Action::"model.export", resource);\n'
    )
    assert not who_may(PolicySet.load(folder), "model.export", "Model")


def test_a_form_counts_as_the_strictest_where_none_is_said(shipped: PolicySet) -> None:
    facts = replace(MILDEST, classification="confidential")
    question = Question("ada", frozenset({"sole"}), "model.export", "Model", facts=facts)
    assert not shipped.decide(question).allowed
    assert not shipped.decide(replace(question, form="plain")).allowed
    assert shipped.decide(replace(question, form="encrypted")).allowed
    assert shipped.decide(replace(question, form="by post")).problem is not None
    assert shipped.decide(replace(question, action="model.merge", form="plain")).problem is not None
