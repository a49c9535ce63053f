"""docs/install-gateway.md, typed word by word into a Debian that has never heard of Journeyman."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.boot import gateway
from tests.boot.machine import Machine
from tests.boot.packages import newer
from tests.boot.typed_document import (
    AT_AUTHORITY,
    Step,
    commands,
    edited_lines,
    is_like,
    steps,
    unmarked,
)

DOCUMENT: Final = Path(__file__).parents[2] / "docs/install-gateway.md"
STEPS: Final = steps(DOCUMENT.read_text())
MAIN_PATH: Final = tuple(f"{number}. " for number in range(1, 6))
NOT_RUN: Final = "Jetson"
NAMES: Final = ("authority", "broker", "milling", "mqtt.plant")
"""The document's machines, `NAME.example`, which are all this one."""
ENOUGH_S: Final = 600.0
SERVICE: Final = "enrolment-service"
CARRIED: Final = "--token /root/gateway-1.token"
ENROL: Final = "journeyman-agent enrol"
WRONG: Final = "wrong.toml; journeyman-agent"
FAILURES: Final = {
    "others can read an enrolment token": (
        f"chmod 644 /root/gateway-1.token; {ENROL} {CARRIED}"
        " --from http://authority.example:8460 --dir /root/other;"
        " chmod 600 /root/gateway-1.token"
    ),
    "no answer: [Errno 111] Connection refused": (
        f"{ENROL} {CARRIED} --from http://authority.example:8461 --dir /root/other"
    ),
    "no answer: [Errno -3] Temporary failure in name resolution": (
        f"{ENROL} {CARRIED} --from http://authority.exampel:8460 --dir /root/other"
    ),
    "was used by another request": (
        f"{ENROL} {CARRIED} --from http://authority.example:8460 --dir /root/other"
    ),
    "Connect call failed": "journeyman-agent browse opc.tcp://milling.example:4849 --toml",
    "can not read the private key": (
        "env --unset CREDENTIALS_DIRECTORY journeyman-agent check agent.toml"
    ),
    "is not one of the channels": (
        f"sed '/^trigger/s/_//' agent.toml >{WRONG} check wrong.toml; rm wrong.toml"
    ),
    "BadNodeIdUnknown": (
        f"sed 's/s=Torque/s=Torke/' agent.toml >{WRONG} test --seconds 3 wrong.toml; rm wrong.toml"
    ),
    "status=243/CREDENTIALS": (
        "mv agent.key elsewhere; systemctl restart journeyman-agent;"
        " systemctl status --no-pager journeyman-agent;"
        " mv elsewhere agent.key; systemctl start journeyman-agent"
    ),
}
"""What brings about each failure that the document explains."""


def test_who_follows_the_document_has_live_scores(
    clean_machine: Machine, package: Path, place: Path
) -> None:
    machine = clean_machine
    machine.run(f"echo 127.0.0.1 {' '.join(f'{name}.example' for name in NAMES)} >>/etc/hosts")
    shutil.copy(package, machine.root / "root")
    reader = Reader(machine)
    reader.follow("1. ")
    _open_the_office(machine)
    for section in MAIN_PATH[1:]:
        reader.follow(section)
    _assert_live_scores(machine)
    machine.run("systemd-run --quiet --unit=plant-broker mosquitto -p 1883")
    reader.follow("Scores to ")
    reader.follow("Other machines")
    assert machine.state("journeyman-agent@paint") == "active"
    for message, command in FAILURES.items():
        assert message in reader.type(command, check=False), message
    machine.wait_active(gateway.AGENT)
    (machine.root / "root/newer").mkdir()
    shutil.copy(newer(package, place, "9.1"), machine.root / "root/newer")
    upgrade, remove, purge = (step for step in STEPS if step.section.startswith("Upgrade"))
    reader.do(upgrade)
    machine.wait_active(gateway.AGENT, "journeyman-agent@paint")
    _assert_live_scores(machine)
    reader.do(remove)
    assert machine.state(gateway.AGENT) == "inactive"
    kept = [machine.root / "etc/journeyman/agent.toml", machine.root / gateway.AGENT_STATE]
    assert all(path.exists() for path in kept)
    reader.do(purge)
    assert not any(path.exists() for path in kept)


def test_the_document_counts_its_commands_and_edited_lines() -> None:
    main = [step for step in STEPS if step.section.startswith(MAIN_PATH)]
    here = [step for step in main if not step.typed.startswith(AT_AUTHORITY)]
    words = {8: "eight", 17: "seventeen"}
    typed = words[sum(len(commands(step)) for step in here)]
    edited = words[sum(len(edited_lines(step.edited)) for step in here)]
    said = f"**{typed} commands and {edited} edited lines**"
    assert said in DOCUMENT.read_text().replace("\n", " ")


def test_every_failure_that_is_explained_is_brought_about() -> None:
    table = DOCUMENT.read_text().partition("## When a step fails")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE) == list(FAILURES)


def test_what_is_not_run_is_said_to_be_untested() -> None:
    text = DOCUMENT.read_text().partition(f"\n## {NOT_RUN}\n")[2]
    assert "**What was not:**" in text
    run = (*MAIN_PATH, "Scores to ", "Other machines", "Upgrade")
    assert all(step.section.startswith(run) or step.section == NOT_RUN for step in STEPS)


def test_every_link_leads_somewhere() -> None:
    text = DOCUMENT.read_text()
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^## (.*)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (DOCUMENT.parent / target.partition("#")[0]).exists(), target


def test_every_example_that_is_named_is_in_the_package(repository: Path) -> None:
    named = re.findall(r"/opt/journeyman/share/([\w./-]+\.(?:toml|conf))", DOCUMENT.read_text())
    assert len(named) >= 5
    assert all((repository / name).is_file() for name in named)


@pytest.mark.parametrize(
    ("printed", "shown", "expected"),
    [
        ("score  0.5", "score 1e-05", True),
        ("score  None", "score 0.5", False),
        ("a\nb\nc", "a\n...\nc", True),
        ("a\nb\nc", "a\nc", False),
        ("a\nb", "...\na", False),
        ("a\nb", "b\n...", False),
        ("state   online", "state ...line", True),
    ],
)
def test_an_output_is_compared_word_by_word(printed: str, shown: str, *, expected: bool) -> None:
    assert is_like(printed, shown) is expected


class Reader:
    """Types what the document says, in one terminal of the gateway."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._terminal = ["cd /root"]
        """What was typed that the terminal keeps: where it is, and variables."""

    def follow(self, section: str) -> None:
        """Do all steps of a section."""
        chosen = [step for step in STEPS if step.section.startswith(section)]
        assert chosen, section
        for step in chosen:
            self.do(step)

    def do(self, step: Step) -> None:
        """Do a step, and compare what is printed.

        What a service tells of itself, it may tell a moment later.
        """
        if step.edited:
            self._edit(step)
        elif step.printed is None:
            self.type(step.typed)
        elif _only_asks(commands(step)):
            self._ask(step.typed, step.printed)
        else:
            said = self.type(step.typed)
            assert is_like(said, step.printed), f"{step.typed}\nprinted:\n{said}"

    def _ask(self, typed: str, shown: str) -> None:
        """Ask until the answer is what the document shows; tell the last one if it never is."""
        answers = [""]

        def is_there() -> bool:
            answers.append(self.type(typed, check=False))
            return is_like(answers[-1], shown)

        try:
            self._machine.until(is_there, typed)
        except AssertionError as error:
            raise AssertionError(f"{typed}\nprinted at last:\n{answers[-1]}") from error

    def type(self, text: str, *, check: bool = True) -> str:
        """Type lines; returns what stands in the terminal then."""
        if text.startswith(AT_AUTHORITY):
            return self._machine.run(f"cd /root\n{text}")
        if text.startswith("journeyman-agent test "):
            return self._watch(text.strip())
        kept = [line for line in text.splitlines() if line.startswith(("cd ", "export "))]
        before = "\n".join(self._terminal)
        tolerant = "" if check else "set +e\n"
        said = self._machine.run(f"{before}\n{tolerant}{text}", check=check, timeout_s=ENOUGH_S)
        self._terminal += kept
        return said

    def _watch(self, command: str) -> str:
        """Run what draws a table in place, on a terminal; returns what is left of it."""
        wide = f"script --quiet --return --command 'stty cols 120; {command}' /dev/null"
        drawn = self._machine.run("\n".join([*self._terminal, wide]))
        return drawn.replace("\r\n", "\n").rpartition("\x1b[J")[2]

    def _edit(self, step: Step) -> None:
        """Do with a file what the document says: type the lines that are marked."""
        editor, name = step.typed.split()
        assert editor == "nano"
        path = self._machine.root / "etc/journeyman" / name
        before = path.read_text()
        (root,) = re.findall(r'^root = "[0-9a-f]{64}"$', before, re.MULTILINE)
        shown = re.sub(r'^root = ".*"$', root, step.edited, flags=re.MULTILINE)
        typed = edited_lines(shown)
        left = [line for line in shown.splitlines() if line and line not in typed]
        replaced = tuple(line.partition(" = ")[0] + " = " for line in typed if "changed" in line)
        there = [line for line in before.splitlines() if line]
        stays = [line for line in there if not line.startswith((*replaced, "# host and port"))]
        assert is_like("\n".join(stays), "\n".join(left))
        path.write_text(unmarked(shown))


def _only_asks(typed: Sequence[str]) -> bool:
    """Whether commands change nothing and may be given again."""
    asking = ("journeyman-agent status ", "journeyman-agent browse ")
    return all(line.startswith(asking) and ">" not in line for line in typed)


def _open_the_office(machine: Machine) -> None:
    """Make the federation, its broker and its coordinator, and have its authority listen."""
    gateway.found_federation(machine)
    machine.run(
        "cd /root; mv authority/broker.crt authority/broker.crt.old;"
        "journeyman keys broker authority --host localhost --host broker.example;"
        "install -m 644 authority/broker.crt /etc/mosquitto/journeyman/;"
        f"systemctl restart mosquitto; systemctl start {gateway.COORDINATOR};"
        f"systemd-run --quiet --unit={SERVICE} journeyman enrolment serve /root/authority"
        " --listen 0.0.0.0:8460 --broker localhost"
    )
    machine.wait_active(gateway.COORDINATOR, gateway.BROKER)
    machine.until(lambda: "enrolment at" in machine.journal(SERVICE), "the authority listens")


def _assert_live_scores(machine: Machine) -> None:
    """Wait until rows are scored, each once, and then some more."""

    def scored() -> int:
        found = gateway.status(machine)
        return found.scored if found is not None and found.score is not None else 0

    before = scored()
    machine.until(lambda: scored() > before, "products are scored")
