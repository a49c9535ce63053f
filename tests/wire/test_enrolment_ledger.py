"""The authority's ledger: a token is used once, whatever is sent and whatever dies."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wire.certificates import CA_CERTIFICATE, CA_KEY, make_authority
from wire.enrolment import Enroller, EnrolmentError, Token, make_request, new_token, read_answer
from wire.enrolment_ledger import FILE_NAME, Ledger, open_ledger
from wire.errors import SettingsError, SignatureError
from wire.issuing import new_key
from wire.keys import make_federation, read_enroller
from wire.signing import PrivateKey

NOW = datetime.now(UTC)
LATER = NOW + timedelta(hours=1)
END = NOW + timedelta(hours=72)
KEY, TLS_KEY = PrivateKey.generate(), new_key()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An authority's directory: the federation's keys and its CA."""
    directory = tmp_path / "authority"
    make_federation(directory, "plant-net")
    make_authority(directory, "plant-net")
    return directory


@pytest.fixture
def enroller(directory: Path) -> Enroller:
    """What the authority signs with."""
    return read_enroller(directory)


@pytest.fixture
def ledger(directory: Path) -> Iterator[Ledger]:
    """An open ledger."""
    with open_ledger(directory) as ledger:
        yield ledger


def added(ledger: Ledger, enroller: Enroller, agent: str = "gateway-1", least: int = 1) -> Token:
    token = new_token(enroller, agent, "plant-a", int(END.timestamp()))
    ledger.add(token, NOW, least_serial=least)
    return token


def serial(answer: bytes, token: Token) -> int:
    return read_answer(answer, token, KEY.public, TLS_KEY.public_key(), NOW).own.serial


def test_a_token_is_used_by_one_request_which_gets_the_same_answer_as_often_as_it_asks(
    ledger: Ledger, enroller: Enroller
) -> None:
    token = added(ledger, enroller)
    request = make_request(token, KEY, TLS_KEY)
    answer = ledger.grant(request, enroller, LATER, days=30)
    assert serial(answer, token) == 1
    after_its_end = END + timedelta(days=9)
    for when in (NOW, LATER, after_its_end):
        assert ledger.grant(request, enroller, when, days=99) == answer
    # The same gateway, the same keys, but other bytes (ECDSA is randomized): another request.
    for other in (make_request(token, KEY, TLS_KEY), make_request(token, KEY, new_key())):
        with pytest.raises(EnrolmentError, match="was used by another request"):
            ledger.grant(other, enroller, LATER, days=30)
    assert ledger.grant(request, enroller, LATER, days=30) == answer


def test_a_refused_request_does_not_use_the_token_up(ledger: Ledger, enroller: Enroller) -> None:
    token = added(ledger, enroller)
    request = make_request(token, KEY, TLS_KEY)
    altered = bytearray(request)
    altered[-1] ^= 1
    with pytest.raises(SignatureError):
        ledger.grant(bytes(altered), enroller, LATER, days=30)
    assert [entry.state for entry in ledger.entries(LATER)] == ["open"]
    assert serial(ledger.grant(request, enroller, LATER, days=30), token) == 1


def test_an_ended_token_is_refused_from_its_last_second_on(
    ledger: Ledger, enroller: Enroller
) -> None:
    token = added(ledger, enroller)
    request = make_request(token, KEY, TLS_KEY)
    with pytest.raises(EnrolmentError, match=r"gateway-1 ended at .* make a new one"):
        ledger.grant(request, enroller, END, days=30)
    assert ledger.entries(END)[0].state == "ended"
    ledger.grant(request, enroller, END - timedelta(seconds=1), days=30)


def test_a_revoked_token_is_refused_whether_it_was_used_or_not(
    ledger: Ledger, enroller: Enroller
) -> None:
    used, unused = added(ledger, enroller), added(ledger, enroller)
    request = make_request(used, KEY, TLS_KEY)
    ledger.grant(request, enroller, NOW, days=30)
    other = added(ledger, enroller, "gateway-2")
    assert [entry.state for entry in ledger.revoke("gateway-1", LATER)] == ["used", "open"]
    for sent in (request, make_request(unused, KEY, TLS_KEY)):
        with pytest.raises(EnrolmentError, match="was revoked"):
            ledger.grant(sent, enroller, LATER, days=30)
    assert [e.state for e in ledger.entries(LATER)] == ["revoked", "revoked", "open"]
    assert ledger.revoke("gateway-1", LATER) == []
    assert [entry.agent for entry in ledger.revoke(other.id.hex(), LATER)] == ["gateway-2"]


def test_a_token_of_another_authority_is_refused(
    ledger: Ledger, enroller: Enroller, tmp_path: Path
) -> None:
    token = new_token(enroller, "gateway-1", "plant-a", int(END.timestamp()))
    with pytest.raises(EnrolmentError, match="is not in this ledger"):
        ledger.grant(make_request(token, KEY, TLS_KEY), enroller, NOW, days=30)


def test_a_token_from_before_the_ca_was_replaced_is_refused(
    ledger: Ledger, enroller: Enroller, directory: Path
) -> None:
    token = added(ledger, enroller)
    (directory / CA_KEY).unlink()
    (directory / CA_CERTIFICATE).unlink()
    make_authority(directory, "plant-net")
    with pytest.raises(EnrolmentError, match="replaced after token"):
        ledger.grant(make_request(token, KEY, TLS_KEY), read_enroller(directory), NOW, days=30)


def test_each_credential_of_an_agent_has_a_higher_serial(
    ledger: Ledger, enroller: Enroller
) -> None:
    serials = []
    for least in (1, 1, 9, 1):
        token = added(ledger, enroller, least=least)
        request = make_request(token, KEY, TLS_KEY)
        serials.append(serial(ledger.grant(request, enroller, NOW, days=30), token))
    assert serials == [1, 2, 9, 10]
    token = added(ledger, enroller, "gateway-2")
    answer = ledger.grant(make_request(token, KEY, TLS_KEY), enroller, NOW, days=30)
    assert serial(answer, token) == 1
    assert [entry.serial for entry in ledger.entries(NOW)] == [1, 2, 9, 10, 1]


def test_the_ledger_and_its_log_are_the_owners_alone(directory: Path, enroller: Enroller) -> None:
    before = os.umask(0)
    try:
        with open_ledger(directory) as ledger:
            added(ledger, enroller)
            modes = {
                p.name: stat.S_IMODE(p.stat().st_mode) for p in directory.glob("enrolment.db*")
            }
    finally:
        os.umask(before)
    assert modes == {FILE_NAME: 0o600, f"{FILE_NAME}-wal": 0o600, f"{FILE_NAME}-shm": 0o600}


def test_a_ledger_that_others_can_read_is_refused(directory: Path) -> None:
    with open_ledger(directory):
        pass
    (directory / FILE_NAME).chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"), open_ledger(directory):
        pass


def test_a_used_or_revoked_tokens_secret_is_gone_from_the_disk(
    directory: Path, enroller: Enroller
) -> None:
    with open_ledger(directory) as ledger:
        used, revoked, still_open = (added(ledger, enroller) for _ in range(3))
        ledger.grant(make_request(used, KEY, TLS_KEY), enroller, NOW, days=30)
        ledger.revoke(revoked.id.hex(), NOW)
    left = b"".join(path.read_bytes() for path in directory.glob(f"{FILE_NAME}*"))
    assert still_open.secret in left
    assert used.secret not in left
    assert revoked.secret not in left


def test_a_damaged_ledger_is_not_replaced_but_named(directory: Path) -> None:
    path = directory / FILE_NAME
    path.write_bytes(b"no database at all" * 100)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match=FILE_NAME), open_ledger(directory):
        pass
    assert path.read_bytes() == b"no database at all" * 100


def test_of_two_requests_at_once_one_wins(directory: Path, enroller: Enroller) -> None:
    with open_ledger(directory) as ledger:
        token = added(ledger, enroller)
    requests = [make_request(token, KEY, TLS_KEY) for _ in range(6)]
    for number, request in enumerate(requests):
        (directory / f"{number}.request").write_bytes(request)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", GRANT, str(directory), str(number)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(len(requests))
    ]
    ended = [process.communicate()[1] + str(process.returncode) for process in running]
    assert sum(said == "0" for said in ended) == 1
    assert sum("was used by another request" in said for said in ended) == len(requests) - 1


GRANT = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from wire.enrolment_ledger import open_ledger
from wire.keys import read_enroller

directory = Path(sys.argv[1])
request = (directory / f"{sys.argv[2]}.request").read_bytes()
with open_ledger(directory) as ledger:
    ledger.grant(request, read_enroller(directory), datetime.now(UTC), days=30)
"""

STOPPED_AT = (
    """
import os, signal, sqlite3, sys
import wire.database
from pathlib import Path

# Kill this process, as kill -9 does, when SQLite is about to run its Nth statement.
left = int(sys.argv[3])
def traced(statement):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

opened = sqlite3.connect
def connect(*arguments, **named):
    database = opened(*arguments, **named)
    database.set_trace_callback(traced)
    return database

sqlite3.connect = connect
"""
    + GRANT
)


def test_killed_at_any_statement_a_token_is_open_or_its_answer_is_kept(
    directory: Path, enroller: Enroller
) -> None:
    states = []
    for statement in range(1, 100):
        with open_ledger(directory) as ledger:
            token = added(ledger, enroller)
        request = make_request(token, KEY, TLS_KEY)
        (directory / "0.request").write_bytes(request)
        command = [sys.executable, "-c", STOPPED_AT, str(directory), "0", str(statement)]
        ended = subprocess.run(command, check=False, capture_output=True)
        with open_ledger(directory) as ledger:
            states.append(ledger.entries(NOW)[-1].state)
            answer = ledger.grant(request, enroller, NOW, days=30)
            assert serial(answer, token) == statement
            with pytest.raises(EnrolmentError, match="was used by another request"):
                ledger.grant(make_request(token, KEY, TLS_KEY), enroller, NOW, days=30)
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert set(states[:-1]) == {"open"}  # the commit is the last statement of all
    assert states[-1] == "used"
    assert len(states) > 5
