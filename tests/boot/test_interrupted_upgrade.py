"""An upgrade that ends in the middle: a damaged archive, no room, no power."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.boot.gateway import (
    AGENT,
    COORDINATOR,
    PAGE,
    assert_every_update_has_one_outcome,
    wait_for_updates,
)
from tests.boot.machine import CommandError, Machine
from tests.boot.packages import newer

SERVICES: Final = (AGENT, COORDINATOR, PAGE)
STATE: Final = "dpkg-query --show --showformat='${db:Status-Abbrev} ${Version}' journeyman"
TREE: Final = "opt/journeyman"
KEPT: Final = "opt/journeyman.previous/tree"
LEFT_MIB: Final = 60
"""Room for some files of a version, and far from all."""


def test_a_damaged_archive_or_too_little_room_leaves_what_runs_untouched(
    running_gateway: Machine, package: Path, place: Path
) -> None:
    gateway = running_gateway
    before = _condition(gateway)
    cramped = _newer_that_does_not_look_for_room(package, place, "9.4")
    damaged = Path(shutil.copy(cramped, place / "damaged.deb"))
    os.truncate(damaged, damaged.stat().st_size * 2 // 3)

    with pytest.raises(CommandError, match="unexpected end of file"):
        _unpack(gateway, damaged)
    assert _condition(gateway) == before

    for file, reason in ((package, "nothing changed"), (cramped, "No space left")):
        with pytest.raises(CommandError, match=reason):
            _unpack(gateway, file, leaving_mib=LEFT_MIB)
        assert _condition(gateway) == before
    wait_for_updates(gateway, 1)


def test_an_upgrade_that_a_power_cut_ended_is_undone_at_boot_and_can_be_repeated(
    running_gateway: Machine, package: Path, place: Path
) -> None:
    gateway = running_gateway
    before = _files(gateway, TREE)
    shutil.copy(newer(package, place, "9.5"), gateway.root / "var/tmp/9.5.deb")
    gateway.run("systemd-run --unit=upgrade dpkg --install /var/tmp/9.5.deb")
    gateway.until(lambda: _replaced(gateway)[0] > 0, "dpkg has replaced a file")
    gateway.run("systemctl kill --signal=STOP upgrade; sync")
    replaced, files = _replaced(gateway)
    assert 0 < replaced < files
    gateway.cut_power()
    gateway.boot()
    gateway.wait_active(*SERVICES)
    assert _files(gateway, TREE) == before
    assert not (gateway.root / KEPT).exists()
    assert "an upgrade was interrupted" in gateway.journal("undo-journeyman-upgrade")
    # What apt itself asks for after a power cut, and what it says does not matter.
    gateway.run("dpkg --configure -a", check=False)
    gateway.run("apt-get install --yes /var/tmp/9.5.deb")
    assert gateway.run(STATE).split() == ["ii", "9.5"]
    assert "refused" not in gateway.run("ls /opt")
    gateway.wait_active(*SERVICES)
    wait_for_updates(gateway)
    assert_every_update_has_one_outcome(gateway)


def _condition(gateway: Machine) -> tuple[object, ...]:
    """Which version is there, each of its files, what lies beside them, and what runs."""
    beside = sorted(path.name for path in (gateway.root / "opt").iterdir())
    processes = [gateway.main_pid(unit) for unit in SERVICES]
    return gateway.run(STATE), _files(gateway, TREE), beside, processes


def _files(gateway: Machine, tree: str) -> dict[str, int]:
    """Every file in a tree and its inode: dpkg puts others in their place, of equal content too."""
    root = gateway.root / tree
    return {
        str(path.relative_to(root)): path.stat().st_ino
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def _replaced(gateway: Machine) -> tuple[int, int]:
    """Count files of the kept version: those that are others in the tree now, and all of them."""
    kept = _files(gateway, KEPT)
    now = gateway.root / TREE
    return sum((now / name).stat().st_ino != inode for name, inode in kept.items()), len(kept)


def _unpack(gateway: Machine, package: Path, leaving_mib: int = 0) -> None:
    """Install with dpkg alone; where `leaving_mib` is given, only so much of the disk is free."""
    inside = gateway.root / "var/tmp" / package.name
    shutil.copy(package, inside)
    try:
        if leaving_mib:
            gateway.run(
                f"free=$(df --output=avail -B1M / | tail -1);"
                f" fallocate --length $((free - {leaving_mib}))M /filler"
            )
        gateway.run(f"dpkg --install /var/tmp/{package.name}")
    finally:
        inside.unlink()
        gateway.free_disk()


def _newer_that_does_not_look_for_room(package: Path, folder: Path, version: str) -> Path:
    """Make a package of a higher version, whose preinst is content with 1 KiB."""
    tree, made = folder / "cramped", folder / "cramped.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(tree)], check=True)
    for name, pattern, line in (
        ("control", r"^Version: .*$", f"Version: {version}"),
        ("preinst", r"^NEEDED_KIB=.*$", "NEEDED_KIB=1"),
    ):
        file = tree / "DEBIAN" / name
        text, found = re.subn(pattern, line, file.read_text(), flags=re.MULTILINE)
        assert found == 1
        file.write_text(text)
    build = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(made)]
    subprocess.run(build, stdout=subprocess.DEVNULL, check=True)
    shutil.rmtree(tree)
    return made
