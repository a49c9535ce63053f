"""When an agent asks for its next certificate, what it keeps of an answer, when it is revoked."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from agent.config import Identity
from agent.doctor_command import examine
from agent.health.metrics import status_lines
from agent.kept_identity import kept_certificate, newest_identity
from agent.renewal import Renewal
from agent.status import Status
from wire.certificates import make_authority, read_certificate, write_certificate, write_key
from wire.charters import sign_charter
from wire.codec import seal
from wire.enrolment import Enroller
from wire.errors import MalformedError, SignatureError
from wire.issuing import Key, client_certificate, new_key
from wire.keys import CHARTER, make_agent, make_federation, read_enroller
from wire.messages import Charter
from wire.mqtt import BrokerSettings
from wire.renewal import Asked, make_renewed
from wire.revocations import sign_revoked
from wire.signing import PrivateKey, read_private_key
from wire.trust import ROOT, read_charter, read_credential

NOW = datetime.now(UTC).replace(microsecond=0)
AGENT = "gateway-1"
HOUR_S = 3600.0


@dataclass
class Scene:
    """A gateway's files, and an authority that answers."""

    directory: Path
    state: Path
    enroller: Enroller
    identity: Identity
    tls_key: Key
    broker: BrokerSettings
    status: Status
    renewal: Renewal

    def issue(self, made: datetime, *, days: float = 90, key: Key | None = None) -> bytes:
        """An answer with a certificate of that day."""
        public_key = (key or self.tls_key).public_key()
        certificate = client_certificate(self.enroller.ca, AGENT, public_key, made, days=days)
        asked = Asked(self.identity.credential, public_key, 1)
        return make_renewed(self.enroller, asked, certificate)

    def shown(self) -> Path:
        """The certificate for the next connection."""
        return Path(self.renewal.newest(self.broker).cert_file)

    def asked_at(self, now: datetime, hours: int) -> list[float]:
        """Hours, of the next so many, in which the agent asks; its clock goes on from `now`."""
        found = []
        for minute in range(hours * 60):
            moment = now + timedelta(minutes=minute)
            if self.renewal.next_question(moment, 60.0 * minute) is not None:
                found.append(minute / 60)
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """An agent whose certificate was made now, for 90 days."""
    directory, state = tmp_path / "etc", tmp_path / "state"
    state.mkdir()
    make_federation(directory, "plant-net")
    make_authority(directory, "plant-net")
    make_agent(directory, "plant-net", AGENT, "plant-a", serial=3)
    enroller, tls_key = read_enroller(directory), new_key()
    envelope = (directory / f"{AGENT}.credential").read_bytes()
    credential = read_credential(envelope, enroller.trust)
    key = read_private_key(directory / f"{AGENT}.key")
    identity = Identity(enroller.trust, credential, envelope, key)
    write_key(directory / f"{AGENT}.tls.key", tls_key)
    certificate = client_certificate(enroller.ca, AGENT, tls_key.public_key(), NOW, days=90)
    write_certificate(directory / f"{AGENT}.crt", certificate)
    broker = BrokerSettings(
        ca_file=str(directory / "ca.crt"),
        cert_file=str(directory / f"{AGENT}.crt"),
        key_file=str(directory / f"{AGENT}.tls.key"),
    )
    status = Status(agent=AGENT, site="plant-a", federation="plant-net", pid=1)
    renewal = Renewal(identity, enroller.root, state, status, random.Random(1))
    renewal.newest(broker)
    return Scene(directory, state, enroller, identity, tls_key, broker, status, renewal)


def test_an_agent_asks_once_a_day_and_every_hour_in_the_last_third(scene: Scene) -> None:
    daily = scene.asked_at(NOW, 100)
    assert daily[0] <= 1
    assert 4 <= len(daily) <= 6
    scene.renewal.newest(scene.broker)
    fresh = Renewal(scene.identity, scene.enroller.root, scene.state, scene.status)
    fresh.newest(scene.broker)
    scene.renewal = fresh
    hourly = scene.asked_at(NOW + timedelta(days=62), 24)
    assert hourly[0] <= 0.05  # within seconds of the connection
    assert 20 <= len(hourly) <= 30


def test_a_clock_that_is_years_behind_asks_all_the_same(scene: Scene) -> None:
    assert len(scene.asked_at(datetime(1970, 1, 1, tzinfo=UTC), 50)) >= 2


def test_without_a_certificate_nothing_is_asked(scene: Scene) -> None:
    assert scene.renewal.newest(BrokerSettings()) == BrokerSettings()
    assert scene.asked_at(NOW + timedelta(days=62), 5) == []
    scene.renewal.tell(NOW, 0.0)
    assert scene.status.certificate == ""


def test_the_next_certificate_is_kept_in_the_state_directory_and_shown_from_then_on(
    scene: Scene,
) -> None:
    before = (scene.directory / f"{AGENT}.crt").read_bytes()
    scene.renewal.on_answer(scene.issue(NOW + timedelta(days=70)))
    kept = kept_certificate(scene.state, AGENT)
    assert scene.shown() == kept
    assert read_certificate(kept).not_valid_after_utc == NOW + timedelta(days=160)
    assert (scene.directory / f"{AGENT}.crt").read_bytes() == before
    after = Renewal(scene.identity, scene.enroller.root, scene.state, scene.status)
    assert after.newest(scene.broker).cert_file == str(kept)  # after a restart too


def test_an_answer_that_is_not_newer_changes_nothing(scene: Scene) -> None:
    scene.renewal.on_answer(scene.issue(NOW + timedelta(days=70)))
    with pytest.raises(MalformedError, match="made before the one in use"):
        scene.renewal.on_answer(scene.issue(NOW + timedelta(days=60)))
    with pytest.raises(SignatureError, match="another key"):
        scene.renewal.on_answer(scene.issue(NOW + timedelta(days=80), key=new_key()))
    kept = read_certificate(kept_certificate(scene.state, AGENT))
    assert kept.not_valid_after_utc == NOW + timedelta(days=160)


def test_a_certificate_that_was_enrolled_later_counts_before_the_renewed_one(scene: Scene) -> None:
    scene.renewal.on_answer(scene.issue(NOW + timedelta(days=70)))
    path = scene.directory / f"{AGENT}.crt"
    public_key = scene.tls_key.public_key()
    later = NOW + timedelta(days=75)
    write_certificate(path, client_certificate(scene.enroller.ca, AGENT, public_key, later, days=1))
    assert scene.shown() == path


def test_a_kept_certificate_of_another_key_or_a_damaged_one_is_left_alone(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.renewal.on_answer(scene.issue(NOW + timedelta(days=70)))
    kept = kept_certificate(scene.state, AGENT)
    kept.write_bytes(b"half")
    assert scene.shown() == scene.directory / f"{AGENT}.crt"
    other = client_certificate(
        scene.enroller.ca, AGENT, new_key().public_key(), NOW + timedelta(days=70), days=9
    )
    write_certificate(kept, other)
    assert scene.shown() == scene.directory / f"{AGENT}.crt"
    assert caplog.text.count("is ignored") == 2


def test_a_disk_that_is_full_costs_the_answer_and_nothing_else(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    (scene.state / "identity").write_bytes(b"in the way")
    scene.renewal.on_answer(scene.issue(NOW + timedelta(days=70)))
    assert "could not be kept" in caplog.text
    assert scene.shown() == scene.directory / f"{AGENT}.crt"


def newer_charter(scene: Scene, epoch: int) -> Enroller:
    charter = scene.enroller.trust.charter
    fields = {name: getattr(charter, name) for name in charter.__struct_fields__}
    root = read_private_key(scene.directory / "root.key")
    said = Charter(**(fields | {"epoch": epoch, "k_min": 2}))
    data = seal(said, federation="plant-net", signer=ROOT, counter=epoch, key=root)
    trust = read_charter(data, root.public)
    return Enroller(scene.enroller.root, data, trust, scene.enroller.key, scene.enroller.ca)


def test_a_newer_charter_counts_at_once_and_after_a_restart_and_never_an_older_one(
    scene: Scene,
) -> None:
    scene.enroller = newer_charter(scene, 5)
    now = scene.renewal.on_answer(scene.issue(NOW + timedelta(days=70)))
    assert now is not None
    assert now.trust.charter.epoch == 5
    scene.renewal.follow(now)
    assert scene.renewal.on_answer(scene.issue(NOW + timedelta(days=71))) is None
    found = newest_identity(scene.identity, scene.enroller.root, scene.state)
    assert (found.trust.charter.epoch, found.trust.charter.k_min) == (5, 2)
    assert found.credential == scene.identity.credential
    configured = Identity(
        newer_charter(scene, 6).trust,
        scene.identity.credential,
        scene.identity.credential_envelope,
        scene.identity.key,
    )
    found = newest_identity(configured, scene.enroller.root, scene.state)
    assert found.trust.charter.epoch == 6


def test_a_damaged_charter_in_the_state_directory_is_ignored_and_said(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.renewal.on_answer(scene.issue(NOW + timedelta(days=70)))
    (scene.state / "identity" / CHARTER).write_bytes(b"rotten")
    found = newest_identity(scene.identity, scene.enroller.root, scene.state)
    assert found == scene.identity
    assert "the kept charter is ignored" in caplog.text


def rotated(scene: Scene, epoch: int) -> Enroller:
    """The authority under a charter that names another enrolment key."""
    key = PrivateKey(bytes([77] * 32))
    before = scene.enroller.trust.charter
    charter = msgspec.structs.replace(before, epoch=epoch, enrolment_key=key.public.raw)
    data = sign_charter(charter, read_private_key(scene.directory / "root.key"))
    trust = read_charter(data, scene.enroller.root)
    return Enroller(scene.enroller.root, data, trust, key, scene.enroller.ca)


def test_an_agent_that_another_key_enrols_now_asks_at_once_and_goes_on_meanwhile(
    scene: Scene,
) -> None:
    scene.asked_at(NOW, 2)  # the day's question is asked
    scene.enroller = rotated(scene, 5)
    waiting = replace(scene.identity, trust=scene.enroller.trust)
    scene.renewal.follow(waiting)
    assert "its credential does not count" in scene.status.renewed
    assert 1 <= len(scene.asked_at(NOW + timedelta(hours=2), 2)) <= 3
    now = scene.renewal.on_answer(scene.issue(NOW + timedelta(days=70)))
    assert now is not None
    scene.renewal.follow(now)
    assert scene.status.renewed == ""
    # A restart in between finds the new charter with the old credential, and does not stop.
    files = scene.state / "identity"
    assert newest_identity(scene.identity, scene.enroller.root, scene.state) == now
    (files / f"{AGENT}.credential").unlink()
    assert newest_identity(scene.identity, scene.enroller.root, scene.state) == waiting


def test_a_revoked_agent_knows_it_and_an_older_list_does_not_clear_it(scene: Scene) -> None:
    renewal, enroller = scene.renewal, scene.enroller
    assert not renewal.on_revoked(sign_revoked(enroller, 1, [(AGENT, 2), ("press-9", 9)]))
    assert renewal.on_revoked(sign_revoked(enroller, 3, [(AGENT, 3)]))
    assert "enrol this gateway again" in scene.status.revoked
    assert renewal.on_revoked(sign_revoked(enroller, 2, []))
    assert renewal.is_revoked


def test_days_left_are_told_and_the_last_month_is_a_warning_once_a_day(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.renewal.tell(NOW, 0.0)
    end = NOW + timedelta(days=90)
    assert scene.status.certificate == f"valid until {end:%Y-%m-%d}, 90 days"
    for hour in range(30):
        scene.renewal.tell(NOW + timedelta(days=61, hours=hour), hour * HOUR_S)
    assert "not renewed yet" in scene.status.certificate
    assert caplog.text.count("the certificate for the broker") == 2
    lines = list(status_lines(scene.status, "test"))
    (line,) = [line for line in lines if "certificate_expiry" in line and line[0] != "#"]
    assert float(line.rpartition(" ")[2]) == end.timestamp()


def lines_of(scene: Scene, name: str) -> Iterator[str]:
    return (line for line in status_lines(scene.status, "test") if name in line)


def test_whether_it_is_revoked_is_a_figure_too(scene: Scene) -> None:
    assert list(lines_of(scene, "agent_revoked"))[-1].endswith(" 0")
    scene.renewal.on_revoked(sign_revoked(scene.enroller, 1, [(AGENT, 3)]))
    assert list(lines_of(scene, "agent_revoked"))[-1].endswith(" 1")


def test_the_doctor_looks_at_the_certificate_that_is_shown(scene: Scene) -> None:
    days = 20
    public_key = scene.tls_key.public_key()
    old = client_certificate(
        scene.enroller.ca, AGENT, public_key, NOW - timedelta(days=70), days=70 + days
    )
    write_certificate(scene.directory / f"{AGENT}.crt", old)
    assert told(scene)["status"] == "warning"
    assert f"{days - 1} days" in told(scene)["finding"]
    scene.renewal.newest(scene.broker)
    scene.renewal.on_answer(scene.issue(NOW))
    assert told(scene)["status"] == "ok"
    assert str(kept_certificate(scene.state, AGENT)) in told(scene)["finding"]


def told(scene: Scene) -> dict[str, str]:
    """What the doctor says of the agent's certificate."""
    root = scene.enroller.root.raw.hex()
    trust = [
        f'{name} = "{scene.directory}/{file}"'
        for name, file in (
            ("charter", CHARTER),
            ("credential", f"{AGENT}.credential"),
            ("key", f"{AGENT}.key"),
        )
    ]
    files = [
        f'{name} = "{getattr(scene.broker, name)}"' for name in ("ca_file", "cert_file", "key_file")
    ]
    config = scene.directory / "agent.toml"
    config.write_text(
        "\n".join(
            [
                "[agent]",
                f'state_dir = "{scene.state}"',
                "[trust]",
                f'root = "{root}"',
                *trust,
                "[broker]",
                *files,
                "[rows]",
                'trigger = "a"',
                "[source.opcua]",
                'endpoint = "opc.tcp://127.0.0.1:9"',
                'namespace_uri = "urn:a"',
                "[[source.opcua.channel]]",
                'name = "a"',
                'node = "s=A"',
            ]
        )
    )
    found = [each for each in examine(config, is_offline=True) if f"{AGENT}.crt" in each.finding]
    return {"status": found[0].status, "finding": found[0].finding}
