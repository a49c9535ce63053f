"""The ring of accepted heads, and the file that holds them against an audit log."""

import argparse
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.heads import HEADS_SCHEMA, KEPT, KEPT_BYTES, keep_head, kept_heads
from agent.models import Models
from agent.trust_command import add_trust
from tests.agent.federation import Federation, agent_toml
from wire.audit_file import read_heads
from wire.errors import SettingsError, WireError
from wire.messages import Content, Head, Policy, VersionRef


def head(sequence: int) -> Head:
    content = Content(digest=bytes(32), size=1, chunk_bytes=256, chunks=(bytes(32),))
    version = VersionRef(version=0, content=content)
    return Head(
        sequence=sequence,
        lineage=0,
        bundle=content,
        train=version,
        serve=version,
        policy=Policy(),
    )


def test_the_newest_heads_are_kept_as_they_came_and_survive_a_restart(tmp_path: Path) -> None:
    models = Models(tmp_path / "models.db")
    envelopes = [b"signed %d" % number for number in range(KEPT + 9)]
    for number, envelope in enumerate(envelopes, start=1):
        models.accept_head(envelope, head(number), None)
        models.accept_head(envelope, head(number), None)  # as after a disk that failed
    assert kept_heads(tmp_path / "models.db") == envelopes[-KEPT:]
    models.close()
    again = Models(tmp_path / "models.db")
    assert kept_heads(tmp_path / "models.db") == envelopes[-KEPT:]
    again.close()


def test_large_heads_are_fewer_and_the_newest_is_always_there() -> None:
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(HEADS_SCHEMA)
        for number in range(9):
            keep_head(database, bytes([number]) * (KEPT_BYTES // 3))
        query = "SELECT substr(envelope, 1, 1) FROM heads ORDER BY number"
        assert [row[0][0] for row in database.execute(query)] == [6, 7, 8]
        keep_head(database, b"x" * (KEPT_BYTES + 1))
        assert [row[0] for row in database.execute(query)] == [b"x"]


def test_a_gateway_without_heads_has_none_and_a_broken_file_is_told(tmp_path: Path) -> None:
    assert kept_heads(tmp_path / "models.db") == []
    (tmp_path / "models.db").write_bytes(b"\xff" * 5000)
    with pytest.raises(SettingsError, match="can not read the heads"):
        kept_heads(tmp_path / "models.db")


def test_the_command_writes_what_the_agent_accepted_beside_the_running_agent(
    federation: Federation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "agent.toml", tmp_path / "press-1.heads"
    config.write_text(agent_toml(federation))
    (tmp_path / "state").mkdir()
    models = Models(tmp_path / "state" / "models.db")
    models.accept_head(b"one", head(1), None)
    models.accept_head(b"two", head(2), None)
    parser = argparse.ArgumentParser()
    add_trust(parser.add_subparsers())
    options = parser.parse_args(["trust", "heads", str(config), "--out", str(out)])
    assert options.command(options) == 0
    assert "2 heads that" in capsys.readouterr().out
    with out.open("rb") as stream:
        opening, envelopes = read_heads(stream)
    assert envelopes == [b"one", b"two"]
    assert opening.agent in out.read_bytes().decode(errors="replace")
    out.write_bytes(out.read_bytes()[:-1])
    with out.open("rb") as stream, pytest.raises(WireError, match="cut off"):
        read_heads(stream)
    models.close()
