"""Orders of the coordinator: done once, where the site allows them, and undone when they harm."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config import AgentSettings, OrderKind, read_agent_settings
from agent.orders import Operator, Orders
from agent.remote import CONFIGURABLE, RemoteTables, Which, overlaid
from tests.agent.federation import Federation, agent_toml
from wire.errors import SettingsError
from wire.messages import Command, OrderName, Outcome

ALL: tuple[OrderKind, ...] = ("pause", "train", "configure")
TABLES = "[training]\npause_s = 77.0\n"


@pytest.fixture
def settings(tmp_path: Path, federation: Federation) -> AgentSettings:
    path = tmp_path / "agent.toml"
    path.write_text(agent_toml(federation))
    return read_agent_settings(path)


class Site:
    """An agent's state directory, its orders, and what it was made to run by."""

    def __init__(self, state: Path, settings: AgentSettings) -> None:
        self.state, self.settings = state, settings
        self.wrong = ""
        self.start()

    def start(self) -> None:
        """As the process does when it begins."""
        self.remote, self.operator = RemoteTables(self.state), Operator()
        self.orders = Orders(self.state, self.remote, ALL, self.operator)
        self.pause_s = self.remote.over(self.settings).training.pause_s

    def apply(self, which: Which) -> str:
        self.pause_s = self.remote.over(self.settings, which).training.pause_s
        return f"pause_s = {self.pause_s}"

    async def until(self, status: str) -> Outcome:
        while True:
            await self.orders.changed.wait()
            self.orders.changed.clear()
            outcome = self.orders.outcome
            if outcome is not None and outcome.status == status:
                return outcome

    def live(self, scenario: Callable[[], "asyncio.Future[None]"]) -> None:
        async def run() -> None:
            running = asyncio.ensure_future(self.orders.run(self.apply, lambda: self.wrong))
            try:
                async with asyncio.timeout(30):
                    await scenario()
            finally:
                running.cancel()

        asyncio.run(run())


@pytest.fixture
def site(tmp_path: Path, settings: AgentSettings) -> Site:
    state = tmp_path / "state"
    state.mkdir()
    return Site(state, settings)


def test_an_order_is_done_once_and_remembered_through_a_restart(site: Site) -> None:
    def paused_after(name: OrderName, number: int) -> bool:
        site.orders.take(Command(name=name, number=number))
        return site.operator.paused

    assert paused_after("pause", 4)
    assert not paused_after("resume", 5)
    assert not paused_after("pause", 4)
    assert site.orders.outcome == Outcome(number=5)
    assert paused_after("pause", 6)
    site.start()
    assert site.operator.paused
    assert site.orders.outcome == Outcome(number=6)


def test_a_site_takes_only_the_orders_that_it_allows(site: Site) -> None:
    site.orders.allow = ("train",)
    for number, name in enumerate(("pause", "configure"), start=1):
        site.orders.take(Command(name=name, number=number, tables=TABLES))  # type: ignore[arg-type]
        outcome = site.orders.outcome
        assert outcome is not None
        assert (outcome.number, outcome.status) == (number, "refused")
        assert "[remote] allow" in outcome.reason
    assert not site.operator.paused
    site.orders.take(Command(name="train", number=3))
    assert site.operator.hurry.is_set()


def test_settings_that_do_no_harm_stay_and_survive_a_restart(site: Site) -> None:
    async def scenario() -> None:
        site.orders.take(Command(name="configure", number=1, tables=TABLES, deadline_s=1))
        await site.until("trial")
        assert site.pause_s == 77.0
        await site.until("done")

    site.live(scenario)  # type: ignore[arg-type]
    site.start()
    assert site.pause_s == 77.0
    assert site.orders.outcome is not None
    assert site.orders.outcome.status == "done"


def test_settings_under_which_the_agent_is_not_healthy_are_undone(site: Site) -> None:
    before = site.pause_s

    async def scenario() -> None:
        site.wrong = "opcua: lost"
        site.orders.take(Command(name="configure", number=1, tables=TABLES, deadline_s=1))
        outcome = await site.until("undone")
        assert outcome.reason == "not healthy within 1 s; its log says why"
        assert site.pause_s == before

    site.live(scenario)  # type: ignore[arg-type]
    site.start()
    assert site.pause_s == before


@pytest.mark.parametrize("moment", ["noted", "written", "kept"])
def test_a_trial_that_a_crash_cuts_short_is_decided_at_the_next_start(
    site: Site, moment: str
) -> None:
    before = site.pause_s
    (site.state / "orders.json").write_text(
        '{"outcome": {"number": 3, "status": "trial", "reason": "begins"}, "is_paused": false}'
    )
    if moment != "noted":
        site.remote.begin(3, TABLES)
    if moment == "kept":
        site.remote.keep()
    site.start()
    assert site.orders.outcome is not None
    assert site.orders.outcome.status == ("done" if moment == "kept" else "undone")
    assert site.pause_s == (77.0 if moment == "kept" else before)
    assert not (site.state / "remote-trial.toml").exists()


WRONG = {
    "not TOML": ("[training", "Expected"),
    "a source": ('[source.images]\ncommand = ["sh"]', "the coordinator can not change this"),
    "the broker": ('[broker]\nhost = "evil.example"', "the coordinator can not change this"),
    "orders it may give": ('[remote]\nallow = ["configure"]', "the coordinator can not change"),
    "a key at the top": ("pause_s = 1.0", "the coordinator can not change this"),
    "a backend": ('[training]\nbackend = "numpy"', "the coordinator can not change this"),
    "a wrong type": ('[training]\npause_s = "long"', "Expected `float`"),
    "out of range": ("[training]\npause_s = -1.0", "Expected `float` >= 0"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_may_not_be_changed_is_refused_by_name_and_nothing_is_applied(
    site: Site, what: str
) -> None:
    tables, reason = WRONG[what]
    before = site.pause_s

    async def scenario() -> None:
        site.orders.take(Command(name="configure", number=9, tables=tables))
        outcome = await site.until("refused")
        assert reason in outcome.reason
        assert str(site.state) not in outcome.reason

    site.live(scenario)  # type: ignore[arg-type]
    assert site.pause_s == before
    assert not (site.state / "remote-trial.toml").exists()
    assert not (site.state / "remote.toml").exists()


def test_every_key_that_can_be_changed_is_a_key_of_the_file(settings: AgentSettings) -> None:
    for table, keys in CONFIGURABLE.items():
        fields = getattr(settings, table).__struct_fields__
        assert set(keys) <= set(fields), table


def test_an_overlay_keeps_what_it_does_not_name(settings: AgentSettings) -> None:
    found = overlaid(settings, "[history]\ncapacity_rows = 500\n", "order")
    assert found.history.capacity_rows == 500
    assert found.history.holdout_share == settings.history.holdout_share
    assert found.broker == settings.broker
    with pytest.raises(SettingsError, match=r"order: history\.channels: "):
        overlaid(settings, "[history]\nchannels = 1\n", "order")
