"""What docs/broker.md says is what happens: each command is run, each number is computed again."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec import structs

from shopfloor.ports import free_port
from tests.broker.conftest import MakeBroker, RealBroker, settled
from wire.certificates import make_authority
from wire.codec import seal
from wire.issuing import client_certificate, new_key, signing_request
from wire.keys import make_agent, make_federation, read_enroller
from wire.messages import (
    BOX_BYTES,
    NOVELTY_BINS,
    AgentState,
    Content,
    CoordinatorState,
    Delta,
    Endorsement,
    Evaluation,
    Grant,
    Head,
    Manifest,
    ManifestMember,
    Masked,
    Message,
    Policy,
    Readiness,
    Receipt,
    Receipts,
    Renewal,
    Report,
    UpdateHeader,
    Verdict,
    Verdicts,
    VersionRef,
)
from wire.renewal import Asked, make_renewed
from wire.revocations import sign_revoked
from wire.signing import PrivateKey
from wire.trust import read_credential

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHIPPED = ("mosquitto.conf", "acl", "dynamic-security.json", "agent-rights", "bridge.conf")
DIGEST = bytes(32)


@pytest.fixture(scope="module")
def document(repository: Path) -> str:
    """The text."""
    return (repository / "docs" / "broker.md").read_text()


def section(document: str, heading: str) -> str:
    """From a heading of the second level to the next one."""
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", document, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


# The commands


@dataclass
class Machine:
    """A directory in which the document's absolute paths are relative ones."""

    root: Path
    port: int

    def put(self, text: str) -> str:
        """The text with this machine's paths, port and user."""
        for path in ("/etc/mosquitto", "/var/log/mosquitto", "/var/lib/mosquitto"):
            text = re.sub(rf"(?<![\w.]){path}", f"{self.root}{path}", text)
        text = text.replace("-o mosquitto -g mosquitto ", "")
        return re.sub(r"\b8883\b", str(self.port), text)

    def run(self, text: str) -> str:
        """Run lines of the document as they are in bash; returns what they print."""
        path = f"{self.root}/bin{os.pathsep}{Path(sys.executable).parent}{os.pathsep}"
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", self.put(text)],
            cwd=self.root,
            env={**os.environ, "PATH": f"{path}{os.environ['PATH']}:/usr/sbin:/sbin"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


SYSTEMCTL = """\
#!/bin/bash
# restart: what systemd would do with Debian's unit.
if pid=$(cat {root}/run/mosquitto.pid); then
  kill $pid
  while kill -0 $pid; do sleep .05; done
fi 2>/dev/null
mosquitto -d -c {root}/etc/mosquitto/mosquitto.conf
until (: </dev/tcp/127.0.0.1/{port}); do sleep .05; done 2>/dev/null
"""


@pytest.fixture
def machine(mosquitto_program: str, repository: Path, tmp_path: Path) -> Iterator[Machine]:
    """A Debian machine with mosquitto and a checkout, as far as the document needs one."""
    made = Machine(tmp_path, free_port())
    for folder in (
        "bin",
        "run",
        "configs",
        "etc/mosquitto",
        "var/log/mosquitto",
        "var/lib/mosquitto",
    ):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copytree(repository / "configs", tmp_path / "configs", dirs_exist_ok=True)
    text = (repository / "configs" / "broker" / "mosquitto.conf").read_text()
    text = text.replace("/etc/mosquitto/journeyman", "/ETC").replace("/var/lib/mosquitto", "/VAR")
    text = settled(
        text.replace("/ETC", "/etc/mosquitto/journeyman").replace("/VAR", "/var/lib/mosquitto"),
        tmp_path,
        tmp_path / "etc/mosquitto/journeyman",
        made.port,
    )
    text = text.replace(f"{tmp_path}/acl", f"{tmp_path}/etc/mosquitto/journeyman/acl")
    text = text.replace(f"{tmp_path}/mosquitto.log", f"{tmp_path}/var/log/mosquitto/mosquitto.log")
    text = text.replace(f"{tmp_path}/mosquitto.pid", f"{tmp_path}/run/mosquitto.pid")
    text = text.replace(f"{tmp_path}/dynamic", f"{tmp_path}/var/lib/mosquitto/dynamic")
    (tmp_path / "configs" / "broker" / "mosquitto.conf").write_text(text)
    for name, script in (
        ("sudo", '#!/bin/bash\nexec "$@"\n'),
        ("systemctl", SYSTEMCTL.format(root=tmp_path, port=made.port)),
    ):
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    yield made
    pid = tmp_path / "run" / "mosquitto.pid"
    if pid.exists():
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_the_page_can_be_followed_word_by_word(machine: Machine, document: str) -> None:
    said = ""
    for language, text in BLOCK.findall(document):
        if language == "sh" and "mosquitto_sub" not in text:
            said += machine.run(text)
    assert "Verification: OK" in said
    assert "u'press-1'" in said
    assert "is enrolled in my-federation" not in said  # it went into agent.toml
    private = [path for path in machine.root.rglob("*.key") if path.stat().st_mode & 0o077]
    assert private == []
    listed = machine.run(
        f"mosquitto_ctrl -h localhost -p {machine.port} --cafile authority/ca.crt "
        "--cert administrator.crt --key administrator.tls.key dynsec listClients"
    )
    assert listed.split() == ["administrator", "coordinator", "enrolment", "observer", "press-1"]


@pytest.fixture(scope="module")
def fresh(make_broker: MakeBroker) -> RealBroker:
    """A broker that nobody else has used: what it says of itself is not asked for in vain."""
    broker = make_broker("acl")
    broker.start()
    return broker


def test_the_monitor_hears_what_the_page_tells_to_watch(fresh: RealBroker, document: str) -> None:
    if shutil.which("mosquitto_sub") is None:
        pytest.skip("mosquitto_sub is not installed: apt install mosquitto-clients")
    broker = fresh
    text = next(text for _, text in BLOCK.findall(document) if "mosquitto_sub" in text)
    at = broker.certificates
    text = text.replace("authority/ca.crt", str(at / "ca.crt")).replace("8883", str(broker.port))
    text = text.replace("observer.", f"{at}/observer.")
    done = subprocess.run(["bash", "-ec", text], capture_output=True, text=True, check=True)
    told = {line.split()[0] for line in done.stdout.splitlines()}
    assert told == set(re.findall(r"\$SYS/[a-z/]+", text))


def test_every_topic_of_the_broker_that_the_page_names_is_there(
    fresh: RealBroker, document: str
) -> None:
    observer = fresh.connect("observer")
    observer.subscribe("$SYS/#")
    there: set[str] = set()
    named = set(re.findall(r"\$SYS/broker/[a-z0-9/ ]*[a-z0-9]", document))
    while (
        not named <= there
    ):  # the first of them come after sys_interval; the test's own timeout ends it
        there |= set(observer.heard())
    assert len(named) >= 6
    observer.close()


def test_the_unit_file_is_one_that_systemd_accepts(
    systemd_analyze_program: str, document: str, tmp_path: Path
) -> None:
    blocks = [text for language, text in BLOCK.findall(document) if language == "ini"]
    (dropped,) = (text for text in blocks if "LimitNOFILE" in text)
    unit = tmp_path / "mosquitto.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n" + dropped)
    done = subprocess.run(
        [systemd_analyze_program, "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert "mosquitto.service" not in done.stderr, done.stderr
    assert "LimitNOFILE=8192" in dropped


def test_the_rules_of_the_bridge_are_those_of_the_file(document: str, repository: Path) -> None:
    shown = next(text for language, text in BLOCK.findall(document) if language == "acl")
    commented = "".join(f"#{line}\n" for line in shown.splitlines())
    assert (repository / "configs" / "broker" / "acl").read_text().endswith(commented)


def test_every_shipped_file_is_named(document: str, repository: Path) -> None:
    there = {path.name for path in (repository / "configs" / "broker").iterdir()}
    assert there == set(SHIPPED)
    for name in there:
        assert f"`{name}`" in document


def test_every_link_leads_somewhere(document: str, repository: Path) -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^##+ (.*)$", document, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", document):
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (repository / "docs" / target).exists(), target


# The numbers


MASKED = Masked(
    ring=32,
    ephemeral=DIGEST,
    commitments=(DIGEST,) * 3,
    boxes=(bytes(BOX_BYTES),) * 3,
)


def content(size: int) -> Content:
    """A content in chunks of the default size."""
    return Content(
        digest=DIGEST, size=size, chunk_bytes=120_000, chunks=(DIGEST,) * -(-size // 120_000)
    )


def counts(largest: int) -> tuple[int, ...]:
    """A histogram of some thousand rows."""
    return tuple(number % largest for number in range(256))


def size(message: Message, signer: str) -> int:
    """Bytes of an envelope."""
    key = PrivateKey(bytes([1] * 32))
    return len(seal(message, federation="my-federation", signer=signer, counter=1 << 40, key=key))


def sizes() -> dict[str, int]:
    """Typical messages of the example."""
    incarnation, weights = "0" * 16, VersionRef(version=1000, content=content(400_500))
    receipt = Receipt(incarnation=incarnation, sequence=1000, status="committed", digest=DIGEST)
    judged = Evaluation(digest=DIGEST, positives=counts(3), negatives=counts(60))
    header = UpdateHeader(
        agent="press-1",
        incarnation=incarnation,
        sequence=1000,
        lineage=1,
        base_version=1000,
        base_digest=DIGEST,
        examples=5000,
        weight=5000,
        scale=0.001,
        bits=8,
        content=content(100_000),
    )
    state = AgentState(
        status="online",
        incarnation=incarnation,
        session=1000,
        credential=bytes(175),
        software="journeyman-agent 0.1.0",
        produced=1000,
    )
    ask = Readiness(base_version=1000, examples=5000, loss=0.12, uplink_s=3.1, temperature_c=48.0)
    shares = tuple((1000 + number) / 8192 for number in range(NOVELTY_BINS))
    delta = Delta(base=DIGEST, target=DIGEST, content=content(264_000))
    heads = [
        Head(
            sequence=1000,
            lineage=1,
            bundle=content(500_000),
            train=weights,
            candidate=weights,
            serve=weights,
            policy=Policy(),
            deltas=(delta,) * number,
        )
        for number in (0, 4)
    ]
    masked = structs.replace(header, masked=MASKED)
    member = ManifestMember(report=DIGEST, coefficient=3)
    few, many = (
        Manifest(number=1, epoch=1, count=100_000, ring=32, bits=8, members=(member,) * number)
        for number in (1, 101)
    )
    verdict = Verdict(report=DIGEST, accepted=True)
    promise = Endorsement(manifest=DIGEST, accepted=True, number=1000)
    return {
        "masked header": size(masked, "press-1"),
        "manifest": size(few, "coordinator"),
        "manifest of 101": size(many, "coordinator"),
        "endorsement": size(promise, "notary"),
        "verdict": size(Verdicts(items=(verdict,) * 2), "notary")
        - size(Verdicts(items=(verdict,)), "notary"),
        "birth": size(state, "press-1"),
        "header": size(header, "press-1"),
        "one receipt": size(Receipts(items=(receipt,)), "coordinator"),
        "ten receipts": size(Receipts(items=(receipt,) * 10), "coordinator"),
        "one judged": size(Report(head=1000, evaluations=(judged,)), "press-1"),
        "three judged": size(Report(head=1000, evaluations=(judged,) * 3), "press-1"),
        "ask": size(ask, "press-1"),
        "ask with a histogram": size(structs.replace(ask, novelty=shares), "press-1"),
        "grant": size(Grant(number=(5 << 32) + 7, base_version=1000), "coordinator"),
        "small head": size(heads[0], "coordinator"),
        "large head": size(heads[1], "coordinator"),
        "coordinator's state": size(CoordinatorState(status="online", session=3), "coordinator"),
    }


def test_the_sizes_of_messages_are_those_of_the_table(document: str) -> None:
    table, found = section(document, "Traffic"), sizes()
    assert "| birth, will | 390 |" in table
    assert found["birth"] == pytest.approx(390, rel=0.1)
    assert "| update: header | 440, or 880 with masks, and 34" in table
    assert found["header"] == pytest.approx(440, rel=0.1)
    assert found["masked header"] == pytest.approx(880, rel=0.1)
    assert "| receipts | 130, and 120 for each receipt |" in table
    each = (found["ten receipts"] - found["one receipt"]) / 9
    assert each == pytest.approx(120, rel=0.15)
    assert found["one receipt"] - each == pytest.approx(130, rel=0.15)
    assert "| report | 770 with one model judged, 620 for each other |" in table
    assert found["one judged"] == pytest.approx(770, rel=0.05)
    assert found["three judged"] == pytest.approx(1900, rel=0.1)
    assert "| ask | 210, and 580 for the histogram in every sixth |" in table
    assert found["ask"] == pytest.approx(210, rel=0.1)
    assert found["ask with a histogram"] - found["ask"] == pytest.approx(580, rel=0.1)
    assert "| grant | 130 |" in table
    assert found["grant"] == pytest.approx(130, rel=0.1)
    overhead = 24 + 75  # as the page says
    assert found["ask"] + 580 / 6 + overhead == pytest.approx(410, rel=0.05)
    assert "| head | 1,600 to 2,650 |" in table
    assert found["small head"] == pytest.approx(1600, rel=0.1)
    assert found["large head"] == pytest.approx(2650, rel=0.1)


def test_the_sizes_of_what_helpers_hear_and_say_are_those_of_the_table(document: str) -> None:
    table, found = section(document, "Traffic"), sizes()
    assert "its credential; its verdict | 880, 180; 68 |" in table
    assert found["verdict"] == pytest.approx(68, rel=0.1)
    assert "manifest; its endorsement | 300 and 37 a member; 180 |" in table
    each = (found["manifest of 101"] - found["manifest"]) / 100
    assert each == pytest.approx(37, rel=0.1)
    assert found["manifest"] - each == pytest.approx(300, rel=0.1)
    assert found["endorsement"] == pytest.approx(180, rel=0.1)


def test_the_sizes_of_renewals_are_those_of_the_table(document: str, tmp_path: Path) -> None:
    make_federation(tmp_path, "my-federation")
    make_authority(tmp_path, "my-federation")
    make_agent(tmp_path, "my-federation", "press-1", "plant-a")
    enroller, tls_key = read_enroller(tmp_path), new_key()
    envelope = (tmp_path / "press-1.credential").read_bytes()
    question = Renewal(credential=envelope, signing_request=signing_request(tls_key, "press-1"))
    public_key, now = tls_key.public_key(), datetime.now(UTC)
    certificate = client_certificate(enroller.ca, "press-1", public_key, now, days=397)
    asked = Asked(read_credential(envelope, enroller.trust), public_key, 1 << 40)
    table = section(document, "Traffic")
    assert "| question for a newer certificate, its answer | 510, 1,230 |" in table
    assert size(question, "press-1") == pytest.approx(510, rel=0.05)
    assert len(make_renewed(enroller, asked, certificate)) == pytest.approx(1230, rel=0.05)
    lists = [
        len(sign_revoked(enroller, 1, [(f"press-{at}", 1) for at in range(number)]))
        for number in (0, 10)
    ]
    assert "| list of revoked credentials | 110, and 23 an agent |" in table
    assert lists[0] == pytest.approx(110, rel=0.05)
    assert (lists[1] - lists[0]) / 10 == pytest.approx(23, rel=0.05)


def test_the_example_adds_up(document: str) -> None:
    agents, parameters, updates, versions = 300, 100_000, 24, 72
    candidates = versions / 5
    rows = {
        "updates": updates * (parameters + 500),
        "headers again": updates * 30 * 480,
        "reports": versions * 1900,
        "asks": updates * 60 * 410,
        "keep-alive": 86_400 / 20 * 204,
        "**models down**": (versions + candidates) * 4 * parameters,
        "models down": (0.66 * versions + candidates) * 4 * parameters,
        "receipts": updates * 33 * 350 + versions * 2200,
    }
    assert agents * updates == 7200
    assert agents * updates / 100 == versions
    table = section(document, "Traffic").partition("### An example")[2]
    for name, bytes_a_day in rows.items():
        line = next(row for row in table.splitlines() if row.startswith(f"| {name}"))
        *_, one, fleet, _ = (cell.strip() for cell in line.split("|"))
        for shown, exact in ((one, bytes_a_day), (fleet, agents * bytes_a_day)):
            number, unit = shown.split()
            value = float(number) * {"MB": 1e6, "GB": 1e9}[unit]
            assert value == pytest.approx(exact, rel=0.02, abs=0.05e6), line


def test_the_retained_budget_adds_up(document: str) -> None:
    text, model = section(document, "What is retained"), 4 * 100_000
    contents, deltas = 3 * model, 4 * 0.9 * model
    together = 0.5 + (contents + deltas) / 1e6
    assert f"0.5 + {contents / 1e6:.1f} + {deltas / 1e6:.1f} = {together:.1f} MB" in text
    assert sizes()["small head"] + sizes()["coordinator's state"] < 2500


def test_the_limits_are_those_of_the_file(document: str, repository: Path) -> None:
    text = section(document, "Limits and queues")
    settings = (repository / "configs" / "broker" / "mosquitto.conf").read_text()
    for name, shown in (
        ("max_packet_size 2098176", "2,098,176 B"),
        ("max_inflight_messages 100", "| 100 |"),
        ("max_queued_messages 10000", "10,000 and"),
        (f"max_queued_bytes {512 << 20}", "512 MiB"),
        ("max_connections 1000", "1,000"),
        ("max_keepalive 600", "600 s"),
    ):
        assert f"\n{name}\n" in settings
        assert f"`{name.split()[0]}`" in text
        assert shown in text
