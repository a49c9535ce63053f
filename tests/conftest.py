"""Programs that only tests use, by name; a missing one skips its tests with the reason."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

# Machines are shared and noisy: how long an example takes says nothing about the code.
settings.register_profile("untimed", deadline=None)
# A failure that is looked at again (tests/suite.sh) draws new examples: the one that failed stands
# in the first run's output, and may be one in a million of a bound that is a little too tight.
settings.register_profile("again", deadline=None, database=None)
settings.load_profile("again" if os.environ.get("JOURNEYMAN_TESTS_AGAIN") else "untimed")

ROOT = Path(__file__).resolve().parent.parent


def _program(name: str) -> str:
    # Brokers live in /usr/sbin, which is not on an ordinary user's PATH on Debian.
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed: run tests/install.sh .venv/bin/python as root")
    return path


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def mosquitto_program() -> str:
    """Path of a real mosquitto broker; start it with a configuration of the test's own."""
    return _program("mosquitto")


@pytest.fixture(scope="session")
def systemd_analyze_program() -> str:
    """Path of systemd-analyze, which works without a running systemd."""
    return _program("systemd-analyze")


@pytest.fixture(scope="session")
def node_program() -> str:
    """Path of node, for tests/node_opcua."""
    return _program("node")
