"""The C library compiles without a warning, is small, and stands many random inputs."""

import shutil

import pytest

from benchmarks.firmware import size
from shopfloor.microcontroller import LIBRARY_SOURCES


@pytest.fixture(autouse=True)
def _tools() -> None:
    for tool in ("make", "gcc", "arm-none-eabi-gcc"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: run tests/install.sh .venv/bin/python as root")


def test_no_compiler_warns_about_library_host_and_example_ports() -> None:
    assert size.count_warnings() == 0


def test_framing_and_slots_fit_into_four_kibibytes_of_a_cortex_m3() -> None:
    measured = size.measure_size()
    assert len(measured.code) == len(LIBRARY_SOURCES)
    assert 2000 < measured.without_sha256 < measured.total <= size.MOST_CODE_BYTES
    assert measured.smallest_ram < 1024 < measured.ram < 4096


def test_random_frames_cuts_and_resets_break_no_rule_under_sanitizers() -> None:
    assert size.fuzz(5_000, seed=7) == 5_000
