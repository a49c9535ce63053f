"""Modbus RTU against a real slave of another author, over a pair of pseudo-terminals.

The line between them can be garbled, delayed and unplugged (tests/modbus/slaves.py).
"""

import asyncio
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import serial
from pymodbus.framer import FramerRTU

from agent.sensors.modbus import ModbusSettings
from agent.sensors.modbus.statuses import BAD_NO_COMMUNICATION
from shopfloor.ports import free_port
from tests.modbus.slaves import (
    BAUD,
    LIVE_UNIT,
    SerialWire,
    build_slave,
    line_settings,
    reading,
    run,
    running,
    serial_wire,
)

OTHER_UNIT = 8
STEADY = f"steady unit_id={LIVE_UNIT} table=holding address=5 type=uint16"


@pytest.fixture(scope="module")
def slave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_slave(tmp_path_factory.mktemp("modbus"))


def over(wire: SerialWire, channels: str, more: str = "") -> ModbusSettings:
    return line_settings(
        f'device = "{wire.port}"\nbaudrate = {BAUD}\nparity = "N"\n'
        f"poll_interval_ms = 50\n{more}\n{channels}"
    )


def words_of(wire: SerialWire) -> tuple[str, str, str, str]:
    return "rtu", wire.slave_path, str(BAUD), str(LIVE_UNIT)


def test_values_come_over_a_serial_line(slave: Path, tmp_path: Path) -> None:
    async def read() -> None:
        async with serial_wire(tmp_path) as wire:
            settings = over(
                wire,
                f"""
                {STEADY}
                int32 unit_id=7 table=holding address=110 type=int32 byte_order=big word_order=big
                coil unit_id=7 table=coil address=9
                discrete unit_id=7 table=discrete address=11
                """,
            )
            with running(slave, *words_of(wire)):
                async with reading(settings) as source:
                    log = await source.until(lambda log: len(log.samples) >= 20)
        found = {each.name: each.value for each in log.samples}
        assert found == {"steady": 15.0, "int32": -123456789.0, "coil": 1.0, "discrete": 0.0}
        assert log.report.state == "reading"

    run(read())


def test_absent_units_never_hold_the_line_twice_between_two_polls_of_a_live_one(
    slave: Path, tmp_path: Path
) -> None:
    async def read() -> None:
        async with serial_wire(tmp_path) as wire:
            absent = [
                f"a{unit} unit_id={unit} table=holding address=5 type=uint16"
                for unit in (20, 21, 22, 23)
            ]
            settings = over(wire, "\n".join([STEADY, *absent]), "timeout_s = 0.15")
            with running(slave, *words_of(wire)):
                async with reading(settings) as source:
                    log = await source.more_bad(10, *(f"a{unit}" for unit in range(20, 24)))
            units = [frame[0] for frame in wire.asked]
            first = units.index(LIVE_UNIT)
            assert set(units) == {LIVE_UNIT, 20, 21, 22, 23}
            assert not [pair for pair in pairwise(units[first:]) if LIVE_UNIT not in pair], (
                "two absent units were asked in a row"
            )
            assert set(log.good("steady")) == {15.0}
            assert not log.bad("steady")
            for unit in range(20, 24):
                assert set(log.bad(f"a{unit}")) == {BAD_NO_COMMUNICATION}
            stamps = [each.stamp_us for each in log.of("steady")]
            waits_ms = [(late - early) / 1000 for early, late in pairwise(stamps)]
            print(f"live unit: {len(stamps)} samples, longest wait {max(waits_ms):.0f} ms")

    run(read())


def test_noise_around_answers_and_the_echo_of_the_request_do_no_harm(
    slave: Path, tmp_path: Path
) -> None:
    async def read() -> None:
        async with serial_wire(tmp_path) as wire:
            settings = over(wire, STEADY)

            def echo(data: bytes) -> bytes:
                wire.say(data)
                return data

            def noise(data: bytes) -> bytes:
                return b"\x00\xff\x03" + data + b"\x55"

            wire.to_slave, wire.to_agent = echo, noise
            with running(slave, *words_of(wire)):
                async with reading(settings) as source:
                    log = await source.more_good(20, "steady")
        assert set(log.good("steady")) == {15.0}
        assert "silences" not in log.report.counters

    run(read())


def test_garbage_that_nobody_asked_for_is_passed_over(slave: Path, tmp_path: Path) -> None:
    async def read() -> None:
        async with serial_wire(tmp_path) as wire:
            settings = over(wire, STEADY)
            with running(slave, *words_of(wire)):
                async with reading(settings) as source:
                    await source.more_good(2, "steady")
                    for _ in range(20):
                        wire.say(bytes(range(256)) * 2)
                        await asyncio.sleep(0.02)
                    log = await source.more_good(5, "steady")
        assert set(log.good("steady")) == {15.0}

    run(read())


def test_damaged_answers_are_bad_and_said_to_be_damaged_and_never_a_wrong_value(
    slave: Path, tmp_path: Path
) -> None:
    async def read() -> None:
        async with serial_wire(tmp_path) as wire:
            settings = over(wire, STEADY, "timeout_s = 0.05\nretries = 1")
            wire.to_agent = _damaged
            with running(slave, *words_of(wire)):
                async with reading(settings) as source:
                    log = await source.more_bad(3, "steady")
                    assert not log.good("steady")
                    assert "check baud rate" in log.report.problems["unit 7"]
                    assert log.report.counters["bad_frames"] >= 2
                    wire.to_agent = bytes
                    await source.more_good(3, "steady")
                    assert "unit 7" not in log.report.problems
        assert set(log.good("steady")) == {15.0}

    run(read())


def test_the_answer_of_a_wrong_unit_is_never_taken(slave: Path, tmp_path: Path) -> None:
    async def read() -> None:
        async with serial_wire(tmp_path) as wire:
            settings = over(wire, STEADY, "timeout_s = 0.05\nretries = 1")
            other = "rtu", wire.slave_path, str(BAUD), str(OTHER_UNIT)
            # Requests to unit 7 arrive at the other unit as if they were its own, CRC and all.
            wire.to_slave = _readdressed
            with running(slave, *other):
                async with reading(settings) as source:
                    log = await source.more_bad(5, "steady")
        assert not log.good("steady")
        assert "unit ids" in log.report.problems["unit 7"]

    run(read())


def _damaged(frame: bytes) -> bytes:
    return frame[:-1] + bytes((frame[-1] ^ 1,))


def _readdressed(frame: bytes) -> bytes:
    body = bytes((OTHER_UNIT,)) + frame[1:6]
    return body + FramerRTU.compute_CRC(body).to_bytes(2, "big")


def test_answers_that_come_too_late_are_never_taken_for_those_of_other_requests(
    slave: Path, tmp_path: Path
) -> None:
    async def read() -> None:
        async with serial_wire(tmp_path) as wire:
            # The same length, at addresses too far apart for one read.
            settings = over(
                wire,
                f"{STEADY}\nfar unit_id=7 table=holding address=205 type=uint16",
                "timeout_s = 0.1",
            )
            with running(slave, *words_of(wire)):
                async with reading(settings) as source:
                    for delay_s in (0.13, 0.22, 0.0):
                        wire.delay_s = delay_s
                        log = await source.more_good(2, "steady", "far")
        assert log.report.counters["silences"] >= 4
        assert set(log.good("steady")) == {15.0}
        assert set(log.good("far")) == {615.0}

    run(read())


def test_a_long_answer_on_a_slow_line_may_take_longer_than_the_timeout(
    slave: Path, tmp_path: Path
) -> None:
    async def read() -> None:
        async with serial_wire(tmp_path) as wire:
            # 45 characters take 0.38 s at 1200 baud; pseudo-terminals know no baud rate.
            channels = [
                f"c{at} unit_id=7 table=holding address={at} type=uint16" for at in range(20)
            ]
            settings = line_settings(
                f'device = "{wire.port}"\nbaudrate = 1200\nparity = "N"\ntimeout_s = 0.1\n'
                + "\n".join(channels)
            )

            def slowly(data: bytes) -> bytes:
                asyncio.get_running_loop().call_later(0.3, wire.say, data[10:])
                return data[:10]

            wire.to_agent = slowly
            with running(slave, *words_of(wire)):
                async with reading(settings) as source:
                    log = await source.more_good(1, "c0", "c19")
        assert "silences" not in log.report.counters
        assert log.good("c19") == [57.0]

    run(read())


def test_a_serial_server_passes_rtu_frames_over_tcp(slave: Path, tmp_path: Path) -> None:
    socat = shutil.which("socat")
    if socat is None:
        pytest.skip("socat is not installed: run tests/install.sh .venv/bin/python as root")

    async def read() -> None:
        port = free_port()
        async with serial_wire(tmp_path) as wire:
            words = (f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr", f"OPEN:{wire.port},rawer")
            settings = line_settings(
                f'host = "127.0.0.1"\nport = {port}\nframing = "rtu"\n'
                f"poll_interval_ms = 50\n{STEADY}"
            )
            with running(slave, *words_of(wire)):
                server = await asyncio.create_subprocess_exec(socat, *words)
                try:
                    async with reading(settings) as source:
                        log = await source.more_good(3, "steady")
                finally:
                    server.kill()
                    await server.wait()
        assert set(log.good("steady")) == {15.0}
        assert {frame[:2] for frame in wire.asked} == {bytes((LIVE_UNIT, 3))}

    run(read())


def test_an_adapter_that_is_unplugged_and_plugged_in_again_goes_on(
    slave: Path, tmp_path: Path
) -> None:
    async def read() -> None:
        async with serial_wire(tmp_path) as wire:
            settings = over(wire, STEADY)
            with running(slave, *words_of(wire)):
                async with reading(settings) as source:
                    log = await source.more_good(3, "steady")
                    for _ in range(2):
                        wire.unplug()
                        await source.until(
                            lambda log: "No such file or directory" in log.report.state
                        )
                        await source.more_bad(3, "steady")
                        wire.plug()
                        await source.more_good(3, "steady")
        assert log.report.counters["reconnects"] == 2
        assert set(log.bad("steady")) == {BAD_NO_COMMUNICATION}
        stamps = [each.stamp_us for each in log.samples]
        assert stamps == sorted(set(stamps))

    run(read())


def test_a_slave_that_is_killed_and_started_again_is_read_again(
    slave: Path, tmp_path: Path
) -> None:
    async def read() -> None:
        async with serial_wire(tmp_path) as wire:
            settings = over(wire, STEADY, "retries = 0\ntimeout_s = 0.1")
            async with reading(settings) as source:
                with running(slave, *words_of(wire)):
                    await source.more_good(3, "steady")
                await source.more_bad(3, "steady")
                with running(slave, *words_of(wire)):
                    await source.more_good(3, "steady")

    run(read())


def test_the_port_is_the_agents_alone_and_a_port_in_use_is_said_to_be(
    slave: Path, tmp_path: Path
) -> None:
    async def read() -> None:
        async with serial_wire(tmp_path) as wire:
            settings = over(wire, STEADY)
            with running(slave, *words_of(wire)):
                async with reading(settings) as source:
                    await source.more_good(1, "steady")
                    with pytest.raises(serial.SerialException, match="lock"):
                        serial.Serial(str(wire.port), exclusive=True)
                    async with reading(settings) as second:
                        log = await second.until(lambda log: len(log.bad("steady")) >= 2)
                        assert log.report.state == (
                            f"can not open {wire.port}: another program has it open"
                        )

    run(read())
