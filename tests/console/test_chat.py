"""The chat pane over a real gateway: alone and side by side, on the record, and gone when it is closed."""

from __future__ import annotations

import asyncio
import gc
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from console_world import NARROW, WIDE, console, shown, type_in, until
from pictured import ScreenSnapshot, stood
from recorded import NOW, Recorded
from syrupy.assertion import SnapshotAssertion
from tests.gateway.gateway_stand_ins import Site, wait_for

from cloister.api import ApiClient, ClientRequest, Deployment, IssuedClient
from cloister.chat import Answer, Chat, Message, open_chat
from cloister.console.screens.chat import ChatPane
from cloister.errors import CloisterError, Conflict, InvalidInput, NotFound, Unauthenticated, Unavailable

HEARD = "".join(("heard-", "5d02"))
SAID = "".join(("said-", "71c4"))


class Served(Recorded):
    """A recorded appliance whose deployments and keys are those of a real gateway."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.answers["status"] = self.answers["status"].model_copy(update={"gateway_url": site.gateway.url})
        self.answers["deployments"] = [one("claims", site), one("letters", site)]
        self.asked: list[ClientRequest] = []
        self.revoked: list[str] = []
        self.issued: dict[str, ApiClient] = {}

    def issue_client(self, request: ClientRequest) -> IssuedClient:
        self.asked.append(request)
        key, client = self.site.authority.issue(deployments=list(request.deployments))
        self.issued[client.client_id] = client
        return IssuedClient(client=client, api_key=key)

    def revoke_client(self, reference: str) -> ApiClient:
        self.revoked.append(reference)
        self.site.authority.revoke(self.issued[reference])
        return self.issued[reference]


def one(name: str, site: Site) -> Deployment:
    return site.authority.deploy(name, site.engine.server.path)


@pytest.fixture(scope="module")
def _open() -> Iterator[Site]:
    with Site.open() as site:
        site.start()
        yield site


@pytest.fixture
def site(_open: Site) -> Site:
    _open.furnish()
    return _open


def walked(client: Recorded, walk: Callable[[Any, Any], Any], size: tuple[int, int] = NARROW) -> None:
    async def whole() -> None:
        make: Any = lambda: client  # noqa: E731
        async with console(make, size=size, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("5", "w")
            await until(app, lambda text: "ready" in text and "ARMED" in text)
            await walk(app, pilot)
        client.close()

    asyncio.run(whole())


def objects_that_hold(*words: str) -> list[object]:
    """What in this process still refers to a text with one of these words in it."""
    gc.collect()
    return [
        holder
        for holder in gc.get_objects()
        for held in gc.get_referents(holder)
        if type(held) is str and any(word in held and held is not word for word in words)
    ]


def test_a_turn_is_answered_on_the_record_and_forgotten(site: Site) -> None:
    client = Served(site)
    site.engine.words = ["first ", HEARD, "\x1b]52;c;x\x07"]

    async def walk(app: Any, pilot: Any) -> None:
        await pilot.press("c")
        await until(app, lambda text: "● ready" in text)
        await pilot.press("question_mark")
        await until(app, lambda text: "Help: chat" in text)
        await pilot.press("escape")
        await type_in(pilot, SAID)
        await pilot.press("enter")
        text = await until(app, lambda text: "3 tokens" in text and "● ready" in text)
        assert SAID in text and HEARD in text and "\\x1b]52" in text
        await type_in(pilot, "more")
        await pilot.press("ctrl+g")  # over the conversation, which is forgotten all the same
        await until(app, lambda text: "Help: chat" in text and "its words are forgotten" in text)
        await pilot.press("escape")
        await until(app, lambda text: "Help:" not in text and "more" in text)
        await pilot.press("enter")
        await until(app, lambda text: text.count("3 tokens") == 2)
        assert not client.revoked
        assert [message["role"] for message in site.engine.seen[-1]["messages"]] == [
            "user", "assistant", "user",
        ]  # fmt: skip
        await pilot.press("enter")  # on nothing: begin anew
        assert HEARD not in await until(app, lambda text: "a new conversation" in text)
        await type_in(pilot, SAID)
        await pilot.press("enter")
        await until(app, lambda text: HEARD in text and "● ready" in text)
        assert len(site.engine.seen[-1]["messages"]) == 1
        await pilot.press("escape")
        await until(app, lambda text: "claims" in text and "Chat:" not in text)
        await asyncio.to_thread(wait_for, lambda: client.revoked == list(client.issued))
        site.engine.seen.clear()
        del text
        await until(app, lambda _: not objects_that_hold(SAID, HEARD))

    walked(client, walk)
    (asked,) = client.asked
    assert asked.deployments == ("letters",) and asked.expires_at is not None
    entries = [entry for entry in site.gateway.entries() if entry["actor"] in client.issued]
    assert [entry["action"] for entry in entries].count("inference.completion") == 3


def test_two_are_asked_the_same_side_by_side(site: Site) -> None:
    client = Served(site)

    async def walk(app: Any, pilot: Any) -> None:
        await pilot.press("equals_sign")
        await until(app, lambda text: "● ready" in text)
        await type_in(pilot, "hello")
        await pilot.press("enter")
        text = await until(app, lambda text: text.count("4 tokens") == 2)
        heads = next(line for line in text.splitlines() if "letters" in line and "claims" in line)
        assert heads.index("claims") != heads.index("letters")
        await pilot.press("escape")

    walked(client, walk)
    assert [len(seen["messages"]) for seen in site.engine.seen] == [1, 1]
    wait_for(lambda: client.revoked)
    assert set(client.asked[0].deployments) == {"claims", "letters"}


def test_what_goes_wrong_is_said_and_may_be_asked_again(site: Site) -> None:
    client = Served(site)

    async def walk(app: Any, pilot: Any) -> None:
        await pilot.press("c")
        await until(app, lambda text: "● ready" in text)
        for number, behave in enumerate(("too-long", "die", "fail"), 1):
            site.engine.behave = behave
            await type_in(pilot, "hello")
            await pilot.press("enter")
            text = await until(app, lambda text, n=number: text.count("│ ×") == n and "● ready" in text)
        assert "do not fit" in text and text.count("the engine failed") >= 1
        site.engine.behave = "answer"
        await type_in(pilot, "hello")
        await pilot.press("enter")
        await until(app, lambda text: "4 tokens" in text)
        assert len(site.engine.seen[-1]["messages"]) == 1
        site.authority.revoke(next(iter(client.issued.values())))
        await type_in(pilot, "again")
        while "key has ended" not in shown(app):  # the gateway hears of it a moment later
            await pilot.press("enter")
            await until(app, lambda text: "● ready" in text or "● a new" in text)
            await type_in(pilot, "x")

    walked(client, walk)


def test_closed_before_it_is_open_leaves_no_key(site: Site) -> None:
    client = Served(site)
    site.authority.muted = True  # the gateway does not learn the key yet

    async def walk(app: Any, pilot: Any) -> None:
        await pilot.press("c")
        await until(app, lambda _: client.asked)
        await pilot.press("escape")
        site.authority.muted = False
        await asyncio.to_thread(wait_for, lambda: client.revoked)

    walked(client, walk)
    assert client.revoked == list(client.issued)


def test_leaving_the_console_ends_the_key(site: Site) -> None:
    client = Served(site)

    async def walk(app: Any, pilot: Any) -> None:
        await pilot.press("c")
        await until(app, lambda text: "● ready" in text)
        app.exit()

    walked(client, walk)
    wait_for(lambda: client.revoked == list(client.issued))


def test_a_chat_is_opened_only_with_what_is_served(site: Site) -> None:
    client: Any = Served(site)
    with pytest.raises(NotFound):
        open_chat(client, ["nothing"])
    client.answers["deployments"][1] = client.answers["deployments"][1].model_copy(
        update={"state": "starting"}
    )
    with pytest.raises(Conflict, match="starting"):
        open_chat(client, ["claims", "letters"])
    client.answers["status"] = client.answers["status"].model_copy(update={"gateway_url": None})
    with pytest.raises(Unavailable):
        open_chat(client, ["claims"])
    assert not client.asked
    client.answers["status"] = client.answers["status"].model_copy(
        update={"gateway_url": "http://127.0.0.1:1"}
    )
    with pytest.raises(Unavailable):
        open_chat(client, ["claims"])
    assert client.revoked == list(client.issued), "a chat that could not be opened leaves no key"
    client.close()


def test_a_closed_chat_asks_nothing(site: Site) -> None:
    client: Any = Served(site)
    pieces: list[str] = []
    with open_chat(client, ["claims"]) as chat:
        answer = chat.ask("claims", [Message("user", "hello")], pieces.append, max_tokens=8)
        assert answer.text == "".join(pieces) == "".join(site.engine.words)
        assert (answer.tokens, answer.finish) == (4, "stop") and answer.request_id
        site.authority.revoke(next(iter(client.issued.values())))
        wait_for(lambda: refused(chat) is Unauthenticated)
    assert refused(chat) is Unavailable
    client.close()


@pytest.mark.parametrize("json_wanted", [False, True])
def test_the_command_line_asks_line_by_line(
    site: Site,
    json_wanted: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from cloister.cli import chat as command

    client: Any = Served(site)
    system = tmp_path / "system.txt"
    system.write_text("Answer in one word.")
    monkeypatch.setattr(command, "connect", lambda: nullcontext(client))
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n\nand then?\n"))
    command.chat(["claims", "letters"], max_tokens=8, system_file=system, json=json_wanted)
    roles = [[message["role"] for message in seen["messages"]] for seen in site.engine.seen]
    assert roles[-1] == ["system", "user", "assistant", "user"] and len(roles) == 4
    assert client.revoked == list(client.issued)
    told = capsys.readouterr()
    if json_wanted:
        lines = [json.loads(line) for line in told.out.splitlines()]
        assert [line["deployment"] for line in lines] == ["claims", "letters"] * 2
        assert {line["answer"] for line in lines} == {"".join(site.engine.words)}
    else:
        assert told.out.count("── letters") == 2 and told.err.count("4 tokens") == 4
    with pytest.raises(InvalidInput):
        command.chat(["claims", "claims"])
    client.close()


def refused(chat: Chat) -> type[CloisterError] | None:
    try:
        chat.ask("claims", [Message("user", "hello")], lambda _: None)
    except CloisterError as error:
        return type(error)
    return None


class Spoken:
    """A chat whose answers were recorded."""

    def ask(self, name: str, messages: Sequence[Message], on_text: Callable[[str], object]) -> Answer:
        text = '{"category":"water","urgency":"high","policy":"KD-204117","name":"Ines Roth"}'
        told = text if name == "claims" else "Dear Ms Roth,\nwe are sorry to hear of the burst pipe \u202ein"
        on_text(told)
        return Answer(told, 31, 0.21, 1.4, "stop" if name == "claims" else "length", f"req-{name}-1f")

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("keys", "size"), [("c", NARROW), ("equals_sign", WIDE)], ids=["alone", "two"])
def test_the_pane_looks_as_it_did(
    keys: str, size: tuple[int, int], snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloister.chat.open_chat", lambda client, names: Spoken())
    client = Recorded()
    first = client.answers["deployments"][0]
    client.answers["deployments"] = [
        first.model_copy(update={"name": name, "deployment_id": f"dp-{name[:1] * 12}", "state": "ready"})
        for name in ("claims", "letters")
    ]

    async def walk(app: Any, pilot: Any) -> None:
        await pilot.press(keys)
        await until(app, lambda text: "● ready" in text)
        await type_in(pilot, "Our cellar was flooded")
        await pilot.press("enter")
        await until(app, lambda text: "31 tokens" in text and "● ready" in text)
        assert await stood(app, pilot) == snapshot.use_extension(ScreenSnapshot)
        assert isinstance(app.screen, ChatPane)

    walked(client, walk, size)
