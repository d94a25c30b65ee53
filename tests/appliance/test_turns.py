"""Whose turn it is: priority, then people in turn, then age; and the queue obeys it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from authority_world import PEER, World, moment
from hypothesis import given
from hypothesis import strategies as st

from cloister.api import JobState, RunRequest
from cloister.appliance.turns import in_turn

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Asked:
    job_id: str
    requested_by: str
    priority: int = 0
    minute: int = 0

    @property
    def created_at(self) -> datetime:
        return START + timedelta(minutes=self.minute)


def places(job: Asked) -> int:
    """As many as its name says."""
    return int(job.job_id) if job.job_id.isdigit() else 1


def order(
    *jobs: Asked,
    running: tuple[str, ...] = (),
    last: dict[str, int] | None = None,
    kept_for: str | None = None,
) -> str:
    starts = {account: START + timedelta(minutes=minute) for account, minute in (last or {}).items()}
    return " ".join(job.job_id for job in in_turn(jobs, running, starts, kept_for=kept_for, places=places))


def test_one_person_s_jobs_start_by_age() -> None:
    assert order(Asked("b", "ada", minute=2), Asked("a", "ada", minute=1)) == "a b"


def test_people_take_turns_however_much_one_has_asked_for() -> None:
    many = [Asked(f"a{n}", "ada", minute=n) for n in range(3)]
    assert order(*many, Asked("b0", "bob", minute=9), Asked("b1", "bob", minute=10)) == "a0 b0 a1 b1 a2"


def test_who_has_something_running_waits_for_who_has_nothing() -> None:
    assert order(Asked("a", "ada"), Asked("b", "bob", minute=5), running=("ada",)) == "b a"


def test_who_has_waited_longest_goes_first() -> None:
    assert order(Asked("a", "ada"), Asked("b", "bob", minute=5), last={"ada": 50, "bob": 10}) == "b a"


def test_priority_goes_before_turns() -> None:
    assert order(Asked("a", "ada"), Asked("b", "bob"), Asked("a9", "ada", 9), running=("ada",)) == "a9 b a"


def test_one_that_has_places_kept_for_it_stays_next_unless_a_higher_priority_waits() -> None:
    wide, old, bob = Asked("wide", "ada", minute=9), Asked("old", "ada"), Asked("b", "bob")
    assert order(wide, old, bob, running=("ada",)) == "b old wide"
    assert order(wide, old, bob, running=("ada",), kept_for="wide") == "wide b old"
    assert order(wide, old, bob, Asked("c9", "cyd", 9), kept_for="wide") == "c9 wide b old"
    assert order(old, bob, kept_for="wide") == "old b", "it waits no more"


def test_who_holds_more_places_waits_for_who_holds_fewer() -> None:
    """A job of four places counts as four."""
    assert (
        order(
            Asked("4", "ada"),
            Asked("a", "ada", minute=1),
            Asked("b", "bob", minute=2),
            Asked("b2", "bob", minute=3),
        )
        == "4 b b2 a"
    )


JOBS = st.lists(
    st.builds(
        Asked,
        st.uuids().map(str),
        st.sampled_from(["ada", "bob", "cyd"]),
        st.integers(-2, 2),
        st.integers(0, 99),
    ),
    unique_by=lambda job: job.job_id,
    max_size=30,
)


@given(JOBS, st.lists(st.sampled_from(["ada", "bob"]), max_size=4), st.integers(0, 40))
def test_every_job_has_its_turn_once_and_higher_ones_before(
    jobs: list[Asked], running: list[str], kept: int
) -> None:
    kept_for = jobs[kept].job_id if kept < len(jobs) else None
    ordered = list(in_turn(jobs, running, {}, kept_for=kept_for))
    if kept_for is not None:
        urgent = [job for job in jobs if job.priority > jobs[kept].priority]
        assert ordered[len(urgent)].job_id == kept_for
        ordered.remove(jobs[kept])
        jobs = [job for job in jobs if job.job_id != kept_for]
    assert sorted(ordered, key=lambda job: job.job_id) == sorted(jobs, key=lambda job: job.job_id)
    assert [job.priority for job in ordered] == sorted((job.priority for job in jobs), reverse=True)
    for person in ("ada", "bob", "cyd"):
        theirs = [(-job.priority, job.created_at) for job in ordered if job.requested_by == person]
        assert theirs == sorted(theirs)


@moment
async def test_the_queue_starts_what_is_urgent_first(here: World) -> None:
    first = await here.run("first")
    await here.runs(first)
    started = [
        await here.authority.requests.start_run(
            PEER, RunRequest(name=name, dataset="rows", base="base", evaluate=None, priority=priority)
        )
        for name, priority in (("later", 0), ("last", -5), ("urgent", 5))
    ]
    here.go.touch()
    jobs = [run.train_job.job_id for run in started]
    for job_id in jobs:
        await here.reaches(job_id, JobState.DONE)
    starts = {job_id: here.job(job_id).started_at for job_id in jobs}
    later, last, urgent = jobs
    assert starts[urgent] < starts[later] < starts[last]
