"""Debian trees of any architecture to install a package into, and a way to run programs in them.

Trees of another architecture are unpacked but not set up (`debootstrap --foreign`), and their
programs are run by qemu's user emulation, which is called by name: nothing is registered with the
kernel, so a program in such a tree cannot start another one.
"""

import fcntl
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

SUITES: Final = {"deb12": "bookworm", "deb13": "trixie"}
PYTHONS: Final = {"deb12": "python3.11", "deb13": "python3.13"}
EMULATORS: Final = {"arm64": "qemu-aarch64-static"}
PROCESSOR: Final = "cortex-a72"
"""A Raspberry Pi 4's.  qemu's own choice has all extensions, SVE too, which no gateway has; with it
qemu 7.2 and the package of Debian 13 gave NaN on the numpy backend."""


@dataclass(frozen=True)
class Tree:
    """A Debian with the package in it.

    Attributes:
      root: its folder.
      release: `deb12` or `deb13`.
      architecture: Debian's word for it.
    """

    root: Path
    release: str
    architecture: str

    def run(self, program: str, *arguments: str, timeout_s: float = 600) -> str:
        """Run one of its programs as root in it; returns what it printed.

        /proc, /sys and /dev are there as on a real machine, in mounts that end with the program.
        """
        emulator = EMULATORS.get(self.architecture, "")
        command = " ".join(
            [
                f"mount -t proc proc {self.root}/proc;",
                f"mount -t sysfs sysfs {self.root}/sys;",
                f"mount --rbind /dev {self.root}/dev;",
                f'exec chroot {self.root} {f"/usr/bin/{emulator}" if emulator else ""} "$@"',
            ]
        )
        isolated = ["unshare", "--mount", "--propagation", "private"]
        done = subprocess.run(
            [*isolated, "sh", "-euc", command, "sh", program, *arguments],
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG": "C.UTF-8",
                "HOME": "/root",
                "QEMU_CPU": PROCESSOR,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{program} {arguments}: {done.stdout[-6000:]}"
        return done.stdout


def with_package(build: Path, work: Path, package: Path, release: str, architecture: str) -> Tree:
    """Make a tree and install a package in it.

    Args:
      build: where trees are kept between runs; each is made once.
      work: where the new tree goes, a copy of the kept one.
      package: a .deb of that release and architecture.
      release: `deb12` or `deb13`.
      architecture: `amd64` (this machine's own) or `arm64`.
    """
    foreign = architecture in EMULATORS
    root = work / f"{release}-{architecture}"
    subprocess.run(
        ["cp", "-a", "--reflink=auto", str(_base(build, release, architecture)), str(root)],
        check=True,
    )
    tree = Tree(root, release, architecture)
    if foreign:
        _unpack(package, root)
    else:
        shutil.copy(package, root / "package.deb")
        tree.run("dpkg", "--install", "/package.deb")
    return tree


def _base(build: Path, release: str, architecture: str) -> Path:
    build.mkdir(parents=True, exist_ok=True)
    tree = build / f"{release}-{architecture}"
    with (build / "trees.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            unfinished = build / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            _bootstrap(unfinished, release, architecture)
            unfinished.rename(tree)
    return tree


def _bootstrap(root: Path, release: str, architecture: str) -> None:
    foreign = architecture in EMULATORS
    include = f"{PYTHONS[release]},libstdc++6,zlib1g"
    command = [
        *("debootstrap", f"--arch={architecture}", "--variant=minbase"),
        *(["--foreign", f"--include={include}"] if foreign else [f"--include={include},systemd"]),
        *(SUITES[release], str(root)),
    ]
    mirror = os.environ.get("JOURNEYMAN_TEST_MIRROR", _mirror())
    log = root.with_suffix(".log")
    with log.open("w") as output:
        done = subprocess.run(
            command + ([mirror] if mirror else []),
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=900,
            check=False,
        )
    assert done.returncode == 0, log.read_text(errors="replace")[-3000:]
    if foreign:
        archives = root / "var/cache/apt/archives"
        for archive in archives.glob("*.deb"):
            _unpack(archive, root)
        shutil.rmtree(archives)
        shutil.copy(emulator_of(architecture), root / "usr/bin")


def _mirror() -> str:
    """Where this machine's apt has Debian from, any suite; empty where it has another system's."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Origin: Debian"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for line in found.splitlines():
        uri, _, release = line.partition(" ")
        if release in SUITES.values():  # not the security archive, which has updates only
            return uri
    return ""


def emulator_of(architecture: str) -> str:
    """Path of qemu's user emulation, linked statically so that it runs in any tree."""
    return shutil.which(EMULATORS[architecture]) or pytest.fail(
        f"{EMULATORS[architecture]} is missing: apt install qemu-user-static", pytrace=False
    )


def _unpack(package: Path, root: Path) -> None:
    """Unpack without running anything; /lib and /bin are links and have to stay links."""
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE
    ) as unpacker:
        subprocess.run(
            ["tar", "--extract", "--keep-directory-symlink", "--directory", str(root)],
            stdin=unpacker.stdout,
            check=True,
        )
    assert unpacker.returncode == 0, package


def need_root(*programs: str) -> None:
    """Fail, never skip, where these checks cannot run."""
    if os.geteuid() != 0:
        pytest.fail("this check needs root", pytrace=False)
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.fail(f"missing: apt install {' '.join(missing)}", pytrace=False)
