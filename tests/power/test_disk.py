"""The models of a power cut allow what they say, and nothing else."""

import random
from pathlib import Path

import pytest

from shopfloor.faults.log import Kind, LogError, Operation, read_log
from tests.power.disk import Disk

OLD, NEW = b"o" * 2048, b"n" * 2048


def operation(
    kind: Kind,
    name: str = "a",
    file: int = 1,
    *,
    data: bytes = b"",
    offset: int = 0,
    other: str = "",
    length: int | None = None,
) -> Operation:
    return Operation(
        kind, 1, name, other, file, offset, len(data) if length is None else length, data
    )


def disk_after(*operations: Operation) -> Disk:
    disk = Disk(frozenset(), {"a": (1, OLD)})
    for done in operations:
        disk.apply(done)
    return disk


def scattered(disk: Disk, sector: int, going_on: Operation | None = None) -> list[dict[str, bytes]]:
    return [disk.scattered(random.Random(seed), sector, going_on) for seed in range(200)]


def test_what_was_synced_is_there_under_every_model() -> None:
    disk = disk_after(operation(Kind.WRITE, data=NEW), operation(Kind.SYNC))
    trees = [disk.everything(), disk.synced(names=False), *scattered(disk, 512)]
    assert all(tree == {"a": NEW} for tree in trees)


def test_of_what_was_not_synced_every_sector_is_old_or_new_and_every_mixture_occurs() -> None:
    disk = disk_after(operation(Kind.WRITE, data=NEW))
    assert disk.everything() == {"a": NEW}
    assert disk.synced(names=True) == {"a": OLD}
    found = {tree["a"] for tree in scattered(disk, 512)}
    sectors = {bytes(content[at : at + 512]) for content in found for at in range(0, 2048, 512)}
    assert sectors == {OLD[:512], NEW[:512]}
    assert len(found) == 2**4


def test_a_file_that_grew_without_its_data_may_hold_zeros_garbage_or_its_old_size() -> None:
    disk = disk_after(operation(Kind.WRITE, data=NEW, offset=2048))
    found = {tree["a"] for tree in scattered(disk, 4096)}
    assert OLD in found
    assert OLD + NEW in found
    assert OLD + bytes(2048) in found
    assert len(found) > 4


def test_the_write_that_was_going_on_is_torn_anywhere() -> None:
    disk = disk_after()
    found = {
        tree["a"].count(b"n") for tree in scattered(disk, 4096, operation(Kind.WRITE, data=NEW))
    }
    assert {0} < found
    assert any(torn % 512 for torn in found)
    assert disk.everything() == {"a": OLD}


def test_a_file_that_was_cut_and_not_synced_is_whole_or_cut() -> None:
    disk = disk_after(operation(Kind.TRUNCATE, length=512))
    assert disk.everything() == {"a": OLD[:512]}
    for tree in scattered(disk, 512):
        assert tree["a"][:512] == OLD[:512]
        assert len(tree["a"]) in {512, 2048}


def test_a_name_that_the_directory_did_not_sync_is_there_or_not() -> None:
    disk = disk_after(
        operation(Kind.CREATE, "b", 2),
        operation(Kind.WRITE, "b", 2, data=NEW),
        operation(Kind.SYNC, "b", 2),
        operation(Kind.RENAME, "b", other="a"),
    )
    assert disk.everything() == {"a": NEW}
    assert disk.synced(names=True) == {"a": NEW}
    assert disk.synced(names=False) == {"a": OLD}
    found = {tuple(sorted(tree.items())) for tree in scattered(disk, 512)}
    assert found == {
        (("a", OLD),),
        (("a", OLD), ("b", NEW)),
        (("a", NEW),),
    }
    disk.apply(operation(Kind.SYNC_DIRECTORY, ""))
    assert disk.synced(names=False) == {"a": NEW}


def test_an_inode_that_was_used_again_is_another_file() -> None:
    disk = disk_after(operation(Kind.UNLINK), operation(Kind.CREATE))
    assert disk.everything() == {"a": b""}
    assert disk.synced(names=False) == {"a": OLD}


def test_what_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="MKDIR"):
        disk_after(operation(Kind.MKDIR, "folder"))


def test_bytes_that_are_no_log_are_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(bytes(100))
    with pytest.raises(LogError, match="byte 0"):
        read_log(tmp_path / "log")
