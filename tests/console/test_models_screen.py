"""The Models screen: what is on its way there, who signed what, merging, rolling back, taking a request back."""

from __future__ import annotations

import asyncio
from typing import Any

from console_world import WIDE, console, until
from recorded import NOW, Recorded, before, job, stored

from cloister.api import Approval, MergeRequest, Progress, ServeRequest


def test_a_merge_stands_where_its_model_will_with_how_far_it_is() -> None:
    client: Any = Recorded()
    progress = Progress(stage="write", done=7_344_128, total=8_656_384, remaining_s=3)
    merging = job("w", "merge", "running", progress=progress, device="cpu")
    client.answers["jobs"] = [*client.answers["jobs"], merging, job("v", "merge", "done")]

    async def walk() -> None:
        async with console(lambda: client, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("4")
            text = await until(app, lambda text: "a merge" in text)
            (line,) = [line for line in text.splitlines() if "a merge" in line]
            assert "► running" in line and "write 85%" in line
            await pilot.press("slash", *"merge", "enter", "enter")
            await until(app, lambda text: "jb-wwwwwwwwwwww" in text)

    asyncio.run(walk())
    client.close()


class Served(Recorded):
    """A name that served another model before; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []
        self.answers["models"] = [*self.answers["models"], stored("model", "mm", "gone-by")]

    def merge(self, request: MergeRequest) -> Any:
        self.asked.append(request)
        return self.answers["jobs"][0]

    def stop_deployment(self, reference: str, *, drain_s: float = 0) -> Any:
        self.asked.append(("stop", reference))

    def serve(self, request: ServeRequest) -> Any:
        self.asked.append(("serve", request.name, request.model))
        return self.answers["deployments"][0]

    def withdraw(self, reference: str) -> Approval:
        self.asked.append(("withdraw", reference))
        return self.answers["approvals"][0]  # type: ignore[no-any-return]


def walked(client: Recorded, *steps: tuple[tuple[str, ...], str]) -> None:
    """Press those keys on the armed Models screen, each time until that is shown."""

    async def walk() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, WIDE, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "1 alert" in text)
            await pilot.press("4", "w")
            await until(app, lambda text: "merged model" in text and "ARMED" in text)
            for keys, wanted in steps:
                await pilot.press(*keys)
                await until(app, lambda text, wanted=wanted: wanted in text)

    asyncio.run(walk())
    client.close()


def test_a_run_is_merged_from_its_line_in_the_lineage() -> None:
    client = Served()
    walked(
        client,
        (("slash", *"first", "enter", "m"), "Merge the adapter of first"),
        (("enter",), "is being merged"),
    )
    assert [(one.run, one.name) for one in client.asked] == [("first", "first")]


def test_a_model_is_rolled_back_to_what_its_name_served_before() -> None:
    client = Served()
    served = client.answers["deployments"]
    client.answers["deployments"] = [served[0], served[1].model_copy(update={"model": "mm-gggggggggggg"})]
    walked(
        client,
        (("slash", *"gone", "enter", "R"), "gone-by is not served"),
        (("escape", "slash", *"merged", "enter", "home", "R"), "What runs is stopped first"),
        ((*"claims", "enter"), "with what it served before"),
    )
    assert client.asked == [("stop", "dp-cccccccccccc"), ("serve", "claims", "mm-gggggggggggg")]


def test_a_request_is_taken_back_only_after_its_name_was_typed() -> None:
    client = Served()
    walked(
        client,
        (("home", "z"), "Withdraw a request"),
        ((*"model", "enter"), "that is not its name"),
        (("escape", "z"), "Withdraw a request"),
        ((*"claims", "enter"), "is withdrawn"),
    )
    assert client.asked == [("withdraw", "ap-aaaaaaaaaaaa")]


def test_who_signed_what_stands_beside_a_model() -> None:
    """Its manifest, by the appliance; its approvals, by a person's own key."""
    client = Served()
    approval = client.answers["approvals"][0].model_copy(
        update={
            "state": "approved",
            "decided_by": "petra",
            "decided_at": before(minutes=2),
            "signer": "SHA256:petras-key",
        }
    )
    client.answers["approvals"] = [approval]
    walked(
        client,
        (("slash", *"merged", "enter", "enter"), "by this appliance"),
        ((), "signed with"),
        ((), "SHA256:petras-key"),
        ((), "decided by petra"),
    )
