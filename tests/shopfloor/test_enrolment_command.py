"""`journeyman keys ca|broker` and `journeyman enrolment`, with the gateway's commands between."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from agent.main import main as agent_main
from shopfloor.main import main
from wire.certificates import read_certificate, read_client
from wire.enrolment import decode_token
from wire.enrolment_ledger import open_ledger
from wire.keys import make_agent, read_enroller
from wire.trust import read_credential

Say = Callable[[], tuple[str, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Say:
    """What was printed since the last time: standard output and standard error."""

    def read() -> tuple[str, str]:
        output = capsys.readouterr()
        return output.out, output.err

    return read


@pytest.fixture
def directory(tmp_path: Path, said: Say) -> Path:
    """An authority's directory with a CA."""
    directory = tmp_path / "authority"
    assert main(["keys", "federation", "mills", "--keys", str(directory)]) == 0
    assert main(["keys", "ca", str(directory)]) == 0
    said()
    return directory


def token_for(directory: Path, agent: str, *more: str) -> Path:
    path = directory.parent / f"{agent}.given"
    path.unlink(missing_ok=True)
    words = ["enrolment", "token", str(directory), agent, "--site", "plant-a", "--out", str(path)]
    assert main([*words, *more]) == 0
    return path


def requested(directory: Path, agent: str, *more: str) -> Path:
    """A gateway's request with a new token."""
    gateway = directory.parent / f"at-{agent}"
    token = token_for(directory, agent, *more)
    words = ["enrol", "request", "--token", str(token), "--out", str(gateway)]
    assert agent_main(words) == 0
    return gateway / f"{agent}.request"


def granted(directory: Path, request: Path, *more: str) -> int:
    words = ["enrolment", "grant", str(directory), str(request)]
    return main([*words, "--out", str(request.with_suffix(".answer")), *more])


def installed(request: Path) -> int:
    answer = request.with_suffix(".answer")
    return agent_main(["enrol", "install", str(answer), "--dir", str(request.parent)])


def test_a_gateway_is_enrolled_with_six_commands(directory: Path) -> None:
    request = requested(directory, "gateway-1")
    assert granted(directory, request, "--days", "100") == 0
    assert installed(request) == 0
    at = request.parent
    files = at / "ca.crt", at / "gateway-1.crt", at / "gateway-1.tls.key"
    now = datetime.now(UTC)
    assert timedelta(99) < read_client(*files, "gateway-1", now) - now < timedelta(101)
    trust = read_enroller(directory).trust
    credential = read_credential((at / "gateway-1.credential").read_bytes(), trust)
    assert (credential.agent, credential.site, credential.serial) == ("gateway-1", "plant-a", 1)


def test_the_coordinators_certificate_is_a_clients_and_no_agent_can_get_one(
    directory: Path, said: Say
) -> None:
    certificate, key = (directory / f"coordinator.{end}" for end in ("crt", "tls.key"))
    read_client(directory / "ca.crt", certificate, key, "coordinator", datetime.now(UTC))
    assert main(["enrolment", "token", str(directory), "coordinator", "--site", "plant-a"]) == 2
    assert "no agent may be called 'coordinator'" in said()[1]


def test_every_file_of_the_authority_has_the_mode_it_should_have(tmp_path: Path, said: Say) -> None:
    before = os.umask(0)
    try:
        directory = tmp_path / "authority"
        main(["keys", "federation", "mills", "--keys", str(directory)])
        main(["keys", "ca", str(directory)])
        main(["keys", "broker", str(directory), "--host", "localhost"])
        request = requested(directory, "gateway-1")
        granted(directory, request)
        given = tmp_path / "gateway-1.given"
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in [*directory.iterdir(), given]}
    finally:
        os.umask(before)
    secret = {name for name in modes if name.endswith(".key")}
    assert {"ca.key", "broker.key", "coordinator.tls.key", "enrolment.key"} < secret
    secret |= {"enrolment.db", "gateway-1.given"}
    assert {name for name, mode in modes.items() if mode & 0o077 == 0} == secret


def test_a_ca_is_made_once_and_the_coordinators_certificate_again_when_it_is_gone(
    directory: Path, said: Say
) -> None:
    before = (directory / "ca.crt").read_bytes()
    assert main(["keys", "ca", str(directory)]) == 2
    assert "nothing is overwritten" in said()[1]
    (directory / "coordinator.crt").unlink()
    assert main(["keys", "ca", str(directory)]) == 0
    assert (directory / "ca.crt").read_bytes() == before


def test_a_brokers_certificate_names_its_hosts(directory: Path, said: Say) -> None:
    words = ["keys", "broker", str(directory), "--host", "mqtt.mills.example", "--host", "10.1.2.3"]
    assert main([*words, "--days", "10"]) == 0
    certificate = read_certificate(directory / "broker.crt")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["mqtt.mills.example"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3"]
    assert certificate.not_valid_after_utc < datetime.now(UTC) + timedelta(days=11)
    (directory / "broker.crt").unlink()
    assert main(["keys", "broker", str(directory), "--host", "not a host"]) == 2
    assert "'not a host' is neither an IP address nor a host name" in said()[1]


def test_a_token_is_printed_alone_so_that_it_can_be_piped(directory: Path, said: Say) -> None:
    assert main(["enrolment", "token", str(directory), "gateway-1", "--site", "plant-a"]) == 0
    out, err = said()
    token = decode_token(out)
    assert (token.agent, token.site, token.federation) == ("gateway-1", "plant-a", "mills")
    assert abs(token.expires - (datetime.now(UTC) + timedelta(hours=72)).timestamp()) < 60
    assert token.id.hex() in err
    assert token.secret.hex() not in err


def test_who_makes_a_token_hears_of_the_agents_other_tokens(directory: Path, said: Say) -> None:
    request = requested(directory, "gateway-1")
    said()
    token_for(directory, "gateway-1")
    first = decode_token((request.parent / "gateway-1.token").read_text())
    assert f"older tokens can be used as well: {first.id.hex()}" in said()[1]
    granted(directory, request)
    token_for(directory, "gateway-1")
    assert "was enrolled before" in said()[1]


def test_a_token_file_is_not_overwritten_and_then_no_token_is_made(
    directory: Path, said: Say
) -> None:
    path = token_for(directory, "gateway-1")
    words = ["enrolment", "token", str(directory), "gateway-2", "--site", "plant-a"]
    assert main([*words, "--out", str(path)]) == 2
    assert "nothing is overwritten" in said()[1]
    said()
    main(["enrolment", "list", str(directory)])
    assert "gateway-2" not in said()[0]


def test_an_answer_is_granted_again_to_the_same_request_and_to_no_other(
    directory: Path, said: Say
) -> None:
    request = requested(directory, "gateway-1")
    assert granted(directory, request) == 0
    answer = request.with_suffix(".answer")
    first = answer.read_bytes()
    answer.unlink()
    assert granted(directory, request) == 0
    assert answer.read_bytes() == first
    assert granted(directory, request) == 0  # onto the same bytes
    copied = request.parent.parent / "thief"
    token = directory.parent / "gateway-1.given"
    assert agent_main(["enrol", "request", "--token", str(token), "--out", str(copied)]) == 0
    said()
    assert granted(directory, copied / "gateway-1.request") == 2
    assert "was used by another request" in said()[1]
    assert not (copied / "gateway-1.answer").exists()


def test_an_answer_does_not_overwrite_another_file_and_is_not_lost_by_that(
    directory: Path, said: Say
) -> None:
    request = requested(directory, "gateway-1")
    answer = request.with_suffix(".answer")
    answer.write_text("precious")
    assert granted(directory, request) == 2
    assert "this exists and is another file" in said()[1]
    assert answer.read_text() == "precious"
    answer.unlink()
    assert granted(directory, request) == 0
    assert installed(request) == 0


KILLED = """
import os, signal, sys
import shopfloor.enrolment_command as command
from shopfloor.main import main

command.write_answer = lambda path, answer: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""


def test_killed_between_the_ledgers_commit_and_the_file_the_same_request_gets_its_answer(
    directory: Path, said: Say
) -> None:
    request = requested(directory, "gateway-1")
    answer = request.with_suffix(".answer")
    words = ["enrolment", "grant", str(directory), str(request), "--out", str(answer)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not answer.exists()
    with open_ledger(directory) as ledger:
        assert [entry.state for entry in ledger.entries(datetime.now(UTC))] == ["used"]
    assert granted(directory, request) == 0
    assert installed(request) == 0


def test_a_credential_from_before_there_was_a_ledger_counts(directory: Path) -> None:
    make_agent(directory, "mills", "gateway-1", "plant-a", serial=7)
    request = requested(directory, "gateway-1")
    granted(directory, request)
    installed(request)
    data = (request.parent / "gateway-1.credential").read_bytes()
    assert read_credential(data, read_enroller(directory).trust).serial == 8


def test_after_a_lost_ledger_serials_go_on_where_the_operator_says(directory: Path) -> None:
    request = requested(directory, "gateway-1", "--serial", "40")
    granted(directory, request)
    installed(request)
    data = (request.parent / "gateway-1.credential").read_bytes()
    assert read_credential(data, read_enroller(directory).trust).serial == 40


def test_the_list_shows_what_became_of_each_token(directory: Path, said: Say) -> None:
    granted(directory, requested(directory, "gateway-1"))
    token_for(directory, "gateway-2")
    token_for(directory, "gateway-3", "--hours", "1e-12")
    token_for(directory, "gateway-4")
    assert main(["enrolment", "revoke", str(directory), "gateway-4"]) == 0
    said()
    assert main(["enrolment", "list", str(directory)]) == 0
    heading, *rows = said()[0].splitlines()
    assert heading.split() == ["TOKEN", "AGENT", "SITE", "STATE"]
    assert [row.split()[1:5] for row in rows] == [
        ["gateway-1", "plant-a", "used", "since"],
        ["gateway-2", "plant-a", "open", "until"],
        ["gateway-3", "plant-a", "ended", "since"],
        ["gateway-4", "plant-a", "revoked", "since"],
    ]
    assert rows[0].endswith(", credential 1")


def test_ended_and_revoked_tokens_are_refused_by_name(directory: Path, said: Say) -> None:
    ended = requested(directory, "gateway-1", "--hours", "1e-12")
    revoked = requested(directory, "gateway-2")
    main(["enrolment", "revoke", str(directory), "gateway-2"])
    for request, reason in ((ended, "ended at"), (revoked, "was revoked")):
        said()
        assert granted(directory, request) == 2
        assert reason in said()[1]
        assert not request.with_suffix(".answer").exists()


def test_revoking_an_agent_says_what_was_revoked_and_what_to_do(directory: Path, said: Say) -> None:
    granted(directory, requested(directory, "gateway-1"))
    said()
    assert main(["enrolment", "revoke", str(directory), "gateway-1"]) == 0
    shown = said()[0]
    assert "gateway-1: revoked up to credential 1" in shown
    assert "then reload the broker" in shown
    assert "revoked.jm: for the coordinator's [trust] revoked" in shown
    assert main(["enrolment", "revoke", str(directory), "gateway-1"]) == 1  # it was before
    said()
    assert main(["enrolment", "revoke", str(directory), "nobody"]) == 1
    assert "no token or agent to revoke has this name: nobody" in said()[1]


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("root.pub", "write the root's public key into it"),
        ("charter.jm", "can not read the charter"),
        ("enrolment.key", "can not read the private key"),
        ("ca.crt", "make one with: journeyman keys ca"),
        ("ca.key", "can not read this private key"),
    ],
)
def test_what_is_missing_in_the_directory_is_named(
    directory: Path, said: Say, missing: str, reason: str
) -> None:
    (directory / missing).unlink()
    assert main(["enrolment", "token", str(directory), "gateway-1", "--site", "plant-a"]) == 2
    message = said()[1]
    assert str(directory / missing) in message
    assert reason in message
    assert not (directory / "enrolment.db").exists()


def test_an_enrolment_key_that_the_charter_does_not_name_is_refused(
    directory: Path, said: Say
) -> None:
    (directory / "author.key").replace(directory / "enrolment.key")
    assert main(["enrolment", "token", str(directory), "gateway-1", "--site", "plant-a"]) == 2
    assert "not the key that the charter names" in said()[1]


def test_keys_that_others_can_read_are_refused(directory: Path, said: Say) -> None:
    for name in ("enrolment.key", "ca.key"):
        (directory / name).chmod(0o640)
        assert main(["enrolment", "token", str(directory), "gateway-1", "--site", "plant-a"]) == 2
        assert f"chmod 600 {directory / name}" in said()[1]
        (directory / name).chmod(0o600)


@pytest.mark.parametrize(
    "words",
    [
        ["token", "DIR", "coordinator", "--site", "plant-a"],
        ["token", "DIR", "a/b", "--site", "plant-a"],
        ["token", "DIR", "gateway-1", "--site", "plant a"],
        ["token", "DIR", "gateway-1"],
        ["token", "DIR", "gateway-1", "--site", "plant-a", "--hours", "0"],
        ["token", "DIR", "gateway-1", "--site", "plant-a", "--hours", "nan"],
        ["token", "DIR", "gateway-1", "--site", "plant-a", "--serial", "0"],
        ["grant", "DIR", "missing", "--out", "answer"],
        ["grant", "DIR", "missing", "--out", "answer", "--days", "99999"],
    ],
)
def test_wrong_use_ends_with_2_and_makes_no_token(
    directory: Path, said: Say, words: list[str]
) -> None:
    line = [str(directory) if word == "DIR" else word for word in words]
    with pytest.raises(SystemExit, match="2"):  # argparse's own, and ours
        sys.exit(main(["enrolment", *line]))
    said()
    main(["enrolment", "list", str(directory)])
    assert len(said()[0].splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["enrolment"], ["token", "grant", "list", "revoke", "journeyman-agent enrol request"]),
        (["enrolment", "token"], ["--hours", "72", "as you would a password"]),
        (["enrolment", "grant"], ["--days", "397", "same answer again"]),
        (["enrolment", "revoke"], ["ca.crl for the broker", "can be enrolled again"]),
        (["enrolment", "serve"], ["POST /enrol", "GET /ca.crl", "renews enrolled agents"]),
        (["enrolment", "crl"], ["keeps everybody out", "30"]),
        (["keys", "ca"], ["coordinator.tls.key", "ca.key stays"]),
        (["keys", "broker"], ["--host", "refuse a broker that they call by a name"]),
    ],
)
def test_help_is_worth_reading(words: list[str], parts: list[str], said: Say) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    shown = " ".join(said()[0].split())
    for part in parts:
        assert part in shown
