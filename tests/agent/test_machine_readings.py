"""What the kernel tells about the machine, from trees of files in the shapes of real ones."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.budget import read_machine
from agent.budget.machine import Roots
from agent.budget.readings import Worker

MIB = 1 << 20
PRESSURE = "some avg10=2.47 avg60=1.51 avg300=2.07 total={}\nfull avg10=0.00 avg60=0.00 total=7\n"
MEMINFO = "MemTotal:         927388 kB\nMemFree:           51204 kB\nMemAvailable:     512000 kB\n"
SERVICE = "sys/fs/cgroup/system.slice/journeyman-agent.service"
FIRMWARE = "sys/devices/platform/soc/soc:firmware/get_throttled"

# What a Raspberry Pi 4 with Debian 12 has, as far as it is read.
PI = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "61835",
    "sys/class/hwmon/hwmon0/name": "cpu_thermal",
    "sys/class/hwmon/hwmon1/name": "rpi_volt",
    "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "0",
    "proc/loadavg": "0.86 0.49 1.09 1/105 17416",
    "proc/meminfo": MEMINFO,
    "proc/pressure/cpu": PRESSURE.format(15_253_974),
    "proc/pressure/memory": PRESSURE.format(0),
    "proc/pressure/io": PRESSURE.format(3_745_714),
    "proc/self/cgroup": "0::/system.slice/journeyman-agent.service",
    "sys/fs/cgroup/cgroup.procs": "1",
    "sys/fs/cgroup/system.slice/cgroup.procs": "",
    "sys/fs/cgroup/system.slice/memory.max": "max",
    "sys/fs/cgroup/system.slice/memory.high": "max",
    "sys/fs/cgroup/system.slice/memory.current": f"{400 * MIB}",
    f"{SERVICE}/cgroup.procs": "812",
    f"{SERVICE}/memory.max": f"{256 * MIB}",
    f"{SERVICE}/memory.high": f"{192 * MIB}",
    f"{SERVICE}/memory.current": f"{120 * MIB}",
    f"{SERVICE}/memory.stat": (
        f"anon {60 * MIB}\nfile {50 * MIB}\ninactive_file {30 * MIB}\nactive_file {5 * MIB}\n"
        f"slab_reclaimable {10 * MIB}\nslab_unreclaimable {4 * MIB}\n"
    ),
    f"{SERVICE}/cpu.pressure": PRESSURE.format(2_000_000),
    f"{SERVICE}/memory.pressure": PRESSURE.format(500_000),
    f"{SERVICE}/io.pressure": PRESSURE.format(250_000),
    "proc/900/schedstat": "1500000000 250000000 77",
}


def tree(root: Path, files: dict[str, str]) -> Roots:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return Roots(root / "proc", root / "sys")


def test_a_raspberry_pi_under_systemd_tells_all_of_it(tmp_path: Path) -> None:
    now = read_machine(900, tree(tmp_path, PI))
    assert now.temperature_c == 61.835
    assert now.alarms == ()
    assert now.stalled_s == {
        ("machine", "cpu"): 15.253974,
        ("machine", "memory"): 0.0,
        ("machine", "io"): 3.745714,
        ("service", "cpu"): 2.0,
        ("service", "memory"): 0.5,
        ("service", "io"): 0.25,
    }
    assert now.load == 0.86
    assert now.free_bytes == (192 - (120 - 30 - 5 - 10)) * MIB
    assert now.worker == Worker(900, 1.5, 0.25)
    assert now.cores >= 1
    assert 0 <= now.minute < 1440


def test_a_slice_that_is_full_leaves_nothing_however_little_the_service_takes(
    tmp_path: Path,
) -> None:
    full = PI | {"sys/fs/cgroup/system.slice/memory.max": f"{390 * MIB}"}
    assert read_machine(None, tree(tmp_path, full)).free_bytes == 0


def test_the_machine_may_have_less_than_the_service_may_take(tmp_path: Path) -> None:
    short = PI | {"proc/meminfo": MEMINFO.replace("512000", "20480")}
    assert read_machine(None, tree(tmp_path, short)).free_bytes == 20 * MIB


@pytest.mark.parametrize(
    ("bits", "alarms"),
    [
        ("0", ()),
        ("50000", ()),  # it was so since the start, and is not now
        ("50005", ("low supply voltage", "throttled processor")),
        ("0x2", ("capped processor frequency",)),
        ("80008", ()),
        ("fffffffff", ()),
        ("no", ()),
    ],
)
def test_the_firmware_of_a_raspberry_pi_says_what_is_wrong_now(
    bits: str, alarms: tuple[str, ...], tmp_path: Path
) -> None:
    assert read_machine(None, tree(tmp_path, PI | {FIRMWARE: bits})).alarms == alarms


def test_a_newer_kernel_tells_the_low_voltage_as_an_alarm_of_its_monitor(tmp_path: Path) -> None:
    low = PI | {"sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1"}
    assert read_machine(None, tree(tmp_path, low)).alarms == ("low supply voltage",)


def test_control_groups_of_version_2_beside_those_of_version_1_are_found(tmp_path: Path) -> None:
    hybrid = {
        "proc/self/cgroup": "4:memory:/system.slice/a.service\n0::/system.slice/a.service",
        "sys/fs/cgroup/unified/system.slice/a.service/cgroup.procs": "1",
        "sys/fs/cgroup/unified/system.slice/a.service/cpu.pressure": PRESSURE.format(4_000_000),
    }
    assert read_machine(None, tree(tmp_path, hybrid)).stalled_s == {("service", "cpu"): 4.0}


@pytest.mark.parametrize("path", ["0::/../../other", "0::/gone", "1:name=systemd:/", "0::"])
def test_a_group_that_can_not_be_seen_is_not_told(path: str, tmp_path: Path) -> None:
    files = {name: text for name, text in PI.items() if "cgroup" not in name}
    now = read_machine(None, tree(tmp_path, files | {"proc/self/cgroup": path}))
    assert {scope for scope, _ in now.stalled_s} == {"machine"}
    assert now.free_bytes == 500 * MIB


def test_a_machine_that_tells_nothing_is_read_without_an_error(tmp_path: Path) -> None:
    now = read_machine(1, Roots(tmp_path, tmp_path))
    assert (now.temperature_c, now.load, now.free_bytes, now.worker) == (None,) * 4
    assert now.stalled_s == {}
    assert now.alarms == ()


def test_this_machine_is_read_and_a_thread_is_told_like_a_process() -> None:
    now = read_machine(threading.get_native_id())
    assert now.load is not None
    assert now.free_bytes is not None
    assert now.worker is not None
    assert now.worker.task == threading.get_native_id()
    assert now.worker.ran_s > 0
    assert now.cores == os.cpu_count()


@pytest.fixture(scope="module")
def spoilable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machine")
    tree(folder, PI)
    return folder


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(sorted(PI)), st.binary(max_size=60)), max_size=4))
def test_any_bytes_in_any_file_are_read_without_an_error(
    spoilable: Path, spoiled: list[tuple[str, bytes]]
) -> None:
    for name, data in spoiled:
        (spoilable / name).write_bytes(data)
    now = read_machine(900, Roots(spoilable / "proc", spoilable / "sys"))
    assert all(stalled_s >= 0 for stalled_s in now.stalled_s.values())
    assert now.free_bytes is None or now.free_bytes >= 0
    tree(spoilable, {name: PI[name] for name, _ in spoiled})
