"""`journeyman-agent enrol`: keys stay here, and nothing is written that was not checked."""

import io
import os
import stat
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from agent.main import main
from wire.certificates import make_authority, read_client, write_certificate
from wire.codec import seal
from wire.enrolment import (
    Enroller,
    Token,
    encode_token,
    make_answer,
    new_token,
    parse_request,
    verify_request,
)
from wire.issuing import new_authority, new_key
from wire.keys import make_federation, read_enroller
from wire.messages import Charter
from wire.signing import read_private_key, write_private_key
from wire.trust import ROOT, read_charter

AGENT = "gateway-1"
EXPIRES = int((datetime.now(UTC) + timedelta(hours=72)).timestamp())
INSTALLED = {"charter.jm", "ca.crt", f"{AGENT}.crt", f"{AGENT}.credential"}
KEYS = {f"{AGENT}.key", f"{AGENT}.tls.key"}
WAITING = {f"{AGENT}.token", f"{AGENT}.request"}


@dataclass
class Scene:
    """An authority, a gateway's directory, and a token between them."""

    authority: Path
    gateway: Path
    enroller: Enroller
    token: Token
    said: Callable[[], str]

    @property
    def token_file(self) -> Path:
        """The token as the authority handed it over."""
        return self.authority / "given.token"

    def give(self, token: Token) -> None:
        """Hand over another token."""
        self.token = token
        self.token_file.write_text(encode_token(token) + "\n")
        self.token_file.chmod(0o600)

    def request(self) -> int:
        """`enrol request` on the gateway."""
        words = ["enrol", "request", "--token", str(self.token_file), "--out", str(self.gateway)]
        return main(words)

    def grant(self, serial: int = 1, enroller: Enroller | None = None) -> Path:
        """The authority's answer to the request that lies on the gateway."""
        request = parse_request((self.gateway / f"{self.token.agent}.request").read_bytes())
        path = self.authority / "answer"
        applicant = verify_request(request, self.token)
        now = datetime.now(UTC)
        enroller = enroller or self.enroller
        path.write_bytes(make_answer(enroller, self.token, applicant, serial, now, days=30))
        return path

    def install(self, answer: Path) -> int:
        """`enrol install` on the gateway."""
        return main(["enrol", "install", str(answer), "--dir", str(self.gateway)])

    def files(self) -> dict[str, bytes]:
        """What lies on the gateway."""
        return {path.name: path.read_bytes() for path in self.gateway.iterdir()}


@pytest.fixture
def scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Scene:
    """A token that was handed over and not used yet."""
    authority = tmp_path / "authority"
    make_federation(authority, "plant-net")
    make_authority(authority, "plant-net")
    enroller = read_enroller(authority)
    token = new_token(enroller, AGENT, "plant-a", EXPIRES)

    def said() -> str:
        output = capsys.readouterr()
        return output.out + output.err

    made = Scene(authority, tmp_path / "gateway", enroller, token, said)
    made.give(token)
    return made


def test_a_gateway_is_enrolled_and_its_configuration_is_accepted(scene: Scene) -> None:
    assert scene.request() == 0
    assert set(scene.files()) == KEYS | WAITING
    assert f"journeyman enrolment grant DIR {AGENT}.request" in scene.said()
    assert scene.install(scene.grant()) == 0
    assert set(scene.files()) == KEYS | INSTALLED
    lines = scene.said()
    tree = tomllib.loads(lines)
    assert tree["trust"]["root"] == scene.enroller.root.raw.hex()
    assert set(tree["broker"]) == {"ca_file", "cert_file", "key_file"}
    config = scene.gateway / "agent.toml"
    config.write_text(
        f'[agent]\nstate_dir = "state"\n{lines}\n[rows]\ntrigger = "a"\n[source.opcua]\n'
        'endpoint = "opc.tcp://127.0.0.1:4840"\nnamespace_uri = "urn:a"\n'
        '[[source.opcua.channel]]\nname = "a"\nnode = "s=A"\n'
    )
    assert main(["check", str(config)]) == 0
    assert f"agent {AGENT} of site plant-a in federation plant-net" in scene.said()
    files = [Path(tree["broker"][name]) for name in ("ca_file", "cert_file", "key_file")]
    ends = read_client(files[0], files[1], files[2], AGENT, datetime.now(UTC))
    assert timedelta(days=29) < ends - datetime.now(UTC) < timedelta(days=31)


def test_every_file_has_the_mode_it_should_have_whatever_the_umask(scene: Scene) -> None:
    before = os.umask(0)
    try:
        scene.request()
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in scene.gateway.iterdir()}
        scene.install(scene.grant())
        modes |= {p.name: stat.S_IMODE(p.stat().st_mode) for p in scene.gateway.iterdir()}
    finally:
        os.umask(before)
    secret = {*KEYS, f"{AGENT}.token"}
    assert {name for name, mode in modes.items() if mode == 0o600} == secret
    assert {name for name, mode in modes.items() if mode == 0o644} == set(modes) - secret
    assert stat.S_IMODE(scene.gateway.stat().st_mode) == 0o700


def test_a_token_may_come_from_standard_input(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(scene.token_file.read_text()))
    assert main(["enrol", "request", "--token", "-", "--out", str(scene.gateway)]) == 0
    assert scene.install(scene.grant()) == 0


def test_a_repeated_request_is_the_same_request(scene: Scene) -> None:
    scene.request()
    first = scene.files()
    assert scene.request() == 0
    assert scene.files() == first


@pytest.mark.parametrize("lost", sorted(KEYS | WAITING))
def test_a_request_that_was_cut_short_is_completed_with_the_keys_there_are(
    scene: Scene, lost: str
) -> None:
    scene.request()
    first = scene.files()
    (scene.gateway / lost).unlink()
    if lost in KEYS:  # the order of writing: keys, token, request
        (scene.gateway / f"{AGENT}.request").unlink()
    assert scene.request() == 0
    kept = set(first) - {lost, f"{AGENT}.request"}
    assert {name: scene.files()[name] for name in kept} == {name: first[name] for name in kept}
    assert scene.install(scene.grant()) == 0


@pytest.mark.parametrize("written", range(5))
def test_an_installation_that_was_cut_short_is_completed(
    scene: Scene, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.request()
    answer = scene.grant()
    real = os.replace
    left = written

    def cut(path: Path, target: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        real(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", cut)
        ended = scene.install(answer)
    assert ended == (130 if written < 4 else 0)
    if written < 4:
        assert set(scene.files()) >= WAITING
        assert scene.install(answer) == 0
    assert {name for name in scene.files() if not name.startswith(".")} == KEYS | INSTALLED


def refused_without_a_trace(scene: Scene, answer: Path, reason: str) -> None:
    before = scene.files()
    assert scene.install(answer) == 2
    assert reason in scene.said()
    assert scene.files() == before


def test_an_altered_answer_writes_nothing(scene: Scene) -> None:
    scene.request()
    answer = scene.grant()
    good = answer.read_bytes()
    for position in (0, 10, len(good) // 2, len(good) - 1):
        data = bytearray(good)
        data[position] ^= 1
        answer.write_bytes(data)
        refused_without_a_trace(scene, answer, "answer")
    answer.write_bytes(good)
    assert scene.install(answer) == 0


def test_the_answer_to_another_gateway_writes_nothing_and_says_whom_this_one_waits_for(
    scene: Scene, tmp_path: Path
) -> None:
    scene.request()
    mine, here = scene.token, scene.gateway
    scene.give(new_token(scene.enroller, "gateway-2", "plant-a", EXPIRES))
    scene.gateway = tmp_path / "other"
    scene.request()
    answer = scene.grant()
    scene.gateway = here
    refused_without_a_trace(scene, answer, f"but for {AGENT} ({mine.id.hex()})")


def test_an_answer_for_keys_that_were_replaced_since_writes_nothing(scene: Scene) -> None:
    scene.request()
    answer = scene.grant()
    (scene.gateway / f"{AGENT}.key").unlink()
    write_private_key(
        scene.gateway / f"{AGENT}.key", read_private_key(scene.authority / "author.key")
    )
    refused_without_a_trace(scene, answer, "another key than this gateway's")


def test_an_answer_with_another_ca_writes_nothing(scene: Scene) -> None:
    scene.request()
    other = new_authority("plant-net", new_key(), datetime.now(UTC))
    swapped = Enroller(
        scene.enroller.root, scene.enroller.charter, scene.enroller.trust, scene.enroller.key, other
    )
    answer = scene.grant(enroller=swapped)
    refused_without_a_trace(scene, answer, "not the one that the token names")


def test_an_answer_that_was_installed_is_not_installed_again(scene: Scene) -> None:
    scene.request()
    answer = scene.grant()
    scene.install(answer)
    refused_without_a_trace(scene, answer, "it was installed already")


@pytest.mark.parametrize("name", sorted(KEYS))
def test_a_key_that_others_can_read_is_refused(scene: Scene, name: str) -> None:
    scene.request()
    answer = scene.grant()
    (scene.gateway / name).chmod(0o644)
    refused_without_a_trace(scene, answer, f"chmod 600 {scene.gateway / name}")
    assert scene.request() == 2


def test_a_token_that_others_can_read_or_that_is_mistyped_is_refused_before_a_key_is_made(
    scene: Scene,
) -> None:
    scene.token_file.chmod(0o644)
    assert scene.request() == 2
    assert f"chmod 600 {scene.token_file}" in scene.said()
    for text in ("", "jm1-", encode_token(scene.token)[:-1], "-----BEGIN", "\xff"):
        scene.token_file.write_text(text, encoding="latin-1")
        scene.token_file.chmod(0o600)
        assert scene.request() == 2
        assert str(scene.token_file) in scene.said()
    assert not scene.gateway.exists()


def enrolled_again(scene: Scene, serial: int, enroller: Enroller | None = None) -> Path:
    """A request with a new token, and its answer."""
    scene.give(new_token(enroller or scene.enroller, AGENT, "plant-a", EXPIRES))
    assert scene.request() == 0
    return scene.grant(serial, enroller)


def test_an_agent_is_enrolled_anew_with_its_keys(scene: Scene) -> None:
    scene.request()
    scene.install(scene.grant(1))
    first = scene.files()
    assert scene.install(enrolled_again(scene, 2)) == 0
    second = scene.files()
    assert set(second) == set(first)
    assert {name for name in first if first[name] == second[name]} == {
        *KEYS,
        "charter.jm",
        "ca.crt",
    }


def test_an_answer_older_than_what_is_installed_is_refused(scene: Scene) -> None:
    scene.request()
    scene.install(scene.grant(5))
    older = enrolled_again(scene, 4)
    scene.said()
    refused_without_a_trace(scene, older, "credential 4 is older than the one in use, 5")


def test_an_older_charter_than_the_installed_one_is_refused(scene: Scene) -> None:
    root = read_private_key(scene.authority / "root.key")
    renewed = msgspec.structs.replace(scene.enroller.trust.charter, epoch=2)
    scene.request()
    scene.install(scene.grant(1, with_charter(scene, renewed)))
    assert read_charter(scene.files()["charter.jm"], root.public).charter.epoch == 2
    older = enrolled_again(scene, 2)
    scene.said()
    refused_without_a_trace(scene, older, "charter, epoch 1, is older than the one in use, 2")


def with_charter(scene: Scene, charter: Charter) -> Enroller:
    """The authority after the root signed this charter."""
    root = read_private_key(scene.authority / "root.key")
    envelope = seal(charter, federation="plant-net", signer=ROOT, counter=charter.epoch, key=root)
    trust = read_charter(envelope, root.public)
    return Enroller(root.public, envelope, trust, scene.enroller.key, scene.enroller.ca)


def test_another_federations_token_does_not_replace_what_is_installed(
    scene: Scene, tmp_path: Path
) -> None:
    scene.request()
    scene.install(scene.grant())
    before = scene.files()
    other = tmp_path / "elsewhere"
    make_federation(other, "other-net")
    make_authority(other, "other-net")
    scene.give(new_token(read_enroller(other), AGENT, "plant-a", EXPIRES))
    scene.said()
    assert scene.request() == 2
    assert "not the charter of other-net" in scene.said()
    assert scene.files() == before


def test_files_that_can_not_be_read_or_written_are_named(scene: Scene, tmp_path: Path) -> None:
    assert scene.install(tmp_path / "missing") == 2
    assert f"{tmp_path / 'missing'}: can not read" in scene.said()
    large = tmp_path / "large"
    large.write_bytes(bytes(40_000))
    assert scene.install(large) == 2
    assert "larger than 32768 bytes" in scene.said()
    scene.gateway = scene.token_file
    assert scene.request() == 2
    assert f"{scene.token_file}: can not make" in scene.said()


def test_a_ca_that_was_put_into_the_directory_beforehand_is_replaced(scene: Scene) -> None:
    scene.request()
    stranger = new_authority("plant-net", new_key(), datetime.now(UTC))
    write_certificate(scene.gateway / "ca.crt", stranger.certificate)
    assert scene.install(scene.grant()) == 0
    read_client(
        scene.gateway / "ca.crt",
        scene.gateway / f"{AGENT}.crt",
        scene.gateway / f"{AGENT}.tls.key",
        AGENT,
        datetime.now(UTC),
    )


@pytest.mark.parametrize("words", [["request"], ["install"], ["walk"]])
def test_help_says_what_each_step_needs(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["enrol", *words])
    assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        main(["enrol", *[word for word in words if word != "walk"], "--help"])
    assert ended.value.code == 0
    assert "agent.toml" in capsys.readouterr().out or words == ["request"]
