"""The status file, which people and the tests of the whole agent read."""

from pathlib import Path

import pytest

from agent.status import FILE_NAME, Status, read_status, write_status
from wire.errors import SettingsError


def status() -> Status:
    return Status(agent="gw", site="L", federation="plant-net", pid=7, outcomes={"folded": 3})


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    write_status(tmp_path, status())
    assert read_status(tmp_path) == status()


def test_the_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_status(tmp_path, status())
    with (tmp_path / FILE_NAME).open() as reader:
        write_status(tmp_path, Status(agent="other", site="L", federation="f", pid=8))
        assert '"gw"' in reader.read()
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_before_the_first_run_there_is_no_status(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None


@pytest.mark.parametrize("text", ['{"agent": 1}', "{}"])
def test_the_status_of_another_version_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(SettingsError, match=r"status\.json: not the status"):
        read_status(tmp_path)


@pytest.mark.parametrize("left", [b"", b"{", bytes(200), b'{"agent": "\xff\xfe"}', b"  12"])
def test_what_a_power_cut_left_of_a_status_is_none(tmp_path: Path, left: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(left)
    assert read_status(tmp_path) is None
