"""Screen 5: what is served, by which model, and how it is asked; start, stop, roll back to what it was before."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import BindingType

from cloister.console.asking import ask_serve
from cloister.console.paint import ago, facts, outside, stack, state, styled, titled
from cloister.console.picture import Picture
from cloister.console.screens.place import ListPlace, bindings
from cloister.console.traffic import ANSWERED, READ, Traffic, count, told
from cloister.console.widgets.rows import Line
from cloister.shown import moment

if TYPE_CHECKING:
    from cloister.api import Deployment, LedgerMatches
    from cloister.client import Client

ENDED = ("stopped", "failed")
LOOK_EVERY_S = 3.0


class ServingPlace(ListPlace):
    """Live deployments first, then what was served before."""

    scope = "serving"
    BINDINGS: ClassVar[list[BindingType]] = bindings("serving")
    needs: ClassVar[tuple[str, ...]] = ("deployments", "models", "clients", "status")
    columns = ("served as", "state", "model", "req/s", "95%", "tok/s", "device", "by", "age")
    empty = "Nothing is served. w arms the console, then s starts a merged model."

    def __init__(self) -> None:
        super().__init__()
        self._traffic: dict[str, Traffic] = {}
        self._asked = False

    def on_mount(self) -> None:
        super().on_mount()
        self.set_interval(LOOK_EVERY_S, self._count)

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        self._count()

    def _count(self) -> None:
        """Count requests anew while this screen is in front."""
        console = self.console
        if (
            self._asked
            or not self.is_current
            or console.picture.away
            or not console.picture.may("ledger.read")
        ):
            return
        self._asked = True
        console.request(
            lambda client: client.search_ledger(READ, ledger="gateway", action=ANSWERED),
            self._counted,
            doing="count requests",
            failed=lambda _: self._counted(None),
            quiet=True,
        )

    def _counted(self, found: LedgerMatches | None) -> None:
        self._asked = False
        before = self._traffic
        self._traffic = (
            count(found.entries, self.console.clock(), more=found.more) if found is not None else {}
        )
        if self._traffic != before:
            self.show(self.console.picture)

    def lines(self, picture: Picture) -> list[Line]:
        now = self.console.clock()
        return [
            Line(
                one.deployment_id,
                (
                    outside(one.name, 24),
                    state(one.state),
                    outside(picture.name_of(one.model), 24),
                    *_figures(self._traffic.get(one.deployment_id)),
                    outside(one.device or "-", 10),
                    outside(one.created_by, 12),
                    Text(ago(one.created_at, now)),
                ),
            )
            for one in sorted(
                picture.deployments, key=lambda one: (one.state in ENDED, -one.created_at.timestamp())
            )
        ]

    def about(self, key: str, picture: Picture) -> Text:
        one = next((d for d in picture.deployments if d.deployment_id == key), None)
        if one is None:
            return Text("")
        users = [
            c.name for c in picture.clients if not c.revoked_at and one.name in (c.deployments or [one.name])
        ]
        url = picture.status.gateway_url if picture.status else None
        problem = []
        if one.error is not None:
            problem.append(styled("× ", "bold red") + outside(one.error.detail))
            problem.append(outside(f"try: {one.error.remedy}") if one.error.remedy else Text(""))
        return stack(
            outside(one.name, style="bold"),
            *problem,
            facts(
                [
                    ("state", state(one.state)),
                    ("model", f"{picture.name_of(one.model)} ({one.model})"),
                    ("deployment", one.deployment_id),
                    ("started", f"{moment(one.created_at)} by {one.created_by}"),
                    ("restarts", one.restarts),
                    ("device", one.device or "none yet"),
                    ("gateway", url or "stopped"),
                    ("clients", ", ".join(users) or "none: 6 issues a key"),
                ]
            ),
            titled(
                "Requests",
                told(self._traffic.get(one.deployment_id))
                + styled("Each is an entry of the gateway's ledger: 7, then g.", "dim"),
            ),
            titled(
                "Engine",
                facts((name.replace("_", " "), value) for name, value in one.config.model_dump().items()),
            ),
        )

    # --- actions ------------------------------------------------------------------------------

    def _chosen(self) -> Deployment | None:
        key = self.chosen.key if self.chosen else None
        found = next((one for one in self.console.picture.deployments if one.deployment_id == key), None)
        if found is None:
            self.console.say("The cursor is on no deployment.", "warn")
        return found

    def do_deployment_start(self) -> None:
        ask_serve(self.console)

    def do_deployment_stop(self) -> None:
        one = self._chosen()
        if one is None:
            return
        if one.state in ENDED:
            self.console.say(f"{one.name} is {one.state} already.", "warn")
            return
        self.console.confirm(
            "Stop serving",
            stack(
                self.about(one.deployment_id, self.console.picture),
                Text("Its clients get errors from then on."),
            ),
            one.name,
            "stop it",
            lambda: self.console.request(
                lambda client: client.stop_deployment(one.deployment_id),
                lambda gone: self.console.say(f"{gone.name} is {gone.state}."),
                doing=f"stop {one.name}",
            ),
        )

    def do_deployment_rollback(self) -> None:
        one = self._chosen()
        if one is None:
            return
        before = previous(one, self.console.picture)
        if before is None:
            self.console.say(f"{one.name} served no other model before this one that is still there.", "warn")
            return
        shown = facts(
            [
                ("now", f"{self.console.picture.name_of(one.model)} ({one.model}), {one.state}"),
                ("then", f"{self.console.picture.name_of(before.model)} ({before.model})"),
                ("last served", f"{moment(before.created_at)} by {before.created_by}"),
            ]
        )
        self.console.confirm(
            "Roll back",
            stack(shown, Text("What runs is stopped first. An approval that still stands is used again.")),
            one.name,
            "roll back",
            lambda: self.console.request(
                lambda client: roll_back(client, one, before),
                lambda back: self.console.say(f"{back.name} is {back.state} with what it served before."),
                doing=f"roll {one.name} back",
            ),
        )


def _figures(traffic: Traffic | None) -> tuple[Text, Text, Text]:
    if traffic is None:
        return Text("-", "dim"), Text("-", "dim"), Text("-", "dim")
    return Text(f"{traffic.per_s:.2g}"), Text(f"{traffic.slow_s:.1f} s"), Text(f"{traffic.tokens_per_s:.3g}")


def previous(one: Deployment, picture: Picture) -> Deployment | None:
    """The last deployment under that name, before this one, of another model that is still there."""
    there = {model.object_id for model in picture.models}
    earlier = [
        other
        for other in picture.deployments
        if other.name == one.name
        and other.created_at < one.created_at
        and other.model != one.model
        and other.model in there
    ]
    return max(earlier, key=lambda other: other.created_at, default=None)


def roll_back(client: Client, one: Deployment, before: Deployment) -> Deployment:
    """Stop one, and serve the other's model under the same name. Errors: those of both."""
    from cloister.api import ServeRequest

    if one.state not in ENDED:
        client.stop_deployment(one.deployment_id)
    return client.serve(ServeRequest(name=before.name, model=before.model, config=before.config))


PLACE = ServingPlace
