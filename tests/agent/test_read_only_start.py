"""A file whose program starts while the disk is read-only, after a crash, and the disk heals."""

import subprocess
import sys
from pathlib import Path

import pytest

from shopfloor.faults.shim import Control, ShimError, build, environment

WORK = """
import errno, os, sys, time
from pathlib import Path
import agent.storage
from agent.storage import DurableFile
from shopfloor.faults.shim import Control
from wire.database import DiskError

agent.storage._REOPEN_S = 0.2
control = Control(Path(sys.argv[1]))
if sys.argv[3] == "recover":
    control.fail(errno.EROFS)
file = DurableFile(
    Path(sys.argv[2]) / "a.db",
    lambda database: database.execute("CREATE TABLE IF NOT EXISTS t (x)"),
    durable=True,
)

def write():
    try:
        file.write(lambda database: database.execute("INSERT INTO t VALUES (1)"))
    except DiskError:
        return False
    return True

if sys.argv[3] == "crash":
    assert write()
    os._exit(9)
assert not write()
rows = file.read(lambda database: database.execute("SELECT x FROM t").fetchall(), [])
assert rows == [(1,)]
time.sleep(0.5)
assert not write()
control.heal()
while not write():
    time.sleep(0.05)
assert file.problem == ""
"""


@pytest.mark.timeout(60)
def test_it_is_written_again_when_the_disk_heals(tmp_path: Path, repository: Path) -> None:
    try:
        shim = build(tmp_path)
    except ShimError as error:
        pytest.skip(str(error))
    directory = tmp_path / "disk"
    directory.mkdir()
    with Control.create(tmp_path / "control") as control:
        surroundings = environment(shim, control, directory)
        for part, ended in (("crash", 9), ("recover", 0)):
            command = [sys.executable, "-c", WORK, str(tmp_path / "control"), str(directory), part]
            done = subprocess.run(
                command,
                cwd=repository,
                env={"PATH": "/usr/bin:/bin", **surroundings},
                timeout=50,
                check=False,
            )
            assert done.returncode == ended
