"""The package's life on a gateway: installed, upgraded, upgraded to what does not run, removed."""

import re
from pathlib import Path

import pytest

from tests.boot.gateway import (
    AGENT,
    COORDINATOR,
    PAGE,
    assert_every_update_has_one_outcome,
    install,
    wait_for_updates,
)
from tests.boot.machine import CommandError, Machine
from tests.boot.packages import newer

SERVICES = (AGENT, COORDINATOR, PAGE)
VERSION = "dpkg-query --show --showformat='${Version}' journeyman"
STATE = "dpkg-query --show --showformat='${db:Status-Abbrev}' journeyman"


def test_installing_starts_nothing_and_purging_leaves_nothing(
    clean_machine: Machine, package: Path
) -> None:
    machine = clean_machine
    before = _files(machine)
    install(machine, package)
    assert machine.run("journeyman-agent --help").startswith("usage: journeyman-agent")
    assert [machine.state(unit) for unit in SERVICES] == ["inactive"] * 3
    enabled = machine.run(f"systemctl is-enabled {' '.join(SERVICES)}", check=False).split()
    assert enabled == ["disabled"] * 3
    machine.run("apt-get purge --yes journeyman")
    assert _files(machine) - before == set()


def test_an_upgrade_keeps_what_was_configured_and_restarts_what_ran(
    running_gateway: Machine, package: Path, place: Path
) -> None:
    gateway = running_gateway
    configured = _configuration(gateway)
    before = {unit: gateway.main_pid(unit) for unit in SERVICES}
    install(gateway, newer(package, place, "9.1"))
    assert gateway.run(VERSION).strip() == "9.1"
    gateway.wait_active(*SERVICES)
    assert all(gateway.main_pid(unit) != pid for unit, pid in before.items())
    assert _configuration(gateway) == configured
    wait_for_updates(gateway)
    assert_every_update_has_one_outcome(gateway)


def test_a_newer_version_that_does_not_run_is_rolled_back_and_a_good_one_mends_it(
    running_gateway: Machine, package: Path, place: Path
) -> None:
    gateway = running_gateway
    with pytest.raises(CommandError, match="going back to"):
        install(gateway, newer(package, place, "9.2", broken=True))
    gateway.wait_active(*SERVICES)
    wait_for_updates(gateway)
    assert gateway.run("journeyman-agent --help").startswith("usage: journeyman-agent")
    install(gateway, newer(package, place, "9.3"))
    assert gateway.run(STATE).strip() == "ii"
    gateway.wait_active(*SERVICES)
    wait_for_updates(gateway)
    assert_every_update_has_one_outcome(gateway)


def test_removing_keeps_identity_and_updates_and_purging_does_not(
    running_gateway: Machine, package: Path
) -> None:
    gateway = running_gateway
    configured = _configuration(gateway)
    gateway.run("apt-get remove --yes journeyman")
    assert [gateway.state(unit) for unit in SERVICES] == ["inactive"] * 3
    assert not (gateway.root / "opt/journeyman").exists()
    assert _configuration(gateway) == configured
    install(gateway, package)
    gateway.run(f"systemctl enable --now {' '.join(SERVICES)}")
    gateway.wait_active(*SERVICES)
    wait_for_updates(gateway)
    gateway.run("apt-get purge --yes journeyman")
    left = gateway.run(
        "find /etc /var/lib /opt /usr /run -xdev -iname '*journeyman*'"
        " -not -path '/etc/mosquitto/*' -not -path '/var/lib/dpkg/*'"
        " -not -path '/opt/milling/*'"
    )
    assert left == ""


def _files(machine: Machine) -> set[str]:
    """Every file where packages put some, but those of dpkg, apt and the milling machine."""
    found = machine.run("find /etc /opt /usr /var/lib -xdev").splitlines()
    others = re.compile(r"^/(opt/milling|var/lib/(apt|dpkg|systemd))/")
    return {path for path in found if not others.match(path)}


def _configuration(machine: Machine) -> dict[str, bytes]:
    folder = machine.root / "etc/journeyman"
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.suffix != ".example" and path.is_file()
    }
