"""`make check-arm64`, and more: what the packages compute on other Debians and on ARM.

Each package is installed in a Debian of its release.  There every module of every program is
imported, with the libraries, and models are run and trained on both backends (`computed.py`); the
results are compared with those of this checkout on this machine.  ARM is emulated (`debian_trees`).

Not in the ordinary suite: it needs root, a Debian mirror and the packages of `make deb`.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.packaging.built import package_of, targets
from tests.packaging.debian_trees import Tree, need_root, with_package

TARGETS = [target for target in targets() if target != "deb12-amd64"]
"""deb12-amd64 is installed by `make boot`, under a running systemd."""
TOLERANCE = 1e-5
"""Relative, of the Euclidean norm: float32 sums in another order; 3e-7 was measured."""
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="session")
def here(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this checkout computes on this machine."""
    out = tmp_path_factory.mktemp("here") / "here.npz"
    program, models = "tests/packaging/computed.py", "tests/golden/onnx"
    subprocess.run(
        [sys.executable, program, str(out), models],
        cwd=repository,
        env={"PYTHONPATH": str(repository)},
        check=True,
    )
    return out


@pytest.fixture(scope="session", params=TARGETS)
def tree(
    request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Tree:
    """A Debian with the package of `make deb` in it."""
    need_root("debootstrap", "unshare", "dpkg-deb")
    release, architecture = request.param.split("-")
    package = package_of(repository, request.param)
    work = tmp_path_factory.mktemp("trees")
    return with_package(repository / "build/packaging", work, package, release, architecture)


def test_it_computes_what_this_machine_computes(tree: Tree, here: Path, repository: Path) -> None:
    for name in ("tests/packaging/computed.py", "tests/golden/onnx"):
        subprocess.run(["cp", "-r", str(repository / name), str(tree.root / "root")], check=True)
    program = ("/root/computed.py", "/root/there.npz", "/root/onnx")
    print(tree.run("/opt/journeyman/bin/python", *program))
    with np.load(here) as expected, np.load(tree.root / "root/there.npz") as got:
        assert set(got.files) == set(expected.files)
        assert sum("onnxruntime" in name for name in got.files) >= 30
        apart = {}
        for name in expected.files:
            if name.startswith("exact/") or name == "imported":
                assert np.array_equal(got[name], expected[name]), (name, got[name], expected[name])
            else:
                size = max(float(np.linalg.norm(expected[name])), 1e-6)
                apart[name] = float(np.linalg.norm(got[name] - expected[name])) / size
    farthest = max(apart, key=lambda name: apart[name])
    print(f"{len(apart)} results; farthest apart: {farthest}, {apart[farthest]:.2g}")
    assert apart[farthest] < TOLERANCE


def test_every_program_starts(tree: Tree) -> None:
    programs = sorted((tree.root / "usr/bin").glob("journeyman*"))
    assert len(programs) == 5
    for program in programs:
        script = f"/opt/journeyman/bin/{program.name}"
        said = tree.run("/opt/journeyman/bin/python", script, "--help")
        assert said.startswith(f"usage: {program.name}")


def test_it_lives_in_its_own_environment_of_the_release_s_python(tree: Tree) -> None:
    code = "import sys; print(sys.prefix, sys.base_prefix, *sys.version_info[:2], sys.path[-1])"
    prefix, base, major, minor, site = tree.run("/opt/journeyman/bin/python", "-c", code).split()
    assert (prefix, base) == ("/opt/journeyman", "/usr")
    assert f"{major}.{minor}" == {"deb12": "3.11", "deb13": "3.13"}[tree.release]
    assert site == f"/opt/journeyman/lib/python{major}.{minor}/site-packages"
