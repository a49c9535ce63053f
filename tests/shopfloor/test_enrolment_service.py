"""Enrolment in one command: the authority's service over HTTP, and what it refuses."""

import http.client
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from agent.main import main as agent_main
from shopfloor.enrolment_http import Failures, enrolment_server
from shopfloor.enrolment_office import Office
from shopfloor.main import main
from wire.certificates import make_authority, read_certificate, read_client
from wire.enrolment import MAX_REQUEST_BYTES
from wire.keys import make_federation, read_federation
from wire.revocations import REVOKED
from wire.trust import highest_revoked, read_revoked

AGENT = "press-1"
Say = Callable[[], str]


@dataclass
class Scene:
    """An authority whose service runs, and a gateway's directory."""

    authority: Path
    gateway: Path
    url: str
    said: Say

    def token(self, name: str = "given") -> Path:
        path = self.authority.parent / f"{name}.token"
        words = ["token", str(self.authority), AGENT, "--site", "plant-a", "--out", str(path)]
        assert main(["enrolment", *words]) == 0
        return path

    def enrol(self, token: Path, url: str = "") -> int:
        where = ["--from", url or self.url, "--dir", str(self.gateway)]
        return agent_main(["enrol", "--token", str(token), *where])

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        link = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=20)
        try:
            link.request(method, path, body)
            reply = link.getresponse()
            return reply.status, reply.read()
        finally:
            link.close()


@pytest.fixture
def scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Scene]:
    """A service on a free port."""
    authority = tmp_path / "authority"
    make_federation(authority, "plant-net")
    make_authority(authority, "plant-net")

    def said() -> str:
        output = capsys.readouterr()
        return output.out + output.err

    with enrolment_server(Office(authority, 30), ("127.0.0.1", 0)) as url:
        yield Scene(authority, tmp_path / "gateway", url, said)


def test_one_command_enrols_a_gateway(scene: Scene) -> None:
    token = scene.token()
    scene.said()
    assert scene.enrol(token) == 0
    tables = tomllib.loads(scene.said())
    broker = tables["broker"]
    ca, own, key = (Path(broker[name]) for name in ("ca_file", "cert_file", "key_file"))
    end = read_client(ca, own, key, AGENT, read_certificate(own).not_valid_before_utc)
    assert end == read_certificate(own).not_valid_after_utc
    assert set(tables["trust"]) == {"root", "charter", "credential", "key"}
    left = {path.suffix for path in scene.gateway.iterdir()}
    assert not left & {".token", ".request"}


def test_an_answer_that_was_lost_is_had_by_the_same_command(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = scene.token()
    with monkeypatch.context() as cut:
        cut.setattr("agent.enrol_online.MAX_ANSWER_BYTES", 99)  # as if the link ended there
        assert scene.enrol(token) == 2
    assert scene.enrol(token) == 0


def test_what_is_refused_is_said_on_the_gateway(scene: Scene) -> None:
    token = scene.token()
    assert main(["enrolment", "revoke", str(scene.authority), AGENT]) == 0
    scene.said()
    assert scene.enrol(token) == 2
    assert "refused (403): token" in scene.said()
    assert not (scene.gateway / f"{AGENT}.crt").exists()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1", "is `journeyman enrolment serve` running there?"),
        ("ftp://127.0.0.1", "not the address of an enrolment service"),
        ("http://user:secret@127.0.0.1", "not the address of an enrolment service"),
        ("http://127.0.0.1:99999", "not the address of an enrolment service"),
        ("http://127.0.0.1/other", "not the address of an enrolment service"),
    ],
)
def test_an_address_where_nobody_enrols_is_named(scene: Scene, url: str, reason: str) -> None:
    token = scene.token()
    scene.said()
    assert scene.enrol(token, url) == 2
    assert reason in scene.said()


@pytest.mark.parametrize("missing", ["--token", "--from", "--dir"])
def test_the_one_command_needs_all_three(scene: Scene, missing: str) -> None:
    words = {"--token": "-", "--from": scene.url, "--dir": str(scene.gateway)}
    del words[missing]
    assert agent_main(["enrol", *(word for pair in words.items() for word in pair)]) == 2
    assert f"{missing}: is needed" in scene.said()


def test_the_service_refuses_in_words_and_by_kind(scene: Scene) -> None:
    assert scene.ask("POST", "/enrol", b"nonsense")[0] == 400
    assert scene.ask("POST", "/enrol", b"x" * (MAX_REQUEST_BYTES + 1))[0] == 413
    status, words = scene.ask("GET", "/")
    assert (status, words) == (404, b"there are POST /enrol and GET /ca.crl\n")
    assert scene.ask("POST", "/")[0] == 404


def test_an_address_that_fails_too_often_has_to_wait(scene: Scene) -> None:
    token = scene.token()
    found = [scene.ask("POST", "/enrol", b"nonsense")[0] for _ in range(15)]
    assert found[:10] == [400] * 10
    assert found[-1] == 429
    scene.said()
    assert scene.enrol(token) == 2  # and loses nothing by that
    assert "try again in" in scene.said()


def test_failures_are_forgiven_with_time_and_counted_for_each_address() -> None:
    failures = Failures()
    for _ in range(12):
        failures.wait_s("a", 0.0, failed=1)
    assert failures.wait_s("a", 0.0) > 0
    assert failures.wait_s("b", 0.0) == 0
    assert failures.wait_s("a", 61.0) == 0
    for address in range(1001):
        failures.wait_s(str(address), 61.0)
    assert len(vars(failures)["_buckets"]) == 1000


def test_a_broken_ledger_is_told_to_the_log_and_not_to_whoever_asks(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    token = scene.token()
    (scene.authority / "enrolment.key").unlink()
    scene.said()
    assert scene.enrol(token) == 2
    said = scene.said()
    assert "refused (503)" in said
    assert str(scene.authority) not in said
    assert "enrolment.key" in caplog.text


def test_revoking_an_agent_writes_both_lists_and_the_service_gives_the_brokers(
    scene: Scene,
) -> None:
    assert scene.enrol(scene.token()) == 0
    serial = read_certificate(scene.gateway / f"{AGENT}.crt").serial_number
    empty = x509.load_pem_x509_crl(scene.ask("GET", "/ca.crl")[1])
    assert list(empty) == []
    scene.said()
    assert main(["enrolment", "revoke", str(scene.authority), AGENT]) == 0
    said = scene.said()
    assert f"{AGENT}: revoked up to credential 1" in said
    assert "ca.crl: for the broker's crlfile" in said
    status, data = scene.ask("GET", "/ca.crl")
    assert status == 200
    assert data == (scene.authority / "ca.crl").read_bytes()
    assert [each.serial_number for each in x509.load_pem_x509_crl(data)] == [serial]
    _, _, trust = read_federation(scene.authority)
    listed = read_revoked((scene.authority / REVOKED).read_bytes(), trust)
    assert highest_revoked(listed, AGENT) == 1
    # And back, by the same command.
    assert scene.enrol(scene.token("second")) == 0
    again = read_certificate(scene.gateway / f"{AGENT}.crt").serial_number
    assert again not in [each.serial_number for each in x509.load_pem_x509_crl(data)]


def test_a_list_of_less_than_half_its_time_is_made_anew(scene: Scene) -> None:
    assert main(["enrolment", "crl", str(scene.authority), "--days", "0.01"]) == 0
    before = (scene.authority / "ca.crl").read_bytes()
    data = scene.ask("GET", "/ca.crl")[1]
    assert data != before
    assert scene.ask("GET", "/ca.crl")[1] == data


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "say --listen, --broker, or both"),
        (["--listen", "8460"], "is not an address"),
        (["--broker", "broker:none"], "is not a port"),
        (["--broker", ":8883"], "a host has a name or an address"),
    ],
)
def test_wrong_use_of_serve_is_said(scene: Scene, words: list[str], reason: str) -> None:
    scene.said()
    assert main(["enrolment", "serve", str(scene.authority), *words]) == 2
    assert reason in scene.said()
