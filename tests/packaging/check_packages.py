"""`make check-deb`: what is in the packages of `make deb`, each of them; nothing is installed.

Not in the ordinary suite, because building takes minutes.
"""

import base64
import configparser
import hashlib
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.built import package_of, targets

PYTHONS = {"deb12": "3.11", "deb13": "3.13"}
MACHINES = {"amd64": 0x3E, "arm64": 0xB7}
"""e_machine of the ELF header."""
ROOTS = (
    *("etc/journeyman/", "opt/journeyman/", "usr/bin/journeyman"),
    *("usr/lib/systemd/system/", "usr/lib/sysusers.d/journeyman.conf"),
    *("usr/lib/tmpfiles.d/journeyman.conf", "usr/lib/udev/rules.d/", "usr/share/doc/journeyman/"),
)
CONFFILES = {
    *("/etc/journeyman/README", "/etc/journeyman/agent.toml.example"),
    *("/etc/journeyman/coordinator.toml.example", "/etc/journeyman/bridge.toml.example"),
    "/etc/journeyman/helper.toml.example",
}
PROGRAMS = {
    *("journeyman", "journeyman-agent", "journeyman-coordinator", "journeyman-helper"),
    "journeyman-bridge",
}
pytestmark = pytest.mark.timeout(600)


class Package:
    """A package, unpacked.

    Attributes:
      file: the .deb.
      root: its files; `root / "DEBIAN"` is its control part.
    """

    def __init__(self, file: Path, root: Path, target: str) -> None:
        self.file, self.root = file, root
        self.release, self.architecture = target.split("-")
        self.python = PYTHONS[self.release]

    def files(self) -> list[Path]:
        """Every file and link, without the control part."""
        control = self.root / "DEBIAN"
        return [
            path
            for path in self.root.rglob("*")
            if (path.is_symlink() or not path.is_dir()) and not path.is_relative_to(control)
        ]

    def text(self, path: str) -> str:
        """A file's content."""
        return (self.root / path).read_text()


@pytest.fixture(scope="session", params=targets())
def package(
    request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Package:
    file = package_of(repository, request.param)
    root = tmp_path_factory.mktemp("package") / "root"
    subprocess.run(["dpkg-deb", "--raw-extract", str(file), str(root)], check=True)
    return Package(file, root, request.param)


def test_every_file_lies_where_packages_may_put_files(package: Package) -> None:
    names = [str(path.relative_to(package.root)) for path in package.files()]
    assert [name for name in names if not name.startswith(ROOTS)] == []
    units = [name for name in names if name.startswith("usr/lib/systemd/")]
    assert all("journeyman" in name for name in units)


def test_everything_is_root_s_and_for_nobody_else_to_write(package: Package) -> None:
    listing = subprocess.run(
        ["dpkg-deb", "--contents", str(package.file)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    owners = {line.split()[1] for line in listing}
    modes = {line.split()[0] for line in listing}
    assert owners == {"root/root"}
    assert modes == {"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x", "lrwxrwxrwx"}
    programs = [
        path
        for path in package.files()
        if not path.is_symlink() and path.stat().st_mode & stat.S_IXUSR
    ]
    assert {path.parent for path in programs} == {package.root / "opt/journeyman/bin"}


def test_only_examples_are_conffiles_and_nothing_in_etc_starts_anything(package: Package) -> None:
    assert set(package.text("DEBIAN/conffiles").split()) == CONFFILES
    in_etc = {path for path in package.files() if path.is_relative_to(package.root / "etc")}
    assert {f"/{path.relative_to(package.root)}" for path in in_etc} == CONFFILES
    assert list(package.root.glob("usr/lib/systemd/system/*.wants")) == []


def test_programs_run_by_the_package_s_python_and_that_one_by_debian_s(package: Package) -> None:
    bin_ = package.root / "opt/journeyman/bin"
    scripts = [path for path in bin_.iterdir() if not path.is_symlink()]
    assert {path.name for path in scripts} == PROGRAMS
    assert {path.read_text().split("\n")[0] for path in scripts} == {"#!/opt/journeyman/bin/python"}
    assert (bin_ / "python").readlink() == Path(f"/usr/bin/python{package.python}")
    assert f"version = {package.python}" in package.text("opt/journeyman/pyvenv.cfg")
    assert {path.name for path in (package.root / "usr/bin").iterdir()} == PROGRAMS
    for path in (package.root / "usr/bin").iterdir():
        assert path.readlink() == Path(f"/opt/journeyman/bin/{path.name}")
        assert (bin_ / path.name).is_file()


def test_what_units_start_and_name_as_documentation_is_there(package: Package) -> None:
    units = list((package.root / "usr/lib/systemd/system").glob("*journeyman*"))
    text = "\n".join(path.read_text() for path in units if path.is_file())
    named = re.findall(
        r"^(?:Documentation=file:|ExecStart=)(/opt/journeyman/\S+)", text, re.MULTILINE
    )
    assert len(named) >= 8
    assert [path for path in set(named) if not (package.root / path[1:]).exists()] == []


def test_nothing_names_the_machine_that_built_it(package: Package, repository: Path) -> None:
    # What compilers of wheels left in binaries is theirs; ours is text, bytecode and records.
    needles = [str(repository).encode(), b"/root/.pyenv", sys.prefix.encode(), b"/tmp/tmp."]
    ours = [path for path in package.files() if not path.is_symlink() and ".so" not in path.name]
    named = [
        str(path.relative_to(package.root))
        for path in ours
        if any(needle in path.read_bytes() for needle in needles)
    ]
    assert named == []
    assert list(package.root.rglob("direct_url.json")) == []


def test_every_binary_is_for_the_package_s_machine(package: Package) -> None:
    binaries = [path for path in package.files() if ".so" in path.name and not path.is_symlink()]
    machines = {
        int.from_bytes(head[18:20], "little")
        for head in (path.read_bytes()[:20] for path in binaries)
        if head.startswith(b"\x7fELF")
    }
    assert len(binaries) > 20
    assert machines == {MACHINES[package.architecture]}


def test_it_contains_exactly_what_the_lock_says(package: Package, repository: Path) -> None:
    lock = (repository / "packaging/runtime.lock").read_text()
    locked = {
        f"{name.lower().replace('-', '_')}-{version}"
        for name, version in re.findall(r"^([a-zA-Z0-9-]+)==(\S+)", lock, re.MULTILINE)
    }
    site = package.root / f"opt/journeyman/lib/python{package.python}/site-packages"
    installed = {path.name.removesuffix(".dist-info") for path in site.glob("*.dist-info")}
    ours = {name for name in installed if name.startswith("journeyman-")}
    assert len(ours) == 1
    assert installed - ours <= locked
    assert {name.split("-")[0] for name in installed - ours} >= {
        *("numpy", "onnxruntime", "asyncua", "msgspec", "starlette", "uvicorn", "cryptography"),
    }


def test_every_file_of_a_library_is_unchanged_and_present(package: Package) -> None:
    site = package.root / f"opt/journeyman/lib/python{package.python}/site-packages"
    wrong = []
    for record in site.glob("*.dist-info/RECORD"):
        for line in record.read_text().splitlines():
            name, digest, _ = line.rsplit(",", 2)
            if not digest:
                continue
            data = (site / name).read_bytes() if (site / name).is_file() else b""
            wanted = digest.removeprefix("sha256=")
            if _urlsafe(hashlib.sha256(data).digest()) != wanted:
                wrong.append(name)
    assert wrong == []


def _urlsafe(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def test_sources_are_compiled_here_or_when_installed(package: Package) -> None:
    compiled = list(package.root.rglob("*.pyc"))
    at_installation = "COMPILE=yes" in package.text("DEBIAN/postinst")
    assert bool(compiled) != at_installation
    if compiled:
        sources = list((package.root / "opt/journeyman/lib").rglob("*.py"))
        assert len(compiled) == len(sources)


def test_the_control_file_says_what_it_needs_and_what_it_takes(package: Package) -> None:
    control = configparser.ConfigParser(delimiters=":", interpolation=None)
    control.read_string("[package]\n" + package.text("DEBIAN/control"))
    fields = control["package"]
    assert fields["architecture"] == package.architecture
    assert fields["version"].endswith(f"+{package.release}")
    assert f"python{package.python} (>=" in fields["depends"]
    sizes = [path.lstat().st_size for path in package.files()]
    assert sum(sizes) / 1024 < int(fields["installed-size"]) < sum(sizes) / 1024 + 2 * len(sizes)
    for script in ("preinst", "postinst", "prerm", "postrm"):
        path = package.root / "DEBIAN" / script
        assert path.stat().st_mode & 0o777 == 0o755
        assert not re.search(r"@[A-Za-z]+@", path.read_text()), script
        subprocess.run(["sh", "-n", str(path)], check=True)


def test_purging_knows_every_user_and_group_that_installing_makes(package: Package) -> None:
    made = package.text("usr/lib/sysusers.d/journeyman.conf")
    purged = package.text("DEBIAN/postrm")
    for kind, name in (("u", "USERS"), ("g", "OTHER_GROUPS")):
        wanted = re.findall(rf"^{kind} (\S+)", made, re.MULTILINE)
        assert wanted
        assert re.findall(rf'^{name}="(.*)"$', purged, re.MULTILINE) == [" ".join(wanted)]


def test_the_same_sources_give_the_same_bytes(repository: Path, tmp_path: Path) -> None:
    built = []
    for attempt in ("one", "two"):
        environment = os.environ | {
            "OUT": str(tmp_path / attempt),
            "COMPRESS": "-Znone",
            "PYTHON": sys.executable,
        }
        command = [str(repository / "packaging/build-deb"), "deb12-arm64"]
        subprocess.run(command, env=environment, check=True)
        (package,) = (tmp_path / attempt).glob("*.deb")
        built.append(hashlib.sha256(package.read_bytes()).hexdigest())
    assert built[0] == built[1]
