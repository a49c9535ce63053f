"""When a site chooses what it serves, what becomes of the choice, and that something is served."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest

import agent.personal
import agent.spare_time
from agent.adoption import Adopted, Adoption
from agent.history import History
from agent.learning.personalise import GLOBAL, CandidateFailed, Kind, ModelName, PersonalTable
from agent.learning.plan import TrainingPlan
from agent.learning.train import train
from agent.learning.worker import TrainingProcess
from agent.models import Models
from agent.personal import Personal
from agent.signals.rows import Rows, rows_of
from agent.spare_time import SpareTime, Superseded
from tests.agent.federation import AGENT, CHANNELS, POLICY, Federation, feed, milled
from wire.chunks import sha256
from wire.messages import Choice
from wire.tensors import flatten, write_params

FILE = "personal.model"
TABLE = PersonalTable(
    rest_s=0.0, min_rows=100, fine_tune_epochs=2, ditto_epochs=3, local_epochs=4, local_patience=2
)
LONG = TrainingPlan(epochs=60, batch_size=10, optimizer="sgd", learning_rate=0.01)


def failing_rows(number: int, start: int = 0) -> Rows:
    """Products that fail when the torque is high, which the initial weights know nothing about."""
    values = milled(number)
    values[:, 5] = values[:, 3] > 45
    return rows_of(values, range(start, start + number))


@dataclass
class Site:
    """A personal task with a real child, and what it works on."""

    personal: Personal
    adoption: Adoption
    history: History
    busy: list[bool] = field(default_factory=lambda: [False])

    @property
    def adopted(self) -> Adopted:
        assert self.adoption.current is not None
        return self.adoption.current

    @property
    def kind(self) -> Kind:
        return self.personal.serving(self.adopted).kind

    async def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(3000):
            if holds():
                return
            await asyncio.sleep(0.02)
        pytest.fail(f"never so: {self.personal.state}")

    async def until_chosen(self) -> None:
        await self.until(self.personal.changed.is_set)
        self.personal.changed.clear()


def serving(
    federation: Federation,
    directory: Path,
    scenario: Callable[[Site], Awaitable[None]],
    table: PersonalTable = TABLE,
) -> None:
    """Run a scenario beside the task of choosing."""

    async def run() -> None:
        history = History(directory / "history.db", CHANNELS, 2000, 0.25)
        adoption = Adoption(Models(directory / "models.db"), federation.trust, CHANNELS, "numpy")
        busy = [False]
        async with TrainingProcess(idle_s=60.0, backend="numpy") as process:
            personal = Personal(
                adoption, history, process, AGENT, table, directory, lambda: busy[0]
            )
            task = asyncio.create_task(personal.run())
            try:
                await scenario(Site(personal, adoption, history, busy))
                assert not task.done(), "the task ended"
            finally:
                task.cancel()
                await asyncio.wait([task])
        history.close()

    asyncio.run(run())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often than a gateway need."""
    monkeypatch.setattr(agent.personal, "_LOOK_S", 0.02)
    monkeypatch.setattr(agent.spare_time, "_LOOK_S", 0.02)


@pytest.fixture(scope="module")
def chosen(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of a site that serves a model of its own."""
    directory = tmp_path_factory.mktemp("chosen")

    async def scenario(site: Site) -> None:
        site.history.append(failing_rows(600))
        feed(site.adoption, federation.publish(1, version=5))
        await site.until_chosen()
        assert site.kind != GLOBAL

    serving(federation, directory, scenario)
    return directory


def copied(directory: Path, to: Path, *, without: str = "") -> Path:
    for file in directory.iterdir():
        if file.name != without:
            (to / file.name).write_bytes(file.read_bytes())
    return to


def test_global_serves_until_there_are_rows_and_a_better_model(
    federation: Federation, tmp_path: Path
) -> None:
    rows = rows_of(milled(20))

    async def scenario(site: Site) -> None:
        await site.until(lambda: site.personal.state == "waiting for a model")
        feed(site.adoption, federation.publish(1))
        await site.until(lambda: site.personal.state == "waiting for rows (0 of 100)")
        assert site.kind == GLOBAL
        assert site.personal.choice(site.adopted, rows) is None
        before = site.personal.score(site.adopted, rows)
        assert np.array_equal(before, site.adopted.score(site.adopted.serve, rows))
        site.history.append(failing_rows(600))
        await site.until_chosen()
        assert site.kind != GLOBAL
        after = site.personal.score(site.adopted, rows)
        is_high = rows.values[:, 3] > 45
        assert after[is_high].min() > after[~is_high].mean()
        await site.until(lambda: "of global" in site.personal.state)

    serving(federation, tmp_path, scenario)


def test_a_restart_serves_what_was_chosen_without_training(
    federation: Federation, tmp_path: Path, chosen: Path
) -> None:
    copied(chosen, tmp_path)

    async def scenario(site: Site) -> None:
        assert site.kind != GLOBAL
        await site.until(lambda: "of global" in site.personal.state)
        assert not site.personal.changed.is_set()

    serving(federation, tmp_path, scenario)


def test_the_report_says_what_is_served_and_judges_it_by_the_newest_held_out_rows(
    federation: Federation, tmp_path: Path, chosen: Path
) -> None:
    copied(chosen, tmp_path)

    async def scenario(site: Site) -> None:
        held_out = site.history.read(held_out=True)
        choice = site.personal.choice(site.adopted, held_out)
        assert choice is not None
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(choice), type=Choice) == choice
        served = site.personal.serving(site.adopted)
        assert (choice.model, choice.normalisation) == (
            served.kind.model,
            served.kind.normalisation,
        )
        assert choice.reason.startswith(str(served.kind))
        evaluation = choice.evaluation
        assert evaluation.digest == sha256(write_params(served.params))
        newest = held_out.newest(len(held_out) // 4)
        assert sum(evaluation.positives) == np.sum(newest.values[:, 5] > 0.5)
        assert sum(evaluation.negatives) == np.sum(newest.values[:, 5] < 0.5)
        alarms = site.personal.score(site.adopted, newest) >= 0.5
        assert sum(evaluation.alarms) == np.sum(alarms)
        assert site.personal.choice(site.adopted, held_out.newest(0)) is None

    serving(federation, tmp_path, scenario)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "other", "huge"])
def test_a_damaged_file_is_dropped_with_a_log_line_and_global_serves(
    federation: Federation,
    tmp_path: Path,
    chosen: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    copied(chosen, tmp_path)
    data = bytearray((tmp_path / FILE).read_bytes())
    if damage == "changed":
        data[len(data) // 2] ^= 1
    if damage == "huge":
        monkeypatch.setattr("agent.own_model.LARGEST_CHECKPOINT", len(data) - 1)
    kept = {"cut": data[:-1], "empty": data[:0], "other": bytearray(b"JMCKPT1\n") + data[8:]}
    (tmp_path / FILE).write_bytes(kept.get(damage, data))

    async def scenario(site: Site) -> None:
        assert "is dropped, the global model is served" in caplog.text
        assert not (tmp_path / FILE).exists()
        assert site.kind == GLOBAL
        await site.until_chosen()
        assert (tmp_path / FILE).exists()

    serving(federation, tmp_path, scenario)


def test_a_disk_that_takes_nothing_does_not_stop_the_chosen_model(
    federation: Federation, tmp_path: Path, chosen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied(chosen, tmp_path, without=FILE)
    (tmp_path / f".{FILE}.new").mkdir()  # the name that a new file would take

    async def scenario(site: Site) -> None:
        await site.until_chosen()
        assert site.kind != GLOBAL
        assert "is served, but not kept for a restart" in caplog.text
        assert not (tmp_path / FILE).exists()

    serving(federation, tmp_path, scenario)


def test_switched_off_nothing_is_trained_or_read(
    federation: Federation, tmp_path: Path, chosen: Path
) -> None:
    copied(chosen, tmp_path)

    async def scenario(site: Site) -> None:
        await site.until(lambda: site.personal.state.startswith("off"))
        assert site.kind == GLOBAL
        assert site.personal.choice(site.adopted, site.history.read(held_out=True)) is None

    serving(federation, tmp_path, scenario, msgspec.structs.replace(TABLE, enabled=False))


def test_a_choice_outlives_newer_versions_and_not_another_bundle(
    federation: Federation, tmp_path: Path, chosen: Path
) -> None:
    copied(chosen, tmp_path)

    async def scenario(site: Site) -> None:
        site.busy[0] = True
        feed(site.adoption, federation.publish(2, version=8, serve=federation.moved(0.01)))
        assert site.kind != GLOBAL
        other = federation.learning(revision=2)
        feed(site.adoption, other.publish(3, version=9))
        assert site.kind == GLOBAL
        assert np.array_equal(
            flatten(site.personal.serving(site.adopted).params), flatten(site.adopted.serve)
        )

    serving(federation, tmp_path, scenario)


@pytest.mark.parametrize(("model", "left"), [("ditto", GLOBAL), ("local", Kind("local"))])
def test_what_was_made_from_a_version_goes_with_it_and_what_was_not_stays(
    federation: Federation, tmp_path: Path, model: ModelName, left: Kind
) -> None:
    async def scenario(site: Site) -> None:
        site.history.append(failing_rows(400))
        feed(site.adoption, federation.publish(1, version=5))
        await site.until_chosen()
        assert site.kind == Kind(model)
        site.busy[0] = True
        feed(site.adoption, federation.publish(2, version=3, serve=federation.moved(0.01)))
        assert site.kind == left

    only = msgspec.structs.replace(TABLE, models=(model,), local_normalisation=False)
    serving(federation, tmp_path, scenario, only)


def test_a_new_version_and_a_quarter_more_rows_are_reasons_to_choose_again(
    federation: Federation, tmp_path: Path, chosen: Path
) -> None:
    copied(chosen, tmp_path)

    async def scenario(site: Site) -> None:
        feed(site.adoption, federation.publish(2, version=6, serve=federation.moved(0.01)))
        await site.until_chosen()
        await site.until(lambda: "of global" in site.personal.state)
        site.history.append(failing_rows(60, start=10_000))
        await asyncio.sleep(0.2)
        assert not site.personal.changed.is_set()
        site.history.append(failing_rows(200, start=20_000))
        await site.until_chosen()

    serving(federation, tmp_path, scenario)


def test_nothing_is_trained_while_the_learner_is_busy(
    federation: Federation, tmp_path: Path, chosen: Path
) -> None:
    copied(chosen, tmp_path, without=FILE)

    async def scenario(site: Site) -> None:
        await site.until(lambda: site.personal.state == "waiting for the learner")
        await asyncio.sleep(0.1)
        assert not site.personal.changed.is_set()
        site.busy[0] = False
        await site.until_chosen()

    def begin_busy(site: Site) -> Awaitable[None]:
        site.busy[0] = True
        return scenario(site)

    serving(federation, tmp_path, begin_busy)


def test_too_few_held_out_rows_are_said_and_not_tried_all_the_time(
    federation: Federation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(site: Site) -> None:
        site.history.append(failing_rows(150))
        feed(site.adoption, federation.publish(1))
        await site.until(lambda: site.personal.state == "global; the next choice comes later")
        assert "[history] holdout_share" in caplog.text
        await asyncio.sleep(0.2)
        assert caplog.text.count("no model was chosen to serve") == 1
        assert site.kind == GLOBAL

    serving(federation, tmp_path, scenario, msgspec.structs.replace(TABLE, min_judges=500))


def test_a_policy_by_which_all_diverge_leaves_the_global_model(
    federation: Federation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wild = msgspec.structs.replace(POLICY, learning_rate=1e12, optimizer="sgd")

    async def scenario(site: Site) -> None:
        site.history.append(failing_rows(300))
        feed(site.adoption, federation.publish(1, policy=wild))
        await site.until_chosen()
        assert site.kind.model == "global"
        assert "no ditto model to choose from: TrainingDiverged" in caplog.text

    serving(federation, tmp_path, scenario)


def test_a_training_that_gives_way_ends_as_one_that_was_never_interrupted(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent.spare_time, "_CHECKPOINT_S", 0.01)

    async def scenario(site: Site) -> None:
        feed(site.adoption, federation.publish(1))
        examples = site.adopted.examples(
            rows_of(milled(300, (np.arange(300) % 2).astype(np.float64)))
        )
        asked = 0

        def is_busy() -> bool:
            nonlocal asked
            asked += 1
            return asked % 3 == 1

        spare = SpareTime(site.personal.process, site.adopted, site.adoption, is_busy)
        start = site.adopted.serve
        result = await spare.train(start, examples.inputs, examples.labels, LONG)
        assert asked > 3, "it was never asked to give way"
        backend = site.adopted.model.backend
        expected = train(backend, start, examples.inputs, examples.labels, LONG)
        assert np.array_equal(flatten(result.params), flatten(expected.params))
        assert not result.stopped

    serving(federation, tmp_path, scenario, msgspec.structs.replace(TABLE, enabled=False))


def test_what_another_bundle_overtook_is_not_used_and_a_failure_costs_one_candidate(
    federation: Federation, tmp_path: Path
) -> None:
    async def scenario(site: Site) -> None:
        feed(site.adoption, federation.publish(1))
        old = site.adopted
        spare = SpareTime(site.personal.process, old, site.adoption, lambda: False)
        x = old.examples(rows_of(milled(10))).inputs
        assert len(await spare.infer(old.serve, x)) == 10
        wrong = np.zeros((10, 3), np.float32)
        with pytest.raises(CandidateFailed, match="3"):
            await spare.train(old.serve, x, wrong, LONG)
        feed(site.adoption, federation.learning(revision=2).publish(2))
        with pytest.raises(Superseded):
            await spare.infer(old.serve, x)

    serving(federation, tmp_path, scenario, msgspec.structs.replace(TABLE, enabled=False))
