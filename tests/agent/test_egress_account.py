"""The account survives restarts, kills, and disks that fail, and is printed in words."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.egress import FILE_NAME, Account, Egress, Line, read_account
from agent.egress.categories import CATEGORIES
from agent.main import main
from agent.status_words import egress_in_words, in_bytes
from shopfloor.faults.shim import Control, ShimError, build, environment
from tests.agent.federation import Federation, agent_toml

BROKER = "broker 10.0.0.1:8883"


def sums(account: Account | None) -> dict[str, tuple[int, int]]:
    assert account is not None
    return {line.category: (line.messages, line.bytes) for line in account.lines}


def test_it_grows_over_restarts_and_knows_who_did_not_end_in_peace(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    for turn in (1, 2):
        egress = Egress(path)
        egress.start()
        egress.count(BROKER, "update: header", 1, 400)
        egress.close()
        assert sums(read_account(path)) == {"update: header": (turn, 400 * turn)}
    found = read_account(path)
    assert found is not None
    assert found.cuts == 0
    with sqlite3.connect(path) as database:  # as a process leaves it that was killed
        database.execute("UPDATE account SET is_open = 1")
    egress = Egress(path)
    egress.start()
    egress.close()
    again = read_account(path)
    assert again is not None
    assert (again.cuts, again.since, again.lines) == (1, found.since, found.lines)


def test_what_was_never_counted_is_no_account(tmp_path: Path) -> None:
    assert read_account(tmp_path / FILE_NAME) is None
    (tmp_path / FILE_NAME).write_bytes(b"")
    assert read_account(tmp_path / FILE_NAME) is None


def test_an_unnamed_category_is_unknown_and_threads_lose_nothing(tmp_path: Path) -> None:
    egress = Egress(tmp_path / FILE_NAME)
    egress.start()

    def count() -> None:
        for _ in range(2000):
            egress.count(BROKER, "rows of the press", 1, 3)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    egress.close()
    assert sums(egress.account()) == {"unknown": (8000, 24_000)}
    assert sums(read_account(tmp_path / FILE_NAME)) == {"unknown": (8000, 24_000)}


def test_a_damaged_file_is_set_aside_and_its_lines_go_on(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    egress = Egress(path)
    egress.start()
    for at, category in enumerate(CATEGORIES):
        egress.count(BROKER, category, 1, 100 + at)
    egress.close()
    before = read_account(path)
    assert before is not None
    data = bytearray(path.read_bytes())
    # The root page of the table of contents stays; the account's own page is rotten.
    with sqlite3.connect(path) as database:
        (root,) = database.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'account'"
        ).fetchone()
        size = database.execute("PRAGMA page_size").fetchone()[0]
    data[(root - 1) * size : root * size] = os.urandom(size)
    path.write_bytes(data)
    egress = Egress(path)
    egress.start()
    egress.count(BROKER, "readiness", 1, 7)
    egress.close()
    after = read_account(path)
    assert after is not None
    expected = sums(before)
    messages, count = expected["readiness"]
    assert sums(after) == expected | {"readiness": (messages + 1, count + 7)}
    assert after.since <= before.lines[0].first
    assert [*tmp_path.glob(f"{FILE_NAME}.damaged-1")]


FAILING = """
import sys, time
from pathlib import Path
import agent.egress.account
import agent.storage
from agent.egress import Egress
from shopfloor.faults.shim import Control

agent.egress.account.FLUSH_S = agent.egress.account._IDLE_S = agent.storage._REOPEN_S = 0.02
path, control, error = Path(sys.argv[1]), Control(Path(sys.argv[2])), int(sys.argv[3])

def until(holds):
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, egress.problem
        time.sleep(0.005)

egress = Egress(path)
if sys.argv[4] == "from the start":
    control.fail(error)
egress.start()
egress.count("b", "readiness", 1, 10)
control.fail(error)
for turn in range(3):
    egress.count("b", "readiness", 1, 10)
    until(lambda: egress.problem)
    egress.count("b", "readiness", 1, 10)
    control.heal()
    until(lambda: not egress.problem)
    control.fail(error)
control.heal()
egress.close()
print(egress.account().lines[0].bytes)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return build(tmp_path_factory.mktemp("shim"))
    except ShimError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("when", ["from the start", "later"])
@pytest.mark.parametrize("number", [5, 28, 30])
def test_a_disk_that_fails_costs_nothing_that_was_counted(
    number: int, when: str, shim: Path, tmp_path: Path, repository: Path
) -> None:
    state, control = tmp_path / "state", Control.create(tmp_path / "control")
    state.mkdir()
    words = [str(state / FILE_NAME), str(control.path), str(number), when]
    ended = subprocess.run(
        [sys.executable, "-c", FAILING, *words],
        cwd=repository,
        env=os.environ | environment(shim, control, state),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "70\n"), ended.stderr
    assert sums(read_account(state / FILE_NAME)) == {"readiness": (7, 70)}


KILLED = """
import sys, time
from pathlib import Path
import agent.egress.account
from agent.egress import Egress

agent.egress.account.FLUSH_S = 0.01
egress = Egress(Path(sys.argv[1]))
egress.start()
while True:
    egress.count("b", "readiness", 1, 10)
    time.sleep(0.001)
"""


def test_a_kill_costs_the_last_moments_and_is_counted(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / FILE_NAME
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], cwd=repository) as process:
        known = read_account(path)
        while known is None or not known.lines or known.lines[0].messages < 20:
            assert process.poll() is None
            time.sleep(0.01)
            known = read_account(path)
        process.send_signal(signal.SIGKILL)
    egress = Egress(path)
    egress.start()
    egress.close()
    found = read_account(path)
    assert found is not None
    assert found.cuts == 1
    assert found.lines[0].messages >= known.lines[0].messages
    assert found.lines[0].bytes == 10 * found.lines[0].messages


@pytest.fixture
def config(tmp_path: Path, federation: Federation) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(agent_toml(federation))
    return path


def test_the_command_shows_it_by_destination_and_explains_it(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["egress", str(config)]) == 1
    assert "has not run" in capsys.readouterr().err
    state = config.parent / "state"
    state.mkdir()
    egress = Egress(state / FILE_NAME)
    egress.start()
    egress.count(BROKER, "protocol", 3, 99)
    egress.count(BROKER, "update: content", 2, 12_000)
    egress.count("HTTP client 10.0.0.9", "health and figures", 1, 900)
    egress.close()
    assert main(["egress", "--explain", str(config)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == BROKER
    assert said[2].split()[:5] == ["update:", "content", "2", "12000", "12.0"]
    assert said[3].split()[:3] == ["protocol", "3", "99"]
    assert "all: 12999 bytes (13.0 kB) since" in "\n".join(said)
    assert all(
        each.name in said and f"  holds: {each.holds}" in said for each in CATEGORIES.values()
    )
    assert main(["egress", "--json", str(config)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["bytes"], told["processes_cut_short"], len(told["lines"])) == (12_999, 0, 3)
    assert told["lines"][1]["holds"] == CATEGORIES["update: content"].holds


def test_a_file_that_is_no_account_is_said_in_a_sentence(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.parent / "state").mkdir()
    (config.parent / "state" / FILE_NAME).write_bytes(b"nonsense" * 1000)
    assert main(["egress", str(config)]) == 2
    assert "not a database" in capsys.readouterr().err


def test_the_status_says_it_in_a_line() -> None:
    assert egress_in_words(Account(since=0.0, cuts=0)) == "nothing"
    lines = tuple(Line(f"broker {at}", "readiness", 1, 600, 0.0, 0.0) for at in range(5))
    said = egress_in_words(Account(since=86_400.0, cuts=0, lines=lines))
    assert said == "3.0 kB since 1970-01-02, to broker 0, broker 1, broker 2 and 2 more"
    sizes = (0, 999, 1000, 999_949, 5_000_000, 10**10, 10**13)
    shown = ["0 B", "999 B", "1.0 kB", "999.9 kB", "5.0 MB", "10.0 GB", "10.0 TB"]
    assert [in_bytes(size) for size in sizes] == shown
