"""An exported audit log: it holds as it is, no edit of it passes, and a fork is seen."""

import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from agent.privacy.accounting import epsilon_of
from coordinator.audit_export import write_log
from coordinator.federation import Federation
from shopfloor.audit.account import Account
from shopfloor.audit.check import Checked, check_log
from shopfloor.audit.compare import Comparison, compare, in_words, sizes_of
from shopfloor.audit.words import summary
from tests.coordinator.audited_federation import TOML, Audited, heads_of, lived
from tests.coordinator.small_federation import (
    AUTHOR_KEY,
    COORDINATOR_KEY,
    ENROLMENT_KEY,
    FEDERATION,
    ROOT_KEY,
    identity,
    settings,
)
from wire.audit_entries import (
    AgentNoted,
    CharterNoted,
    DecisionNoted,
    Entry,
    HeadNoted,
    ManifestNoted,
    SettledNoted,
    SummedReport,
    UpdateNoted,
    VersionNoted,
    decode_entry,
    encode_entry,
)
from wire.audit_file import LOG_LINE, LogOpening, LogReader, LogWriter
from wire.codec import seal
from wire.database import open_database
from wire.errors import SignatureError, WireError
from wire.merkle import Frontier, leaf_hash
from wire.messages import Charter, Spent, TreeHead
from wire.signing import PrivateKey
from wire.trust import ROOT, read_charter

Edit = Callable[[list[bytes]], list[bytes]]


@dataclass(frozen=True)
class Exported:
    """A log's file, and its parts."""

    data: bytes
    entries: list[bytes]
    heads: list[bytes]
    collected: list[bytes]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    made = lived(tmp_path_factory.mktemp("audit") / "coordinator.db", rounds=8)
    made.federation.commit([made.sites["press-2"].update(made.federation.head.train)], 99.0)
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def exported(federation: Audited) -> Exported:
    data = federation.export()
    reader = LogReader(io.BytesIO(data))
    return Exported(data, list(reader.entries()), list(reader.heads()), federation.heads)


def check(data: bytes, sizes: set[int] | None = None) -> Checked:
    return check_log(io.BytesIO(data), ROOT_KEY.public, sizes or set())


def written(entries: list[bytes], heads: list[bytes], key: PrivateKey = COORDINATOR_KEY) -> bytes:
    """A file with these entries and heads as somebody with this key can write it."""
    stream, tree = io.BytesIO(), Frontier()
    opening = LogOpening(FEDERATION, ROOT_KEY.public.raw, len(entries), len(heads))
    writer = LogWriter(stream, opening)
    for entry in entries:
        writer.frame(entry)
        tree = tree.add(leaf_hash(entry))
    for head in heads:
        writer.frame(head)
    writer.finish(TreeHead(size=tree.size, root=tree.root), key)
    return stream.getvalue()


def is_caught(data: bytes) -> bool:
    try:
        return bool(check(data).problems)
    except WireError:
        return True


def test_an_exported_log_holds_and_is_told_in_words(exported: Exported) -> None:
    checked = check(exported.data)
    assert checked.problems == []
    assert checked.tree.size == len(exported.entries)
    words = summary(checked, is_pinned=True)
    for expected in (
        "federation plant-net",
        "sums of 2 sites or more",
        "the author of bundle spindle revision 1",
        "9 recorded, the newest is 8 of lineage 0",
        "each made of updates from 3 sites or more",
        "site-a               press-1 (credential 1)",
        "26 with an outcome: 24 folded, 1 refused, 0 void, 1 dropped; 1 committed and waiting",
        "mill-1               8 folded",
        "1 x dropped: quota",
        f"press-2              epsilon {epsilon_of(Spent(gaussian=2.0), 1e-5):.4g} after 8",
        "version 2 promoted",
        "THE LOG HOLDS",
    ):
        assert expected in words


def test_what_the_parts_make_again_is_the_file_itself(exported: Exported) -> None:
    assert written(exported.entries, exported.heads) == exported.data


@given(st.data())
@hypothesis_settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_changed_missing_or_added_byte_of_the_file_passes(
    exported: Exported, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(exported.data) - 1))
    edited = bytearray(exported.data)
    how = data.draw(st.sampled_from(["change", "remove", "insert", "cut"]))
    if how == "change":
        edited[at] ^= data.draw(st.integers(1, 255))
    elif how == "remove":
        del edited[at]
    elif how == "insert":
        edited.insert(at, data.draw(st.integers(0, 255)))
    else:
        del edited[at:]
    if edited != exported.data:
        assert is_caught(bytes(edited))


@given(st.data())
@hypothesis_settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_removed_swapped_doubled_or_rewritten_entry_passes_though_the_frames_are_in_order(
    exported: Exported, data: st.DataObject
) -> None:
    """Whoever edits has everything but the coordinator's key."""
    entries = list(exported.entries)
    at, other = (data.draw(st.integers(0, len(entries) - 1)) for _ in range(2))
    how = data.draw(st.sampled_from(["remove", "swap", "double", "rewrite"]))
    if how == "remove":
        del entries[at]
    elif how == "swap":
        entries[at], entries[other] = entries[other], entries[at]
    elif how == "double":
        entries.insert(other, entries[at])
    else:
        entries[at] = encode_entry(HeadNoted(0, 77, bytes(32)))
    if entries != exported.entries:
        signature = exported.data[-64:]
        assert is_caught(written(entries, exported.heads)[:-64] + signature)
        assert is_caught(written(entries, exported.heads, AUTHOR_KEY))


def test_a_coordinator_that_rewrites_what_is_behind_its_newest_head_is_caught(
    exported: Exported,
) -> None:
    """With its key it signs the edited file anew; the head that it had signed is over the old."""
    for at, data in enumerate(exported.entries[:-1]):
        entry = decode_entry(data)
        if isinstance(entry, DecisionNoted):
            changed = msgspec.structs.replace(entry, reason="nothing happened")
            entries = list(exported.entries)
            entries[at] = encode_entry(changed)
            assert any(
                "another log" in each for each in check(written(entries, exported.heads)).problems
            )
            break
    else:
        pytest.fail("no decision in the log")
    assert check(written(exported.entries, [])).problems == [
        "the newest head that the log records is not in the file"
    ]


def test_another_root_is_told(exported: Exported) -> None:
    checked = check_log(io.BytesIO(exported.data), AUTHOR_KEY.public)
    assert checked.problems == [f"the file is of another root: {ROOT_KEY.public.raw.hex()}"]
    assert "THE LOG DOES NOT HOLD: 1 problems" in summary(checked, is_pinned=True)
    assert "give --root" in summary(check_log(io.BytesIO(exported.data)), is_pinned=False)


def charter(**changes: object) -> bytes:
    made = msgspec.structs.replace(
        Charter(
            federation=FEDERATION,
            epoch=2,
            enrolment_key=ENROLMENT_KEY.public.raw,
            coordinator_key=COORDINATOR_KEY.public.raw,
            author_keys=(AUTHOR_KEY.public.raw,),
            k_min=2,
        ),
        **changes,
    )
    return seal(made, federation=FEDERATION, signer=ROOT, counter=made.epoch, key=ROOT_KEY)


def found(
    exported: Exported, *more: Entry, instead: Mapping[int, Entry] | None = None
) -> list[str]:
    """Problems of the log's account when it goes on like this."""
    account = Account(FEDERATION, ROOT_KEY.public)
    replaced = instead or {}
    log = [replaced.get(at, decode_entry(data)) for at, data in enumerate(exported.entries)]
    for number, entry in enumerate([*log, *more]):
        account.take(number, entry, b"")
    account.finish()
    return account.problems


def first(exported: Exported, kind: type[Entry]) -> tuple[int, Entry]:
    return next(
        (at, entry)
        for at, entry in enumerate(map(decode_entry, exported.entries))
        if isinstance(entry, kind)
    )


def test_decisions_that_do_not_fit_each_other_are_told_one_by_one(exported: Exported) -> None:
    size = len(exported.entries)
    _, settled = first(exported, SettledNoted)
    at_update, update = first(exported, UpdateNoted)
    _, version = first(exported, VersionNoted)
    at_agent, _ = first(exported, AgentNoted)
    _, head = first(exported, HeadNoted)
    assert isinstance(settled, SettledNoted)
    assert isinstance(update, UpdateNoted)
    assert isinstance(version, VersionNoted)
    assert isinstance(head, HeadNoted)
    report = SummedReport(bytes(32), 1, 0)
    manifest = ManifestNoted(1, 1, "update", 0, bytes(32), ("h1", "h2"), (report,), 0)
    cases: list[tuple[tuple[Entry, ...], str]] = [
        ((update,), "was decided twice"),
        ((msgspec.structs.replace(update, agent="ghost"),), "of an agent without a credential"),
        ((msgspec.structs.replace(settled, status="void"),), "was settled before, or"),
        ((msgspec.structs.replace(settled, version=5),), "into version 5, not the newest"),
        ((msgspec.structs.replace(version, version=10),), "version 10 where 9 is due"),
        ((msgspec.structs.replace(version, version=9, lineage=3),), "is of lineage 3"),
        ((msgspec.structs.replace(version, version=9, members=2),), "says 2 updates and has 0"),
        ((head,), "head 1 after head"),
        ((DecisionNoted(77, 0, "promoted", "", 0),), "version 77, not made yet"),
        ((manifest, msgspec.structs.replace(manifest, number=2)), "a report a second time"),
        ((manifest, manifest), "manifest 1 was opened before"),
        ((msgspec.structs.replace(manifest, helpers=("h1", "h1")),), "fewer than two helpers"),
        ((msgspec.structs.replace(manifest, epoch=2),), "epoch 2, unknown here"),
        ((CharterNoted(charter(epoch=1), 0),), "charter epoch 1 after 1"),
        ((CharterNoted(charter()[:-1] + b"\0", 0),), "the charter is not the root's"),
    ]
    for more, expected in cases:
        problems = found(exported, *more)
        assert problems, expected
        assert expected in "; ".join(problems)
    assert found(exported, CharterNoted(charter(), 0)) == []
    stray = msgspec.structs.replace(update, sequence=99)
    assert any("never committed" in each for each in found(exported, instead={at_update: stray}))
    swapped = {at_agent: replace_site(exported, at_agent)}
    assert found(exported, instead=swapped) == []  # two agents of one site: still two sites
    assert size == len(exported.entries)


def replace_site(exported: Exported, at: int) -> Entry:
    entry = decode_entry(exported.entries[at])
    assert isinstance(entry, AgentNoted)
    return msgspec.structs.replace(entry, site="site-b")


def test_a_version_of_fewer_sites_than_the_charter_asks_for_is_told(exported: Exported) -> None:
    agents = {
        at: msgspec.structs.replace(entry, site="site-a")
        for at, entry in enumerate(map(decode_entry, exported.entries))
        if isinstance(entry, AgentNoted)
    }
    problems = found(exported, instead=agents)
    assert problems[0] == "version 1 has 1 sites behind it, fewer than the charter's 2"
    assert len(problems) == 8
    listed = CharterNoted(charter(sites=("site-c", "site-z")), 0)
    counted = found(exported, instead={first(exported, CharterNoted)[0]: listed})
    assert counted[0] == "version 1 has 1 sites behind it, fewer than the charter's 2"


# Split views


def compared(exported: Exported, **kept: list[bytes]) -> Comparison:
    collected = [heads_of(agent, heads) for agent, heads in kept.items()]
    checked = check(exported.data, sizes_of(head for _, _, heads in collected for head in heads))
    assert checked.problems == []
    return compare(checked, collected)


def test_heads_that_sites_collected_are_beginnings_of_the_log(exported: Exported) -> None:
    result = compared(exported, press=exported.collected, mill=exported.collected[-3:])
    assert result.findings == []
    assert result.prefixes == len(exported.collected) + 3
    assert "No split view" in in_words(result)


def test_an_export_does_not_decide_about_heads_that_are_newer_than_it(
    tmp_path: Path,
) -> None:
    made = lived(tmp_path / "coordinator.db", rounds=2)
    data = made.export()
    made.round(3)
    result = compared(Exported(data, [], [], []), press=made.heads)
    assert (result.findings, result.newer > 0) == ([], True)
    assert result.newer + result.prefixes == len(made.heads)
    made.store.close()


@pytest.fixture(scope="module")
def fork(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Exported, Exported, int]:
    """Two logs of one coordinator that shows one to press-1 and the other to press-2."""
    folder = tmp_path_factory.mktemp("fork")
    before = lived(folder / "one.db", rounds=2)
    common = len(before.heads)
    before.store.close()
    shutil.copy(folder / "one.db", folder / "two.db")
    logs = []
    for name, seed in (("one", 10), ("two", 20)):
        made = Audited(folder / f"{name}.db")
        with closing(made.store):
            made.heads = list(before.heads)
            for site in made.sites.values():
                site.sequence = 50
            made.round(seed)
            made.round(seed + 1)
            logs.append(Exported(made.export(), [], [], made.heads))
    return logs[0], logs[1], common


def test_each_branch_of_a_fork_holds_by_itself(fork: tuple[Exported, Exported, int]) -> None:
    one, two, _ = fork
    assert check(one.data).problems == check(two.data).problems == []
    assert one.data != two.data


def test_a_split_view_is_seen_by_comparing_the_heads_of_two_agents(
    fork: tuple[Exported, Exported, int],
) -> None:
    one, two, common = fork
    shown = {"press-1": one.collected, "press-2": two.collected}
    for log in (one, two):  # whichever of its two logs the coordinator hands out
        result = compared(log, **shown)
        splits = [finding for finding in result.findings if finding.kind == "split view"]
        assert splits
        pairs = [finding for finding in splits if len(finding.evidence) == 2]
        owners = {head.owner for finding in pairs for head in finding.evidence}
        assert owners == {"press-1 (press-1.heads)", "press-2 (press-2.heads)"}
        words = in_words(result)
        assert "THE COORDINATOR SHOWED DIFFERENT HISTORIES" in words
        assert "press-2 (press-2.heads)" in words
    assert result.prefixes >= 2 * common


def test_one_agents_heads_are_enough_against_the_other_log(
    fork: tuple[Exported, Exported, int],
) -> None:
    one, two, common = fork
    result = compared(one, press=two.collected)
    assert {finding.kind for finding in result.findings} == {"split view"}
    assert result.prefixes == common


def test_a_head_that_the_log_does_not_record_is_a_split_view_though_its_root_fits(
    exported: Exported,
) -> None:
    from wire.codec import open_envelope, parse_body  # noqa: PLC0415
    from wire.messages import Head  # noqa: PLC0415

    head = parse_body(open_envelope(exported.collected[2], "head"), Head)
    twin = seal(
        msgspec.structs.replace(head, training="closed"),
        federation=FEDERATION,
        signer="coordinator",
        counter=head.sequence,
        key=COORDINATOR_KEY,
    )
    result = compared(exported, press=exported.collected[:3], mill=[twin])
    assert [finding.kind for finding in result.findings] == ["split view", "split view"]
    assert "does not record it" in result.findings[0].words
    assert "two different heads have number" in result.findings[1].words


def test_heads_before_a_recovery_that_the_root_signed_are_no_split_view(
    fork: tuple[Exported, Exported, int],
) -> None:
    one, two, common = fork
    checked = check(one.data, sizes_of(two.collected))
    newest = checked.account.charters[-1][1]
    checked.account.charters.append((0, msgspec.structs.replace(newest, recovery=1)))
    result = compare(replace(checked), [heads_of("press-2", two.collected)])
    assert {finding.kind for finding in result.findings} == {"recovery"}
    assert len(result.findings) == len(two.collected) - common


def test_heads_under_an_earlier_coordinator_key_still_count_after_a_new_charter(
    tmp_path: Path,
) -> None:
    made = lived(tmp_path / "coordinator.db", rounds=2)
    old, key = identity(2), PrivateKey(bytes([9] * 32))
    envelope = charter(coordinator_key=key.public.raw, recovery=1)
    renewed = replace(old, trust=read_charter(envelope, ROOT_KEY.public), key=key)
    made.federation = Federation(made.store, settings(TOML), renewed, made.now_s)
    made.keep_head()
    for site in made.sites.values():
        site.sequence += 50
    made.round(3, lineage=made.federation.head.lineage)
    stream = io.BytesIO()
    with closing(open_database(made.path, "", durable=True)) as database:
        write_log(database, stream, renewed, ROOT_KEY.public.raw)
    exported = Exported(stream.getvalue(), [], [], made.heads)
    result = compared(exported, press=made.heads)
    assert result.findings == []
    assert result.prefixes == len(made.heads)
    words = summary(check(exported.data), is_pinned=True)
    assert "epoch 2" in words
    assert "recovery 1" in words
    made.store.close()


def test_heads_that_the_coordinator_did_not_sign_count_for_nothing(exported: Exported) -> None:
    forged = bytearray(exported.collected[-1])
    forged[-1] ^= 1
    result = compared(exported, press=[bytes(forged)])
    assert [finding.kind for finding in result.findings] == ["not signed"]
    assert result.prefixes == 0


def test_the_signature_of_the_file_is_checked_under_the_newest_charters_key(
    exported: Exported,
) -> None:
    reader = LogReader(io.BytesIO(exported.data))
    assert list(reader.entries()) == exported.entries
    assert list(reader.heads()) == exported.heads
    end = reader.end()
    tree = check(exported.data).tree
    end.verify(FEDERATION, tree, COORDINATOR_KEY.public)
    for wrong in (AUTHOR_KEY, ENROLMENT_KEY):
        with pytest.raises(SignatureError):
            end.verify(FEDERATION, tree, wrong.public)
    assert exported.data.startswith(LOG_LINE)
