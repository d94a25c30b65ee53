"""The picture of the authority: what things are called, and who decided."""

from __future__ import annotations

from typing import Any

from recorded import LIVE, Recorded, job

from cloister.console.approving import decisions
from cloister.console.first_steps import greeting
from cloister.console.picture import SHELVES, Picture, read

MODEL = "mm-mmmmmmmmmmmm"


def picture(**answers: Any) -> Picture:
    client: Any = Recorded()
    client.answers |= answers
    return Picture().with_read(*read(client, SHELVES))


def test_a_job_is_called_by_what_it_is_about() -> None:
    seen = picture()
    assert seen.subject_of(LIVE) == "second"
    assert seen.subject_of(job("z", "merge", "running", subject=MODEL)) == "merged"
    assert seen.subject_of(job("z", "import", "running", subject="ds-zzzzzzzzzzzz")) == "ds-zzzzzzzzzzzz"
    named = [seen.name_of(one) for one in ("cl-dddddddddddd", "dp-cccccccccccc", "rn-ffffffffffff", "rn-x")]
    assert named == ["claims-desk", "claims", "first", "rn-x"]


def test_who_approved_is_told_and_why_nobody_was_asked() -> None:
    seen = picture()
    pending = seen.approvals[0]
    assert "asked by omar, decided by nobody yet" in decisions(seen, MODEL, "Deployment").plain
    given = pending.model_copy(
        update={"state": "approved", "decided_by": "ana", "decided_at": pending.requested_at}
    )
    assert "● approved" in decisions(picture(approvals=(given,)), MODEL, "Deployment", "Model").plain
    assert "decided by ana" in decisions(picture(approvals=(given,)), MODEL, "Deployment").plain
    none = picture(approvals=())
    assert decisions(none, MODEL, "Deployment").plain.endswith("None was asked for.")
    assert none.whoami is not None
    sole = picture(approvals=(), whoami=none.whoami.model_copy(update={"sole": True}))
    assert "belongs to one account" in decisions(sole, MODEL, "Deployment").plain
    assert not decisions(Picture(), MODEL, "Deployment").plain, "nothing is said of what was not read"
    refused = Picture().with_read({}, {"approvals": "denied"})
    assert "Not shown: denied" in decisions(refused, MODEL, "Deployment").plain


def test_an_empty_appliance_points_at_the_one_step_that_is_due() -> None:
    def due(armed: bool, **answers: Any) -> str:
        empty = dict.fromkeys(("runs", "bases", "datasets"), ())
        text = greeting(picture(**empty | answers), armed=armed)
        assert text is not None
        (line,) = [line for line in text.plain.splitlines() if line.startswith("  ►")]
        return line.split()[1]

    assert (due(False), due(True)) == ("w", "b")
    status = picture().status
    assert status is not None
    assert due(True, status=status.model_copy(update={"initialised": False, "locked": True})) == "v"
    assert due(True, status=status.model_copy(update={"locked": True})) == "u"
    assert due(True, bases=picture().bases) == "i"
    assert greeting(picture(), armed=True) is None
