"""The Debian that every machine of these tests starts from, made once and kept under build/.

`debootstrap` and nothing else: what is in it is what an administrator has after Debian's installer
and `apt install mosquitto`.  Beside that only a milling machine to read (`milling_machine.cjs`).
Debian comes from where this machine's own apt has it, or from JOURNEYMAN_TEST_MIRROR, or from
debootstrap's default.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

SUITE: Final = "bookworm"
"""Debian 12, Raspberry Pi OS 12: the oldest that the packages support."""
PACKAGES: Final = (
    *("systemd", "systemd-sysv", "dbus", "libnss-systemd", "udev"),
    *("python3", "mosquitto", "mosquitto-clients", "openssl", "ca-certificates"),
    "nodejs",  # the milling machine's
)
_HERE: Final = Path(__file__).resolve().parent
_MACHINE_UNIT: Final = """\
[Unit]
Description=Milling machine, an OPC UA server
[Service]
ExecStart=/usr/bin/node /opt/milling/milling_machine.cjs /opt/milling/node_modules /opt/milling/pki
Restart=always
[Install]
WantedBy=multi-user.target
"""
_MASKED: Final = ("console-getty.service", "apt-daily.timer", "apt-daily-upgrade.timer")
"""There is no console here and no network."""


def debian_tree(build: Path, node_modules: Path) -> Path:
    """Make the tree, or find one that an earlier run made of the same parts.

    Args:
      build: where it is kept.
      node_modules: with node-opcua, as tests/install.sh installs it.
    """
    build.mkdir(parents=True, exist_ok=True)
    machine = _HERE / "milling_machine.cjs"
    parts = [Path(__file__).read_bytes(), machine.read_bytes()]
    parts.append((node_modules.parent / "package-lock.json").read_bytes())
    tree = build / f"tree-{hashlib.sha256(b''.join(parts)).hexdigest()[:12]}"
    with (build / "tree.lock").open("w") as lock:  # two workers want it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            for old in build.glob("tree-*"):
                shutil.rmtree(old)
            unfinished = build / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            _bootstrap(unfinished)
            _add_machine(unfinished, machine, node_modules)
            _settle(unfinished)
            unfinished.rename(tree)
    return tree


def _bootstrap(tree: Path) -> None:
    command = [
        *("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
        *(SUITE, str(tree)),
    ]
    mirror = _mirror()
    with tree.with_suffix(".log").open("w") as log:
        done = subprocess.run(
            command + ([mirror] if mirror else []),
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=900,
            check=False,
        )
    said = tree.with_suffix(".log").read_text(errors="replace")[-3000:]
    assert done.returncode == 0, f"debootstrap failed:\n{said}"


def _mirror() -> str:
    """Where this machine's apt has the suite from; empty when it has another distribution's."""
    if given := os.environ.get("JOURNEYMAN_TEST_MIRROR"):
        return given
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(RELEASE)"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for line in found.splitlines():
        uri, _, what = line.partition(" ")
        if what == f"Debian {SUITE}":
            return uri
    return ""


def _add_machine(tree: Path, machine: Path, node_modules: Path) -> None:
    folder = tree / "opt/milling"
    folder.mkdir(parents=True)
    shutil.copy(machine, folder)
    shutil.copytree(node_modules, folder / "node_modules", symlinks=True)
    (tree / "etc/systemd/system/milling.service").write_text(_MACHINE_UNIT)


def _settle(tree: Path) -> None:
    (tree / "etc/hostname").write_text("gateway\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost gateway\n")
    # No network, so no name server: a question for a name must fail at once.
    (tree / "etc/resolv.conf").write_text("")
    (tree / "var/log/journal").mkdir(exist_ok=True)
    shutil.rmtree(tree / "var/cache/apt/archives", ignore_errors=True)
    for unit in _MASKED:
        (tree / "etc/systemd/system" / unit).symlink_to("/dev/null")
    wanted = tree / "etc/systemd/system/multi-user.target.wants"
    (wanted / "milling.service").symlink_to("/etc/systemd/system/milling.service")
