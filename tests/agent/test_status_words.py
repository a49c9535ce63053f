"""What the agent's status says in words."""

from agent.sensors.source import ChannelSettings, SourceReport
from agent.signals.block import block_of
from agent.signals.quality import Quality
from agent.status import Status
from agent.status_words import channel_lines, clocks_in_words, health, in_one_line

NOW_US = 1_770_000_000_000_000
NAMES = ["torque", "speed", "door"]


def quality(behind_s: float) -> Quality:
    found = Quality(NAMES)
    for at in range(5):
        arrived_us = NOW_US + at * 1_000_000
        stamps = [round(arrived_us - behind_s * 1e6)] * 2
        found.note(block_of([0, 1], [float(at), 7.0], [0, 0x808C0000], stamps), arrived_us)
    return found


def test_sources_that_agree_are_said_once() -> None:
    assert in_one_line(["subscribed", "reading", "subscribed"]) == "subscribed; reading"


def test_health_names_the_sources_and_the_disk_that_are_not_well() -> None:
    status = Status(agent="gateway-1", site="Ulm", federation="test", pid=1)
    status.sources = [
        SourceReport("opcua line 1", "subscribed"),
        SourceReport("modbus 7", "reading"),
    ]
    assert health(status) == "ok"
    status.sources[1].state = "lost: no answer"
    status.storage = "the disk is full"
    assert health(status) == "modbus 7: lost: no answer; storage: the disk is full"


def test_a_clock_that_is_off_is_named_with_its_direction() -> None:
    late_us = NOW_US + 5_000_000
    assert clocks_in_words(quality(0.2).summary(late_us)) == "ok"
    assert "torque: 60.0 s behind" in clocks_in_words(quality(60.0).summary(late_us))
    assert "torque: 60.0 s ahead" in clocks_in_words(quality(-60.0).summary(late_us))


def test_every_channel_has_a_line_with_its_unit_and_statistics() -> None:
    channels = [ChannelSettings(name=name, unit="Nm" * (name == "torque")) for name in NAMES]
    head, torque, speed, door = channel_lines(quality(0.0).summary(NOW_US + 5_000_000), channels)
    assert head.split()[:3] == ["channel", "samples", "bad"]
    assert torque.split()[:7] == ["torque", "[Nm]", "5", "0", "0", "0", "4"]
    assert speed.split()[:4] == ["speed", "5", "5", "0"]
    assert door.split()[:2] == ["door", "0"]
