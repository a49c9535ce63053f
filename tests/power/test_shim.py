"""The fault shim does what it says to a real process, and to nothing else."""

import errno
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shopfloor.faults.log import Kind, read_log
from shopfloor.faults.shim import Control, ShimError, build, environment
from tests.power.replay import Recording, assert_the_log_is_complete

HOUR_S = 3600


def python(program: str, variables: dict[str, str], directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **variables},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CLOCKS = """
import time, datetime, sqlite3
print(time.time(), time.clock_gettime(time.CLOCK_REALTIME), datetime.datetime.now().timestamp(),
      sqlite3.connect(":memory:").execute("SELECT unixepoch()").fetchone()[0], time.monotonic())
"""


@pytest.mark.parametrize("offset_s", [HOUR_S, -HOUR_S, 0.25, -86400.75])
def test_every_wall_clock_jumps_and_the_monotonic_clock_does_not(
    shim: Path, tmp_path: Path, offset_s: float
) -> None:
    with Control.create(tmp_path / "control") as control:
        control.jump(offset_s)
        before, monotonic = time.time(), time.monotonic()
        shown = python(CLOCKS, environment(shim, control, tmp_path), tmp_path)
        after, monotonic_after = time.time(), time.monotonic()
    *wall, steady = map(float, shown.split())
    for clock in wall:
        assert before + offset_s - 1 <= clock <= after + offset_s  # unixepoch() cuts to seconds
    assert monotonic <= steady <= monotonic_after


WAITS = """
import sys, time
print(time.time(), flush=True)
sys.stdin.readline()
print(time.time(), flush=True)
"""


def test_the_clock_of_a_running_process_jumps(shim: Path, tmp_path: Path) -> None:
    with Control.create(tmp_path / "control") as control:
        variables = {**os.environ, **environment(shim, control, tmp_path)}
        with subprocess.Popen(
            [sys.executable, "-c", WAITS],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            first = float(process.stdout.readline())
            control.jump(-HOUR_S)
            second = float(process.communicate("\n", timeout=60)[0])
    assert second < first - HOUR_S / 2


FAILING = """
import os, pathlib, sys
here = pathlib.Path("state")

def attempt(what):
    try:
        what()
    except OSError as error:
        return error.errno
    return 0

old = os.open(here / "old", os.O_RDWR)
print("ready", flush=True)
sys.stdin.readline()
print(
    attempt(lambda: os.write(old, b"x")),
    attempt(lambda: os.pwrite(old, b"x", 9)),
    attempt(lambda: os.writev(old, [b"x", b"y"])),
    attempt(lambda: os.ftruncate(old, 100)),
    attempt(lambda: os.fsync(old)),
    attempt(lambda: (here / "new").write_bytes(b"")),
    attempt(lambda: (here / "old").rename(here / "other")),
    attempt(lambda: (here / "folder").mkdir()),
    attempt(lambda: os.close(os.open(here / "old", os.O_RDWR))),
    attempt(lambda: os.ftruncate(old, 1)),
    attempt(lambda: (here / "old").unlink()),
    attempt(lambda: pathlib.Path("outside").write_bytes(b"fine")),
)
"""


@pytest.mark.parametrize(
    ("error", "opening", "deleting"),
    [(errno.ENOSPC, 0, 0), (errno.EROFS, errno.EROFS, errno.EROFS), (errno.EIO, 0, errno.EIO)],
)
def test_a_bad_disk_fails_what_such_a_disk_fails(
    shim: Path, tmp_path: Path, error: int, opening: int, deleting: int
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "old").write_bytes(b"old bytes")
    with Control.create(tmp_path / "control") as control:
        with subprocess.Popen(
            [sys.executable, "-c", FAILING],
            env={**os.environ, **environment(shim, control, state)},
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            control.fail(error)
            answers = process.communicate("\n", timeout=60)[0]
        failed = control.failed
    got = [int(answer) for answer in answers.split()]
    assert got == [error] * 8 + [opening, deleting, deleting, 0]
    assert failed == len([answer for answer in got if answer])
    assert (tmp_path / "outside").read_bytes() == b"fine"


FULL_DATABASE = """
import sqlite3, sys
db = sqlite3.connect("state/a.db", isolation_level=None)
db.execute("PRAGMA journal_mode=WAL")
db.execute("CREATE TABLE t (a)")
for expected in ("none", "full", "none"):
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        db.execute("INSERT INTO t VALUES (1)")
        print("none", flush=True)
    except sqlite3.OperationalError as error:
        print(error, flush=True)
print(db.execute("SELECT count(*) FROM t").fetchone()[0], flush=True)
"""


def test_sqlite_meets_the_full_disk_and_goes_on_when_there_is_room(
    shim: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with (
        Control.create(tmp_path / "control") as control,
        subprocess.Popen(
            [sys.executable, "-c", FULL_DATABASE],
            env={**os.environ, **environment(shim, control, state)},
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        answers = []
        for change in (control.heal, lambda: control.fail(errno.ENOSPC), control.heal):
            assert process.stdout.readline() == "ready\n"
            change()
            process.stdin.write("\n")
            process.stdin.flush()
            answers.append(process.stdout.readline().strip())
        rows = process.stdout.readline().strip()
    assert answers == ["none", "database or disk is full", "none"]
    assert rows == "2"
    with sqlite3.connect(state / "a.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_settings_that_cannot_be_used_end_the_process(shim: Path, tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"1234")
    variables = {"LD_PRELOAD": str(shim), "JM_FAULTS": str(tmp_path / "short")}
    done = subprocess.run(
        [sys.executable, "-c", "print('ran')"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "shorter than 64 bytes" in done.stderr
    assert done.stdout == ""


def test_no_errno_is_refused_instead_of_healing(tmp_path: Path) -> None:
    with Control.create(tmp_path / "control") as control, pytest.raises(ValueError, match="heal"):
        control.fail(0)


def test_without_a_compiler_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ShimError, match="apt install gcc"):
        build(tmp_path)


BUSY = """
import os, sys, threading

def work(number):
    path = f"state/{sys.argv[1]}-{number}"
    for turn in range(30):
        shared = os.open("state/shared", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(shared, b"%d" % number * number)
        os.close(shared)
        with open(path, "wb") as file:
            file.write(b"x" * 100 * turn)
            file.flush()
            os.pwritev(file.fileno(), [b"ab", b"cd"], 7)
            os.posix_fallocate(file.fileno(), 0, 4000)
            os.ftruncate(file.fileno(), 3000 + turn)
            os.fsync(file.fileno())
        os.rename(path, path + "!")
        if turn % 3 == 0:
            os.unlink(path + "!")

threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_the_log_of_threads_and_processes_explains_every_byte(shim: Path, tmp_path: Path) -> None:
    state, log = tmp_path / "state", tmp_path / "log"
    state.mkdir()
    variables = {**os.environ, **environment(shim, None, state, log)}
    processes = [
        subprocess.Popen([sys.executable, "-c", BUSY, name], env=variables, cwd=tmp_path)
        for name in ("one", "two")
    ]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    operations = read_log(log)
    assert len({operation.pid for operation in operations}) == 2
    recording = Recording(operations, state, {})
    assert_the_log_is_complete(recording)
    assert len(recording.replayed()["shared"]) == 2 * 30 * (1 + 2 + 3)


def test_a_log_whose_last_record_was_cut_is_read_up_to_there(shim: Path, tmp_path: Path) -> None:
    state, log = tmp_path / "state", tmp_path / "log"
    state.mkdir()
    program = "import pathlib; pathlib.Path('state/a').write_bytes(b'abc')"
    python(program, environment(shim, None, state, log), tmp_path)
    whole = read_log(log)
    assert [operation.kind for operation in whole] == [Kind.CREATE, Kind.WRITE]
    for cut in range(1, 56):
        log.write_bytes(log.read_bytes()[:-1])
        assert read_log(log) == whole[:1], cut
