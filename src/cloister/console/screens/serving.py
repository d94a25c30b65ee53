"""Screen 5: what is served, by which model, and how it is asked; start, stop, roll back to what it was before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import BindingType

from cloister.console.approving import decisions
from cloister.console.asking import ask_serve
from cloister.console.paint import NAME, ago, facts, outside, stack, state, styled, titled
from cloister.console.picture import Picture
from cloister.console.remedies import tried
from cloister.console.rolling_back import ENDED, ask_rollback
from cloister.console.screens.chat import ChatPane
from cloister.console.screens.place import ListPlace, bindings
from cloister.console.traffic import Traffic, cached, count, read_now, told, told_load
from cloister.console.widgets.rows import Line
from cloister.shown import duration, figure, moment

if TYPE_CHECKING:
    from cloister.api import Deployment, EngineLoad, LedgerMatches

LOOK_EVERY_S = 3.0
DRAIN_S = 300.0


class ServingPlace(ListPlace):
    """Live deployments first, then what was served before."""

    scope = "serving"
    BINDINGS: ClassVar[list[BindingType]] = bindings("serving")
    needs: ClassVar[tuple[str, ...]] = ("deployments", "models", "clients", "approvals", "status")
    columns = ("served as", "state", "model", "req/s", "95% in", "tok/s", "cache", "device", "age")
    least: ClassVar[Mapping[str, int]] = {"served as": 12, "model": 10, "device": 6}
    empty = "Nothing is served. w arms the console, then s starts a merged model."

    def __init__(self) -> None:
        super().__init__()
        self._traffic: dict[str, Traffic] = {}
        self._loads: dict[str, EngineLoad] = {}
        self._asked = False
        self._marked: str | None = None

    def on_mount(self) -> None:
        super().on_mount()
        self.set_interval(LOOK_EVERY_S, self._count)

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        self._count()

    def _count(self) -> None:
        """Count requests anew, and ask the engines, while this screen is in front."""
        console = self.console
        if self._asked or not self.is_current or console.picture.away:
            return
        self._asked = True
        counts = console.picture.may("ledger.read")
        console.request(
            lambda client: read_now(client, counts=counts),
            self._counted,
            doing="count requests",
            failed=lambda _: self._counted((None, [])),
            quiet=True,
        )

    def _counted(self, found: tuple[LedgerMatches | None, list[EngineLoad]]) -> None:
        self._asked = False
        before = (self._traffic, self._loads)
        answered, loads = found
        now = self.console.clock()
        self._traffic = count(answered.entries, now, more=answered.more) if answered is not None else {}
        self._loads = {one.deployment_id: one for one in loads}
        if (self._traffic, self._loads) != before:
            self.show(self.console.picture)

    def lines(self, picture: Picture) -> list[Line]:
        now = self.console.clock()
        return [
            Line(
                one.deployment_id,
                (
                    outside(one.name, NAME),
                    state(one.state),
                    outside(picture.name_of(one.model), NAME),
                    *_figures(self._traffic.get(one.deployment_id)),
                    cached(self._loads.get(one.deployment_id)),
                    outside(one.device or "-", 10),
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
            problem.append(tried(one.error.remedy))
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
            decisions(picture, one.model, "Deployment"),
            titled(
                "Requests",
                told_load(self._loads.get(one.deployment_id))
                + told(self._traffic.get(one.deployment_id))
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
        self._stop("Stop serving", "stop it", "Its clients get errors from then on.")

    def do_deployment_drain(self) -> None:
        words = f"New requests are refused at once; those in progress have {duration(DRAIN_S)} to end."
        self._stop("Drain, then stop serving", "drain it", words, drain_s=DRAIN_S)

    def _stop(self, title: str, doing: str, words: str, *, drain_s: float = 0) -> None:
        one = self._chosen()
        if one is None:
            return
        if one.state in ENDED:
            self.console.say(f"{one.name} is {one.state} already.", "warn")
            return
        self.console.confirm(
            title,
            stack(Text(words), self.about(one.deployment_id, self.console.picture)),
            one.name,
            doing,
            lambda: self.console.request(
                lambda client: client.stop_deployment(one.deployment_id, drain_s=drain_s),
                lambda gone: self.console.say(f"{gone.name} is {gone.state}."),
                doing=f"stop {one.name}",
            ),
        )

    def do_deployment_rollback(self) -> None:
        one = self._chosen()
        if one is not None:
            ask_rollback(self.console, one)

    def do_deployment_chat(self) -> None:
        one = self._ready()
        if one is not None:
            self.console.push_screen(ChatPane((one.name,)))

    def do_deployment_compare(self) -> None:
        """With the only other one that is served; where there are more, with the one that was marked before."""
        one = self._ready()
        if one is None:
            return
        others = [d for d in self.console.picture.deployments if d.state == "ready" and d.name != one.name]
        marked = next((d for d in others if d.deployment_id == self._marked), None)
        if not others:
            self.console.say(f"Only {one.name} is served; it takes two.", "warn")
        elif marked is None and len(others) > 1:
            self._marked = one.deployment_id
            self.console.say(f"{one.name} is marked: = on another one asks them both.")
        else:
            self._marked = None
            self.console.push_screen(ChatPane(((marked or others[0]).name, one.name)))

    def _ready(self) -> Deployment | None:
        one = self._chosen()
        if one is not None and one.state != "ready":
            self.console.say(f"{one.name} is {one.state}, not ready.", "warn")
            return None
        return one


def _figures(traffic: Traffic | None) -> tuple[Text, Text, Text]:
    if traffic is None:
        return Text("-", "dim"), Text("-", "dim"), Text("-", "dim")
    return (
        Text(figure(traffic.per_s, 2)),
        Text(f"{traffic.slow_s:.1f} s"),
        Text(figure(traffic.tokens_per_s, 3)),
    )


PLACE = ServingPlace
