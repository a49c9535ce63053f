"""Serial ports: there, a port, allowed, and named so that the next start finds the same adapter."""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.doctor.finding import Finding, ok, problem, warning

BY_ID = Path("/dev/serial/by-id")


@dataclass(frozen=True)
class PortFacts:
    """What is known about a configured port.

    Attributes:
      device: as the configuration has it.
      error: why it can not be looked at; empty when it can.
      is_character_device: a port is one.
      may_use: whether this user, not being root, may read and write it; None: root may all.
      owner: of the device, `root:dialout 0660`.
      group: its group.
      by_id: name under /dev/serial/by-id that leads to it; empty when there is none.
      others: all names there, when the device is missing.
    """

    device: str
    error: str = ""
    is_character_device: bool = False
    may_use: bool | None = None
    owner: str = ""
    group: str = ""
    by_id: str = ""
    others: tuple[str, ...] = ()


def judge_port(facts: PortFacts) -> Iterator[Finding]:
    """Whether the agent can use a port, and will after the next start."""
    check = "serial port"
    if facts.error:
        there = ", ".join(facts.others) or "no adapter at all"
        yield problem(
            check, f"{facts.device}: {facts.error}", f"plugged in? Under {BY_ID} there is: {there}"
        )
        return
    if not facts.is_character_device:
        yield problem(check, f"{facts.device} is no serial port", "give the path of a port")
        return
    if facts.may_use is False:
        yield problem(
            check,
            f"{facts.device} may not be used: {facts.owner}",
            f"add the agent to group {facts.group}: SupplementaryGroups={facts.group} in its unit "
            f"(systemd/README.md), or usermod -aG {facts.group} USER",
        )
    elif facts.may_use is None:
        yield ok(
            check,
            f"{facts.device}: {facts.owner}",
            f"the agent's unit needs SupplementaryGroups={facts.group} (systemd/README.md)",
        )
    else:
        yield ok(check, f"{facts.device}: {facts.owner}, may be used")
    if facts.by_id and facts.device != facts.by_id:
        yield warning(
            check,
            f"{facts.device} may be another adapter after the next start",
            f'device = "{facts.by_id}" names this one for ever',
        )


def read_port(device: str, by_id: Path = BY_ID) -> PortFacts:
    """Ask for the facts about a port, which is not opened.

    Args:
      device: path.
      by_id: where udev makes names that stay.
    """
    names = _names(by_id)
    path = Path(device)
    try:
        found = path.stat()
    except OSError as error:
        return PortFacts(device, error.strerror or str(error), others=tuple(names))
    real = path.resolve()
    stable = next((name for name in names if Path(name).resolve() == real), "")
    is_own_name = path.parent == by_id or not path.is_symlink()
    mode = stat.S_IMODE(found.st_mode)
    group = _group(found.st_gid)
    may_use = os.access(
        path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids
    )
    return PortFacts(
        device,
        is_character_device=stat.S_ISCHR(found.st_mode),
        may_use=None if os.geteuid() == 0 else may_use,
        owner=f"{_user(found.st_uid)}:{group} {mode:04o}",
        group=group,
        by_id=stable if is_own_name else "",
    )


def _names(by_id: Path) -> list[str]:
    try:
        return sorted(str(path) for path in by_id.iterdir())[:50]
    except OSError:
        return []


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
