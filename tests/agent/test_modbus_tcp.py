"""Modbus over TCP against a real slave of another author (libmodbus, tests/modbus/slave.c)."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.sensors.modbus import ModbusSettings, all_orders, raw_registers
from agent.sensors.modbus.statuses import (
    BAD_NO_COMMUNICATION,
    BAD_NODE_ID_UNKNOWN,
    BAD_SENSOR_FAILURE,
    BAD_SERVER_TOO_BUSY,
)
from shopfloor.ports import free_port
from tests.modbus.slaves import (
    DEADLINE_S,
    build_slave,
    line_settings,
    reading,
    run,
    running,
)

ORDERS = [(one, two) for one in ("big", "little") for two in ("big", "little")]


@pytest.fixture(scope="module")
def slave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_slave(tmp_path_factory.mktemp("modbus"))


@pytest.fixture
def port(slave: Path) -> Iterator[int]:
    number = free_port()
    with running(slave, "tcp", str(number)):
        yield number


def over_tcp(port: int, channels: str, more: str = "") -> ModbusSettings:
    return line_settings(
        f'host = "127.0.0.1"\nport = {port}\npoll_interval_ms = 50\n{more}\n{channels}'
    )


def test_all_four_float_layouts_of_libmodbus_are_read_each_by_its_own_order(port: int) -> None:
    channels = [
        f"f{address}-{one}-{two} table=holding address={address} type=float32 "
        f"byte_order={one} word_order={two}"
        for address in (100, 102, 104, 106)
        for one, two in ORDERS
    ]
    settings = over_tcp(port, "\n".join(channels))

    async def read() -> None:
        async with reading(settings) as source:
            log = await source.until(lambda log: len(log.samples) >= len(channels))
            right = [each.name for each in log.samples if each.value == pytest.approx(123.456)]
            right = sorted(set(right))
            # Which letters libmodbus gives to which layout differs between its versions.
            assert [name.split("-")[0] for name in right] == ["f100", "f102", "f104", "f106"]
            assert sorted(tuple(name.split("-")[1:]) for name in right) == ORDERS

    run(read())


def test_integers_bits_and_all_four_tables_hold_what_libmodbus_put_there(port: int) -> None:
    settings = over_tcp(
        port,
        """
        int32 table=holding address=110 type=int32 byte_order=big word_order=big
        int64 table=holding address=114 type=int64 byte_order=big word_order=big
        input table=input address=7 type=uint16 scale=0.5 offset=-3.5
        bit4 table=holding address=7 type=bool bit=4
        bit5 table=holding address=7 type=bool bit=5
        coil9 table=coil address=9
        coil10 table=coil address=10
        coil2399 table=coil address=2399
        discrete10 table=discrete address=10
        discrete11 table=discrete address=11
        failed table=holding address=120 type=int16 invalid=[0x8000]
        """,
    )

    async def read() -> None:
        async with reading(settings) as source:
            log = await source.until(lambda log: len({each.name for each in log.samples}) == 11)
            found = {each.name: each.value for each in log.samples if each.status == 0}
            assert found == {
                "int32": -123456789.0,
                "int64": float(1234567890123456789),
                "input": 1007 * 0.5 - 3.5,
                "bit4": 1.0,  # 21 is 0b10101
                "bit5": 0.0,
                "coil9": 1.0,
                "coil10": 0.0,
                "coil2399": 1.0 if 2399 % 3 == 0 else 0.0,
                "discrete10": 1.0,
                "discrete11": 0.0,
            }
            assert set(log.bad("failed")) == {BAD_SENSOR_FAILURE}

    run(read())


def test_a_person_is_shown_the_registers_of_a_channel_in_all_orders(port: int) -> None:
    settings = over_tcp(
        port,
        """
        float table=holding address=110 type=int32 byte_order=big word_order=big
        edge table=holding address=149 type=uint16
        hole table=holding address=150 type=uint16
        silent unit_id=9 table=holding address=5 type=uint16
        coil table=coil address=1
        """,
        "timeout_s = 0.05",
    )

    async def read() -> None:
        found = [await raw_registers(settings, channel) for channel in settings.channel]
        assert isinstance(found[0], tuple)
        assert len(found[0]) == 4
        assert dict(all_orders(found[0]))["int32 ABCD (byte_order big, word_order big)"] == (
            -123456789
        )
        assert found[1] == (447,)  # the next three do not exist
        assert found[2] == "illegal data address (exception 0x02)"
        assert found[3] == "unit 9 does not answer within 0.05 s"
        assert found[4] == "a coil is one bit and has no order"

    run(read())


def test_a_value_that_does_not_change_is_a_sample_at_every_poll_with_a_later_time(
    port: int,
) -> None:
    settings = over_tcp(port, "steady table=holding address=5 type=uint16")

    async def read() -> None:
        async with reading(settings) as source:
            log = await source.until(lambda log: len(log.samples) >= 10)
            stamps = [each.stamp_us for each in log.samples]
            assert stamps == sorted(set(stamps))
            assert {each.value for each in log.samples} == {15.0}

    run(read())


def test_units_0_and_255_which_devices_on_a_network_use_are_asked(port: int) -> None:
    settings = over_tcp(
        port,
        """
        zero unit_id=0 table=holding address=5 type=uint16
        last unit_id=255 table=holding address=5 type=uint16
        """,
    )

    async def read() -> None:
        async with reading(settings) as source:
            log = await source.more_good(2, "zero", "last")
            assert set(log.good("zero") + log.good("last")) == {15.0}

    run(read())


def test_values_of_one_answer_have_one_time(port: int) -> None:
    channels = "\n".join(f"c{at} table=holding address={at} type=uint16" for at in range(20))
    settings = over_tcp(port, channels)

    async def read() -> None:
        async with reading(settings) as source:
            log = await source.until(lambda log: len(log.samples) >= 40)
            assert len({each.stamp_us for each in log.samples}) * 20 == len(log.samples)

    run(read())


def test_more_than_one_request_can_carry_is_read_in_several(port: int) -> None:
    channels = [f"r{at} table=input address={at} type=uint16" for at in range(300)]
    channels += [f"b{at} table=coil address={at}" for at in range(0, 2400, 16)]
    settings = over_tcp(port, "\n".join(channels))

    async def read() -> None:
        async with reading(settings) as source:
            log = await source.until(lambda log: len({each.name for each in log.samples}) == 450)
            assert log.report.counters["requests"] >= 5
            first = {each.name: each.value for each in log.samples}
            assert all(first[f"r{at}"] == 1000 + at for at in range(300))
            assert all(first[f"b{at}"] == (at % 3 == 0) for at in range(0, 2400, 16))

    run(read())


def test_a_merged_read_that_is_refused_is_cut_to_what_exists_and_stays_cut(port: int) -> None:
    settings = over_tcp(
        port,
        """
        left table=holding address=148 type=uint16
        near table=holding address=149 type=uint16
        absent table=holding address=155 type=uint16
        right table=holding address=160 type=uint16
        """,
    )

    async def read() -> None:
        async with reading(settings) as source:
            log = await source.more_good(1, "right")
            await source.more_bad(1, "absent")
            learned = log.report.counters["exceptions"] - len(log.bad("absent"))
            await source.more_good(10, "right")
            # From then on only the one register is refused, once at each poll.
            assert log.report.counters["exceptions"] - len(log.bad("absent")) == learned <= 3
            assert set(log.good("left") + log.good("near")) == {444.0, 447.0}
            assert set(log.good("right")) == {480.0}
            assert not log.bad("left") + log.bad("near") + log.bad("right")
            assert set(log.bad("absent")) == {BAD_NODE_ID_UNKNOWN}
            assert not log.good("absent")
            assert "holding 155: illegal data address" in log.report.problems["absent"]

    run(read())


def test_units_that_do_not_answer_are_bad_and_named_while_the_others_flow(port: int) -> None:
    settings = over_tcp(
        port,
        """
        [[unit]]
        unit_id = 9
        name = "chiller"
        live unit_id=1 table=holding address=5 type=uint16
        silent unit_id=9 table=holding address=5 type=uint16
        beyond unit_id=11 table=holding address=5 type=uint16
        busy unit_id=12 table=holding address=5 type=uint16
        """,
    )

    async def read() -> None:
        async with reading(settings) as source:
            log = await source.more_bad(10, "silent", "beyond")
            assert set(log.bad("silent")) == set(log.bad("beyond")) == {BAD_NO_COMMUNICATION}
            assert set(log.bad("busy")) == {BAD_SERVER_TOO_BUSY}
            assert set(log.good("live")) == {15.0}
            assert not log.bad("live")
            assert "no answer within 0.25 s" in log.report.problems["chiller"]
            assert "does not answer the gateway" in log.report.problems["unit 11"]
            assert "unit 1" not in log.report.problems
            assert log.report.state == "reading"

    run(read())


def test_a_killed_server_is_bad_samples_and_then_values_again(slave: Path) -> None:
    number = free_port()
    settings = over_tcp(number, "steady table=holding address=5 type=uint16")

    async def read() -> None:
        async with reading(settings) as source:
            with running(slave, "tcp", str(number)):
                log = await source.more_good(3, "steady")
            await source.until(lambda log: "refused" in log.report.state)
            await source.more_bad(5, "steady")
            with running(slave, "tcp", str(number)):
                await source.more_good(3, "steady")
            assert log.report.counters["reconnects"] >= 1
            assert set(log.bad("steady")) == {BAD_NO_COMMUNICATION}
            stamps = [each.stamp_us for each in log.samples]
            assert stamps == sorted(set(stamps))

    run(read())


def test_a_server_that_is_not_there_yet_is_named_and_waited_for(slave: Path) -> None:
    number = free_port()
    settings = over_tcp(number, "steady table=holding address=5 type=uint16")

    async def read() -> None:
        async with reading(settings) as source:
            log = await source.more_bad(3, "steady")
            assert log.report.state == f"can not open 127.0.0.1:{number}: Connection refused"
            with running(slave, "tcp", str(number)):
                await source.more_good(3, "steady")

    run(read())


def test_a_connection_that_turns_into_a_black_hole_is_left_and_the_values_return(
    slave: Path,
) -> None:
    number = free_port()
    settings = over_tcp(
        number, "steady table=holding address=5 type=uint16", "retries = 0\ntimeout_s = 0.1"
    )

    async def read() -> None:
        with running(slave, "tcp", str(number)) as server:
            async with reading(settings) as source:
                log = await source.more_good(3, "steady")
                server.send_signal(signal.SIGSTOP)  # it takes bytes, and never answers
                await source.until(lambda log: log.report.state == "no device answers")
                await source.more_bad(10, "steady")
                server.send_signal(signal.SIGCONT)
                await source.more_good(3, "steady")
                assert set(log.good("steady")) == {15.0}
                assert not log.report.problems

    run(read())


def test_a_connection_that_is_half_open_is_given_up_for_a_new_one(port: int) -> None:
    number = free_port()
    settings = over_tcp(
        number, "steady table=holding address=5 type=uint16", "retries = 1\ntimeout_s = 0.05"
    )

    async def read() -> None:
        connections = 0

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            number = connections
            to_slave, from_slave = await asyncio.open_connection("127.0.0.1", port)
            while request := await reader.read(260):
                from_slave.write(request)
                answer = await to_slave.read(260)
                if number > 1:  # the first one takes requests, and nothing ever comes back
                    writer.write(answer)
            from_slave.close()
            writer.close()

        server = await asyncio.start_server(relay, "127.0.0.1", number)
        async with server, reading(settings) as source:
            log = await source.more_good(3, "steady")
        assert connections == 2
        assert log.report.counters["reconnects"] == 1
        assert log.report.counters["silences"] == 2

    run(read())


def test_being_cancelled_ends_the_source_even_in_the_middle_of_a_request(port: int) -> None:
    settings = over_tcp(
        port, "silent unit_id=9 table=holding address=5 type=uint16", "timeout_s = 30.0"
    )

    async def read() -> None:
        async with asyncio.timeout(DEADLINE_S), reading(settings) as source:
            while not source.log.report.counters.get("requests"):  # noqa: ASYNC110 (no event)
                await asyncio.sleep(0.01)
        assert source.log.report.counters == {"requests": 1}
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not [task for task in others if "modbus" in task.get_name()]

    run(read())
