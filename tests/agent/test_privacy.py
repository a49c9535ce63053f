"""What this site insists on, what it charges, and what it does when the budget is spent."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.learning.plan import TrainingPlan
from agent.privacy import (
    BudgetSpent,
    Ledger,
    Privacy,
    PrivacyTable,
    private_plan,
    problems,
    read_account,
)
from agent.privacy.accounting import epsilon_of, gaussian_cost, sampled_cost
from agent.privacy.cost import cost_of, counted_noise, not_covered
from agent.privacy.ledger import FILE_NAME
from agent.privacy.noising import noised
from agent.privacy.privacy import releases_left
from agent.privacy_command import in_lines
from tests.agent.federation import Federation
from wire.manifest import Manifest, Window
from wire.messages import Charter, Policy, Safeguards, Spent
from wire.spent import added

ROOT = Path(__file__).parents[2]
UPDATE = Policy(privacy="update", noise_multiplier=4.0, clip_norm=0.1, bits=16)
RECORD = Policy(privacy="record", noise_multiplier=1.0, epochs=3, batch_size=32)
BUDGET = PrivacyTable(epsilon=3.0, delta=1e-6)
NOTHING = Spent()


def changed(policy: Policy, **changes: object) -> Policy:
    return msgspec.structs.replace(policy, **changes)


@pytest.fixture
def manifest(federation: Federation) -> Manifest:
    return federation.opened.manifest


@pytest.fixture
def charter(federation: Federation) -> Charter:
    return federation.trust.charter


def reason(privacy: Privacy, policy: Policy, charter: Charter, manifest: Manifest) -> str:
    return privacy.reason_to_wait(policy, charter, manifest, 500)


def told(table: PrivacyTable = BUDGET, directory: Path | None = None) -> Privacy:
    """An agent's account that has heard the coordinator's word: nothing was spent before."""
    privacy = Privacy(table, Ledger(directory))
    privacy.on_mark(NOTHING)
    return privacy


# Floors


def test_a_policy_without_privacy_is_followed_where_nobody_asks_for_any(
    charter: Charter, manifest: Manifest
) -> None:
    privacy = Privacy()
    assert reason(privacy, Policy(), charter, manifest) == ""
    assert privacy.charge(Policy(), 500) is None
    assert privacy.report().releases == 0


def test_a_policy_below_the_charters_floor_or_the_sites_own_is_refused_by_name(
    charter: Charter, manifest: Manifest
) -> None:
    strict = msgspec.structs.replace(charter, least=Safeguards(privacy="record"))
    words = reason(told(), UPDATE, strict, manifest)
    assert words.startswith("refused: the head's policy is below the charter's: privacy is update")
    own = told(PrivacyTable(unit="update", epsilon=3.0, noise_multiplier=5.0))
    words = reason(own, UPDATE, charter, manifest)
    assert "below this site's own [privacy]: noise_multiplier is 4" in words
    assert "privacy is none" in reason(own, Policy(), charter, manifest)
    masked = told(PrivacyTable(protection="masked"))
    assert "protection is none" in reason(masked, Policy(), charter, manifest)
    assert own.report().refused == reason(own, Policy(), charter, manifest)


def test_a_policy_that_contradicts_itself_is_refused(charter: Charter, manifest: Manifest) -> None:
    words = reason(told(), changed(UPDATE, noise_multiplier=0.0), charter, manifest)
    assert words.startswith("refused: the head's policy contradicts itself: noise_multiplier")


def test_records_can_not_hide_behind_local_means_or_local_tensors(
    charter: Charter, manifest: Manifest
) -> None:
    local_means = msgspec.structs.replace(manifest, standardise="local")
    first = msgspec.structs.replace(manifest.tensors[0], local=True)
    local_head = msgspec.structs.replace(manifest, tensors=(first, *manifest.tensors[1:]))
    privacy = told(PrivacyTable(epsilon=100.0))
    assert reason(privacy, RECORD, charter, manifest) == ""
    assert "every row moves the means" in reason(privacy, RECORD, charter, local_means)
    assert "tensors that stay" in reason(privacy, RECORD, charter, local_head)
    assert reason(privacy, UPDATE, charter, local_head) == ""


# Budget and mark


def test_nothing_private_is_made_before_the_coordinator_said_what_was_spent(
    charter: Charter, manifest: Manifest, tmp_path: Path
) -> None:
    privacy = Privacy(BUDGET, Ledger(tmp_path))
    assert "waiting for the coordinator's word" in reason(privacy, UPDATE, charter, manifest)
    with pytest.raises(BudgetSpent, match="waiting for the coordinator's word"):
        privacy.charge(UPDATE, 500)
    privacy.on_mark(NOTHING)
    assert reason(privacy, UPDATE, charter, manifest) == ""
    assert privacy.charge(UPDATE, 500) == added(Spent(releases=1), gaussian_cost(4.0))


def test_a_budget_is_a_hard_stop_that_a_restart_does_not_lift(
    charter: Charter, manifest: Manifest, tmp_path: Path
) -> None:
    privacy = told(directory=tmp_path)
    room = releases_left(NOTHING, cost_of(UPDATE, 500, 1), BUDGET)
    assert room == 6
    for made in range(room):
        assert reason(privacy, UPDATE, charter, manifest) == ""
        assert privacy.report().releases_left == room - made
        spent = privacy.charge(UPDATE, 500)
        assert spent is not None
        assert epsilon_of(spent, 1e-6) <= 3.0
    for _ in range(2):
        words = reason(privacy, UPDATE, charter, manifest)
        assert words.startswith("privacy budget spent: epsilon 2.8")
        assert "of 3 at delta 1e-06" in words
        with pytest.raises(BudgetSpent):
            privacy.charge(UPDATE, 500)
        privacy = told(directory=tmp_path)
    reason(privacy, UPDATE, charter, manifest)
    report = privacy.report()
    assert (report.releases, report.releases_left) == (room, 0)
    assert epsilon_of(added(Spent(), gaussian_cost(4.0, room)), 1e-6) == report.epsilon


def test_a_wiped_card_goes_on_from_the_mark_and_not_from_zero(
    charter: Charter, manifest: Manifest, tmp_path: Path
) -> None:
    before = told(directory=tmp_path)
    mark = [before.charge(UPDATE, 500) for _ in range(6)][-1]
    assert mark is not None
    wiped = Privacy(BUDGET, Ledger(None))
    wiped.on_mark(mark)
    assert reason(wiped, UPDATE, charter, manifest).startswith("privacy budget spent")


def test_a_lost_ledger_learns_from_updates_that_were_not_sent_too(tmp_path: Path) -> None:
    unsent = added(Spent(releases=3), gaussian_cost(4.0, 3))
    lost = Privacy(BUDGET, Ledger(tmp_path), lambda: [unsent])
    lost.on_mark(added(Spent(releases=2), gaussian_cost(4.0, 2)))
    assert lost.report().releases == 3
    kept = Privacy(BUDGET, Ledger(tmp_path), lambda: [added(unsent, unsent)])
    kept.on_mark(NOTHING)
    assert kept.report().releases == 3  # a sound ledger knows of all that it charged


def test_an_update_that_turned_out_dearer_than_it_looked_is_not_trained_for_again(
    charter: Charter, manifest: Manifest
) -> None:
    policy = changed(RECORD, epochs=1, batch_size=64)
    table = PrivacyTable(epsilon=epsilon_of(cost_of(policy, 10_000, 1), 1e-6), delta=1e-6)
    privacy = told(table)
    assert privacy.reason_to_wait(policy, charter, manifest, 10_000) == ""
    with pytest.raises(BudgetSpent):  # fewer rows had a label: each is in a batch more often
        privacy.charge(policy, 100)
    words = privacy.reason_to_wait(policy, charter, manifest, 10_000)
    assert words.startswith("privacy budget spent")


def test_an_account_of_one_unit_is_not_continued_in_another_unless_the_site_says_so(
    charter: Charter, manifest: Manifest, tmp_path: Path
) -> None:
    free = PrivacyTable(epsilon=1000.0)
    told(free, tmp_path).charge(UPDATE, 500)
    words = reason(told(free, tmp_path), RECORD, charter, manifest)
    assert "counts what hides one update" in words
    agreed = told(PrivacyTable(unit="record", epsilon=1000.0), tmp_path)
    assert reason(agreed, RECORD, charter, manifest) == ""
    agreed.charge(RECORD, 500)
    account = read_account(tmp_path / FILE_NAME)
    assert account is not None
    assert (account.by_update, account.by_record, account.spent.releases) == (1, 1, 2)
    assert account.spent.gaussian == pytest.approx(1 / 16)


def test_a_budget_of_none_counts_and_stops_nothing(charter: Charter, manifest: Manifest) -> None:
    privacy = told(PrivacyTable())
    for _ in range(50):
        privacy.charge(UPDATE, 500)
    assert reason(privacy, UPDATE, charter, manifest) == ""
    report = privacy.report()
    assert (report.releases, report.releases_left, report.budget) == (50, None, 0.0)
    assert report.epsilon > 8


# The ledger's file


def test_a_damaged_ledger_is_set_aside_and_the_mark_is_learned_again(tmp_path: Path) -> None:
    told(directory=tmp_path).charge(UPDATE, 500)
    file = tmp_path / FILE_NAME
    whole = file.read_bytes()
    for damaged in (whole[:-3], whole.replace(b'"releases":1', b'"releases":0'), b"", b"\xff" * 99):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="cut or changed"):
            read_account(file)
        again = Privacy(BUDGET, Ledger(tmp_path))
        again.on_mark(added(Spent(releases=1), gaussian_cost(4.0)))
        assert again.report().releases == 1
        assert file.read_bytes().endswith(b"}")
    assert len(list(tmp_path.glob(f"{FILE_NAME}.damaged-*"))) == 4


def test_a_disk_that_takes_nothing_stops_private_updates_and_is_said(
    charter: Charter, manifest: Manifest, tmp_path: Path
) -> None:
    folder = tmp_path / "state"
    privacy = told(directory=folder)
    folder.mkdir()
    assert reason(privacy, UPDATE, charter, manifest) == ""
    (folder / f".{FILE_NAME}.new").mkdir()  # where the new file would be written first
    with pytest.raises(Exception, match="directory"):
        privacy.charge(UPDATE, 500)
    assert privacy.problem.startswith(FILE_NAME)
    assert privacy.report().releases == 0
    (folder / f".{FILE_NAME}.new").rmdir()
    assert privacy.charge(UPDATE, 500) is not None
    assert privacy.problem == ""


def test_a_thousand_kills_leave_no_update_uncharged_and_none_beyond_the_budget(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.agent.privacy_kills", tmp_path, "1000"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=300,
    )
    found = json.loads(done.stdout)
    room = releases_left(NOTHING, cost_of(UPDATE, 100, 1), BUDGET)
    assert found["killed"] == 1000
    lost = 0
    for card in found["cards"]:
        assert card["releases"] == room
        assert len(set(card["marks"])) == len(card["marks"]) <= room
        assert all(1 <= mark <= room for mark in card["marks"])
        lost += room - len(card["marks"])
    assert 0 < lost < room * len(found["cards"])  # kills came between charge and update, too


# Costs


def test_a_full_batch_costs_unsampled_steps_and_a_smaller_one_sampled_ones() -> None:
    full = cost_of(changed(RECORD, batch_size=500), 500, 1)
    assert full == added(Spent(releases=1), gaussian_cost(1.0, 3))
    sampled = cost_of(RECORD, 500, 1)
    assert sampled == added(Spent(releases=1), sampled_cost(1.0, 32 / 500, 3 * 16))
    assert epsilon_of(sampled, 1e-6) < epsilon_of(full, 1e-6)


def test_shared_noise_is_counted_as_far_as_others_are_believed() -> None:
    shared = changed(UPDATE, noise_sites=4)
    counted = [counted_noise(shared, honest) for honest in (1, 2, 4, 9)]
    assert counted == pytest.approx([2.0, 4.0 / np.sqrt(2), 4.0, 4.0])
    alone = cost_of(shared, 500, 1)
    assert alone.gaussian == pytest.approx(4 * cost_of(UPDATE, 500, 1).gaussian)


def test_an_updates_noise_is_of_the_promised_size_and_new_each_time() -> None:
    shared = changed(UPDATE, noise_sites=4)
    for policy, expected in ((UPDATE, 0.4), (shared, 0.2)):
        noise = noised(np.full(50_000, 3.0), policy) - 3.0
        assert abs(noise.std() / expected - 1) < 6 / np.sqrt(2 * noise.size)
        assert abs(noise.mean()) < 6 * expected / np.sqrt(noise.size)
    assert not np.array_equal(noised(np.zeros(4), UPDATE), noised(np.zeros(4), UPDATE))
    quiet = np.ones(4)
    assert noised(quiet, RECORD) is quiet


def test_only_record_privacy_changes_how_a_site_trains() -> None:
    plan = TrainingPlan(epochs=1, batch_size=8, optimizer="sgd", learning_rate=0.1)
    assert private_plan(plan, UPDATE) == plan == private_plan(plan, Policy())
    private = private_plan(plan, changed(RECORD, example_clip=0.7))
    assert private == replace(plan, clip_norm=0.7, noise_multiplier=1.0)


# What people read


def test_a_site_that_insists_needs_a_budget() -> None:
    assert dict(problems(PrivacyTable(unit="record")))["epsilon"].startswith('unit = "record"')
    assert not list(problems(PrivacyTable()))
    assert not list(problems(PrivacyTable(unit="update", epsilon=1.0)))


def test_what_is_not_covered_is_listed(manifest: Manifest) -> None:
    plain = not_covered(UPDATE, manifest)
    assert any("number of examples" in what for what in plain)
    federated = msgspec.structs.replace(manifest, standardise="federated")
    assert any("sums of the inputs" in what for what in not_covered(UPDATE, federated))
    windows = msgspec.structs.replace(manifest, window=Window(length=10, stride=4))
    assert any("up to 3 examples" in what for what in not_covered(RECORD, windows))


def test_the_command_says_what_is_spent_left_and_refused(
    charter: Charter, manifest: Manifest, tmp_path: Path
) -> None:
    table = PrivacyTable(unit="update", epsilon=3.0, delta=1e-6)
    privacy = told(table, tmp_path)
    privacy.charge(UPDATE, 500)
    reason(privacy, UPDATE, charter, manifest)
    account = read_account(tmp_path / FILE_NAME)
    assert account is not None
    text = "\n".join(in_lines(table, account, privacy.report()))
    assert 'this site insists on: privacy = "update"' in text
    assert "budget: epsilon 3 at delta 1e-06" in text
    assert "spent: epsilon 1.0" in text
    assert "left: 5 updates" in text
    assert "  - what was sent before" in text
    assert "left: not known" in "\n".join(in_lines(table, account, None))
