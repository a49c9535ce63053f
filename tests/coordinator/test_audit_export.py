"""From a coordinator's file to the words of `journeyman audit`, as people type it."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.config import read_coordinator_settings, read_identity
from coordinator.federation import Federation
from coordinator.main import main as coordinator_main
from coordinator.store import Store
from shopfloor.main import main
from tests.coordinator.conftest import Plant
from tests.coordinator.small_federation import FEDERATION, Site, enrol
from wire.audit_file import HeadsOpening, write_heads
from wire.merkle import check_consistency, check_inclusion, leaf_hash


class Lived:
    """A coordinator's folder after some versions, and its heads as an agent kept them."""

    def __init__(self, plant: Plant) -> None:
        plant.configure("[strategy]\ngoal = 1\n", chunk_bytes=120_000)
        self.plant, self.database = plant, plant.directory / "state" / "coordinator.db"
        self.database.parent.mkdir()
        settings = read_coordinator_settings(plant.config)
        self.heads, site = [], Site()
        with closing(Store(self.database)) as store:
            identity = read_identity(plant.config, settings)
            federation = Federation(store, settings, identity, 0.0)
            enrol(store, "press-1", "site-a")
            for second in range(4):
                self.heads.append(federation.head_envelope)
                federation.commit([site.update(federation.head.train)], float(second))
            self.size = store.audit.tree.size

    def export(self, name: str = "log.jm") -> Path:
        out = self.plant.directory / name
        assert coordinator_main(["audit", "export", str(self.plant.config), "--out", str(out)]) == 0
        return out

    def keep(self, agent: str, heads: list[bytes]) -> Path:
        path = self.plant.directory / f"{agent}.heads"
        with path.open("wb") as stream:
            write_heads(stream, HeadsOpening(FEDERATION, agent, len(heads)), heads)
        return path


@pytest.fixture
def lived(plant: Plant) -> Lived:
    return Lived(plant)


def test_what_is_exported_is_verified_under_the_pinned_root_and_under_no_other(
    lived: Lived, capsys: pytest.CaptureFixture[str]
) -> None:
    out = lived.export()
    assert f"{lived.size:,} entries, root " in capsys.readouterr().out
    assert main(["audit", "verify", str(out), "--root", lived.plant.root.raw.hex()]) == 0
    assert "THE LOG HOLDS" in capsys.readouterr().out
    assert main(["audit", "verify", str(out), "--root", "ab" * 32]) == 1
    assert "the file is of another root" in capsys.readouterr().out
    assert main(["audit", "verify", str(out), "--root", "ab"]) == 2
    assert "64 hexadecimal digits" in capsys.readouterr().err


def test_a_file_that_is_cut_off_is_told_as_not_holding(
    lived: Lived, capsys: pytest.CaptureFixture[str]
) -> None:
    out = lived.export()
    out.write_bytes(out.read_bytes()[:-1])
    assert main(["audit", "verify", str(out)]) == 1
    assert "the file ends in the signature: it is cut off" in capsys.readouterr().out
    assert main(["audit", "verify", str(out.parent / "none")]) == 2
    assert "can not read it" in capsys.readouterr().err


def test_heads_of_an_agent_are_compared_from_its_file(
    lived: Lived, capsys: pytest.CaptureFixture[str]
) -> None:
    out, heads = lived.export(), lived.keep("press-1", lived.heads)
    capsys.readouterr()
    assert main(["audit", "compare", str(out), str(heads)]) == 0
    said = capsys.readouterr().out
    assert f"{len(lived.heads)} heads are beginnings of this log" in said
    assert "No split view" in said
    assert main(["audit", "compare", str(out), str(out)]) == 2
    assert "not a file of heads" in capsys.readouterr().err


def test_proofs_are_printed_that_verify_by_the_standard_alone(
    lived: Lived, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(lived.export())
    capsys.readouterr()
    assert main(["audit", "prove", out, "--agent", "press-1"]) == 0
    proofs = json.loads(capsys.readouterr().out)
    kinds = [proof["says"]["kind"] for proof in proofs]
    assert kinds == ["agent.1", *["update.1", "settled.1"] * 4]
    for proof in proofs:
        path = [bytes.fromhex(node) for node in proof["path"]]
        leaf = leaf_hash(bytes.fromhex(proof["bytes"]))
        check_inclusion(leaf, proof["entry"], proof["size"], path, bytes.fromhex(proof["root"]))
    assert main(["audit", "prove", out, "--entry", "0"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["says"]["kind"] == "charter.1"
    assert main(["audit", "prove", out, "--since", "5"]) == 0
    shown = json.loads(capsys.readouterr().out)
    roots = (bytes.fromhex(shown[name]) for name in ("earlier_root", "root"))
    old, new = roots
    path = [bytes.fromhex(node) for node in shown["path"]]
    check_consistency(5, old, shown["size"], new, path)
    for wrong in (["--entry", "9999"], ["--agent", "ghost"], ["--since", "9999"]):
        assert main(["audit", "prove", out, *wrong]) == 2
        assert f"the log of {lived.size:,} entries has no" in capsys.readouterr().err


def test_an_export_beside_a_coordinator_that_writes_is_the_log_as_of_its_last_decision(
    lived: Lived, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(Store(lived.database)) as store, store.transaction():
        store.audit.note_decision(4, 0, "kept back", "under way")
        store.audit.write()
        out = lived.export()
    assert f"{lived.size:,} entries, root " in capsys.readouterr().out
    assert main(["audit", "verify", str(out), "--root", lived.plant.root.raw.hex()]) == 0
    assert "under way" not in capsys.readouterr().out


def test_a_log_that_was_tampered_with_on_the_disk_is_not_exported(
    lived: Lived, capsys: pytest.CaptureFixture[str]
) -> None:
    out = lived.export()
    before = out.read_bytes()
    for statement, reason in (
        ("UPDATE audit SET entry = x'91a0' WHERE number = 4", "do not lead to its root"),
        ("DELETE FROM audit WHERE number = 4", "entry 4 is missing"),
    ):
        with closing(sqlite3.connect(lived.database)) as database, database:
            database.execute("DROP TRIGGER IF EXISTS audit_keeps_words")
            database.execute("DROP TRIGGER IF EXISTS audit_keeps_entries")
            database.execute(statement)
        words = ["audit", "export", str(lived.plant.config), "--out", str(out)]
        assert coordinator_main(words) == 2
        assert reason in capsys.readouterr().err
        assert out.read_bytes() == before
        assert [path for path in out.parent.iterdir() if path.name.startswith(".log")] == []


def test_a_coordinator_that_never_ran_has_nothing_to_export(
    plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    out = plant.directory / "log.jm"
    assert coordinator_main(["audit", "export", str(plant.config), "--out", str(out)]) == 2
    assert "no state in" in capsys.readouterr().err
