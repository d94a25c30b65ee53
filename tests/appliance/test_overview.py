"""The status: as the state is at that moment, and cheap where nothing has changed."""

from __future__ import annotations

from authority_world import PEER, World, moment
from sqlalchemy import Engine, event

from cloister.api import JobState


@moment
async def test_a_status_tells_of_each_change_at_once(here: World) -> None:
    status = here.authority.overview.status
    before = await status()
    assert before.jobs == {} and before.deployments == []
    job_id = await here.run()
    await here.reaches(job_id, JobState.RUNNING)
    told = await status()
    assert told.jobs == {"running": 1} and told.last_seq > before.last_seq
    await here.authority.queue.cancel(PEER, job_id)
    await here.reaches(job_id, JobState.CANCELLED)
    assert (await status()).jobs == {"cancelled": 1}
    with here.authority.state.change() as change:
        change.event("one.more")
    least = here.authority.state.last_seq()
    assert least <= (await status()).last_seq <= here.authority.state.last_seq()


@moment
async def test_a_status_asks_the_database_only_after_a_change(here: World) -> None:
    statements: list[str] = []

    def asked(*arguments: object) -> None:
        statements.append(str(arguments[2]))

    status = here.authority.overview.status
    await status()
    event.listen(Engine, "before_cursor_execute", asked)
    try:
        statements.clear()
        before = here.authority.state.changes
        for _ in range(20):
            await status()
        asked_again = sum("max(events.seq)" in one for one in statements)
        assert asked_again <= here.authority.state.changes - before
        assert len(statements) < 20, (
            "the queue looks for work of its own accord, each second, and nobody else does"
        )
        with here.authority.state.change() as change:
            change.event("one.more")
        statements.clear()
        await status()
        assert any("max(events.seq)" in one for one in statements)
    finally:
        event.remove(Engine, "before_cursor_execute", asked)
