"""Screen 6: client applications and their API keys: issue one, shown once; rotate; revoke."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import BindingType

from cloister.console.asking import checked, given
from cloister.console.paint import NAME, ago, facts, marked, outside, stack, state, styled, titled
from cloister.console.picture import Picture
from cloister.console.screens.dialogs import Field
from cloister.console.screens.place import ListPlace, bindings
from cloister.console.traffic import Use, read_answers, told_use, used
from cloister.console.widgets.rows import Line
from cloister.shown import moment, until, visible

if TYPE_CHECKING:
    from cloister.api import ApiClient, ClientRequest, IssuedClient, LedgerMatches
    from cloister.client import Client

SOON = timedelta(days=30)
LOOK_EVERY_S = 5.0


class ClientsPlace(ListPlace):
    """Keys that work first, then those that were revoked."""

    scope = "clients"
    BINDINGS: ClassVar[list[BindingType]] = bindings("clients")
    needs: ClassVar[tuple[str, ...]] = ("clients", "deployments")
    columns = ("client", "key", "may use", "asked", "last", "expires", "by", "age")
    least: ClassVar[Mapping[str, int]] = {"client": 12, "may use": 7, "by": 5}
    empty = "No client yet. w arms the console, then n issues an API key."

    def __init__(self) -> None:
        super().__init__()
        self._used: dict[str, Use] = {}
        self._looked_back: datetime | None = None
        self._asked = False

    def on_mount(self) -> None:
        super().on_mount()
        self.set_interval(LOOK_EVERY_S, self._count)

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        self._count()

    def _count(self) -> None:
        """Count each client's requests anew while this screen is in front."""
        picture = self.console.picture
        if self._asked or not self.is_current or picture.away or not picture.may("ledger.read"):
            return
        self._asked = True
        self.console.request(
            read_answers,
            self._counted,
            doing="count requests",
            failed=lambda _: self._counted(None),
            quiet=True,
        )

    def _counted(self, found: LedgerMatches | None) -> None:
        self._asked = False
        entries = found.entries if found is not None else []
        told = used(entries)
        cut = found is not None and found.more and bool(entries)
        back = datetime.fromisoformat(entries[0].time) if cut else None
        if (told, back) != (self._used, self._looked_back):
            self._used, self._looked_back = told, back
            self.show(self.console.picture)

    def lines(self, picture: Picture) -> list[Line]:
        now = self.console.clock()
        return [
            Line(
                one.client_id,
                (
                    outside(one.name, NAME),
                    _key_state(one, now),
                    outside(", ".join(one.deployments) or "all", NAME),
                    *self._use(one, now),
                    _end(one),
                    outside(one.created_by, NAME),
                    Text(ago(one.created_at, now)),
                ),
            )
            for one in sorted(
                picture.clients, key=lambda one: (one.revoked_at is not None, -one.created_at.timestamp())
            )
        ]

    def _use(self, one: ApiClient, now: datetime) -> tuple[Text, Text]:
        use = self._used.get(one.client_id)
        if use is None:
            return Text("-", "dim"), Text("-", "dim")
        return Text(f"{use.requests:,}"), Text(ago(use.last, now))

    def about(self, key: str, picture: Picture) -> Text:
        one = next((c for c in picture.clients if c.client_id == key), None)
        if one is None:
            return Text("")
        return stack(
            outside(one.name, style="bold"),
            facts(
                [
                    ("key", _key_state(one, self.console.clock())),
                    ("client", one.client_id),
                    ("may use", ", ".join(one.deployments) or "every deployment"),
                    ("issued", f"{moment(one.created_at)} by {one.created_by}"),
                    ("expires", until(one.expires_at) if one.expires_at else "never"),
                    ("revoked", moment(one.revoked_at) if one.revoked_at else "no"),
                ]
            ),
            titled("Use", self._told(one, picture)),
            Text(
                "The key itself is kept nowhere; what it asked is in the gateway's ledger: 7, then g.", "dim"
            ),
        )

    def _told(self, one: ApiClient, picture: Picture) -> Text:
        if not picture.may("ledger.read"):
            return styled("× the policies do not let your roles read the ledger\n", "red")
        use = self._used.get(one.client_id)
        return told_use(use, self.console.clock(), looked_back=self._looked_back)

    # --- actions ------------------------------------------------------------------------------

    def _chosen(self) -> ApiClient | None:
        key = self.chosen.key if self.chosen else None
        found = next((one for one in self.console.picture.clients if one.client_id == key), None)
        if found is None:
            self.console.say("The cursor is on no client.", "warn")
        return found

    def do_client_issue(self) -> None:
        names = ", ".join(sorted({one.name for one in self.console.picture.deployments})) or "none yet"

        def go_on(values: dict[str, str]) -> None:
            request = given(self.console, lambda: self._request(values))
            if request is not None:
                self.console.request(
                    lambda client: client.issue_client(request), self._show_key, doing=f"issue {request.name}"
                )

        self.console.ask_form(
            "Issue an API key",
            [
                Field("name", "Name of the client", help="a-z 0-9 . _ -", needed=True),
                Field(
                    "deployments",
                    "Deployments",
                    help=f"by name, with commas; empty: all ({visible(names, limit=60)})",
                ),
                Field("days", "Good for days", help="empty: until it is revoked", number=int),
            ],
            go_on,
        )

    def _request(self, values: dict[str, str]) -> ClientRequest:
        from cloister.api import ClientRequest

        scopes = tuple(part.strip() for part in values["deployments"].split(",") if part.strip())
        days = int(values["days"]) if values["days"] else None
        expires = datetime.now(UTC) + timedelta(days=days) if days else None
        return checked(ClientRequest, name=values["name"], deployments=scopes, expires_at=expires)

    def _show_key(self, issued: IssuedClient) -> None:
        self.console.say(f"The key of {issued.client.name} is issued.")
        self.console.tell(
            f"The key of {visible(issued.client.name)}, shown this once",
            stack(
                outside(issued.api_key, 200, "bold"),
                marked("warn", "Only its hash is kept. y copies it; closed, it is gone."),
            ),
            copied=issued.api_key,
            once=True,
        )

    def do_client_rotate(self) -> None:
        one = self._chosen()
        if one is None:
            return
        if one.revoked_at is not None:
            self.console.say(f"{one.name} is revoked: n issues a new key.", "warn")
            return
        self.console.confirm(
            "Rotate a key",
            stack(
                Text("The old key ends at once; the new one is shown once."),
                self.about(one.client_id, self.console.picture),
            ),
            one.name,
            "rotate it",
            lambda: self.console.request(
                lambda client: rotate(client, one), self._show_key, doing=f"rotate {one.name}"
            ),
        )

    def do_client_revoke(self) -> None:
        one = self._chosen()
        if one is None:
            return
        if one.revoked_at is not None:
            self.console.say(f"{one.name} is revoked already.", "warn")
            return
        self.console.confirm(
            "Revoke a key",
            stack(
                Text("Its application is refused at once."), self.about(one.client_id, self.console.picture)
            ),
            one.name,
            "revoke it",
            lambda: self.console.request(
                lambda client: client.revoke_client(one.client_id),
                lambda gone: self.console.say(f"{gone.name}: the key no longer works."),
                doing=f"revoke {one.name}",
            ),
        )


def rotate(client: Client, one: ApiClient) -> IssuedClient:
    """End the old key, then issue another for the same name and deployments. Errors: those of both."""
    from cloister.api import ClientRequest

    client.revoke_client(one.client_id)
    return client.issue_client(
        ClientRequest(name=one.name, deployments=tuple(one.deployments), expires_at=one.expires_at)
    )


def _end(one: ApiClient) -> Text:
    """When a key ends by itself; one that was ended ends no more."""
    if one.revoked_at is not None:
        return Text("-", "dim")
    return Text(until(one.expires_at) if one.expires_at else "never")


def _key_state(one: ApiClient, now: datetime) -> Text:
    if one.revoked_at is not None:
        return state("revoked", "off")
    if one.expires_at is not None and one.expires_at <= now:
        return state("expired", "bad")
    if one.expires_at is not None and one.expires_at - now < SOON:
        return state("ends soon", "warn")
    return state("works", "good")


PLACE = ClientsPlace
