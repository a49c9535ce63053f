"""The audit log under secure aggregation: manifests with their reports, and what folds without."""

import io
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from coordinator.audit_export import write_log
from coordinator.config import Identity
from shopfloor.audit.account import Account
from shopfloor.audit.check import check_log
from shopfloor.audit.words import summary
from tests.coordinator.secure_world import HELPERS, World
from tests.coordinator.small_federation import COORDINATOR_KEY, FEDERATION, ROOT_KEY, bundle_bytes
from wire.audit_entries import Entry, ManifestNoted, SettledNoted, decode_entry
from wire.audit_file import LogReader
from wire.bundle import read_bundle
from wire.charters import sign_charter
from wire.database import open_database
from wire.trust import read_charter


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The log after a masked version of five sites, with one helper down."""
    folder: Path = tmp_path_factory.mktemp("masked")
    world = World(folder, "[strategy]\ngoal = 5\n")
    world.online(*HELPERS[1:])
    for _ in range(2):
        agents = list(world.agents.values()) or world.sites(5)
        world.commit([world.update(agent, weight=10 + at) for at, agent in enumerate(agents)])
        world.settle()
    assert world.outcomes() == {"folded": 10}
    trust = read_charter(sign_charter(world.charter, ROOT_KEY), ROOT_KEY.public)
    data, stream = bundle_bytes(), io.BytesIO()
    bundle = read_bundle(data, trust)
    identity = Identity(
        Path("coordinator.toml"), trust, COORDINATOR_KEY, bundle, data, bundle.weights
    )
    with closing(open_database(folder / "coordinator.db", "", durable=True)) as database:
        write_log(database, stream, identity, ROOT_KEY.public.raw)
    world.store.close()
    return stream.getvalue()


def entries(exported: bytes) -> list[Entry]:
    return [decode_entry(data) for data in LogReader(io.BytesIO(exported)).entries()]


def problems(log: Sequence[Entry]) -> str:
    account = Account(FEDERATION, ROOT_KEY.public)
    for number, entry in enumerate(log):
        account.take(number, entry, b"")
    account.finish()
    return "; ".join(account.problems)


def test_a_masked_version_is_recorded_with_the_manifest_that_opened_it(exported: bytes) -> None:
    checked = check_log(io.BytesIO(exported), ROOT_KEY.public)
    assert checked.problems == []
    manifests = [entry for entry in entries(exported) if isinstance(entry, ManifestNoted)]
    assert [entry.helpers for entry in manifests] == [("insurer", "union")] * 2
    assert sorted(each.coefficient for each in manifests[0].members) == [10, 11, 12, 13, 14]
    assert "update               2" in summary(checked, is_pinned=True)


def test_what_was_folded_must_be_what_the_manifest_sums(exported: bytes) -> None:
    log = entries(exported)
    at = next(at for at, entry in enumerate(log) if isinstance(entry, ManifestNoted))
    manifest = log[at]
    assert isinstance(manifest, ManifestNoted)
    first, *rest = manifest.members
    heavier = msgspec.structs.replace(first, coefficient=1000)
    weighed = msgspec.structs.replace(manifest, members=(heavier, *rest))
    assert "is in no manifest with this coefficient" in problems(
        [*log[:at], weighed, *log[at + 1 :]]
    )
    unknown = msgspec.structs.replace(first, report=bytes(32))
    other = msgspec.structs.replace(manifest, members=(unknown, *rest))
    assert "sums what was never committed" in problems([*log[:at], other, *log[at + 1 :]])
    assert "is in no manifest" in problems([*log[:at], *log[at + 1 :]])
    again = msgspec.structs.replace(manifest, number=9)
    assert "uses a report a second time" in problems([*log, again])


def test_an_update_without_a_mask_is_told_where_the_charter_demands_one(exported: bytes) -> None:
    log = entries(exported)
    bare = [
        msgspec.structs.replace(entry, report=b"") if hasattr(entry, "report") else entry
        for entry in log
        if not isinstance(entry, ManifestNoted)
    ]
    assert problems(bare) == ""
    account = Account(FEDERATION, ROOT_KEY.public)
    for number, entry in enumerate(bare):
        account.take(number, entry, b"")
        if number == 0:
            at, charter = account.charters[0]
            least = msgspec.structs.replace(charter.least, protection="masked")
            account.charters[0] = (at, msgspec.structs.replace(charter, least=least))
    assert "was open, and the charter forbids that" in account.problems[0]
    settled = sum(isinstance(entry, SettledNoted) for entry in bare)
    assert (settled, len(account.problems)) == (2, 10)
