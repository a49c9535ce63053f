"""`journeyman-agent test`: what the configured sources give, now, for a person who watches.

Opens the sources itself, beside the agent or without one.  Writes nothing to any machine and keeps
nothing, but for OPC UA certificates, which are the agent's own.
"""

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from agent.config import AgentSettings, read_agent_settings
from agent.enrolled import agent_id
from agent.live.orders import channels_with_orders, orders_of
from agent.live.screen import Lines, Screen, Table
from agent.live.seen import Seen
from agent.live.watch import (
    Watched,
    harmless,
    needs_own_certificate,
    needs_pki,
    scratch_state,
    watch,
)
from agent.live.words import cells
from agent.running import agent_runs
from agent.sensors.modbus import ModbusSettings
from agent.sensors.source import SourceContext, SourceReport
from agent.sources import ConfiguredSource, sources_of
from agent.trust_command import as_owner
from wire.errors import SettingsError, one_line
from wire.settings import read_settings, resolve

_ANYBODY = "test"
"""Name of the agent where no certificate holds one."""
_LINE_S = 1.0


def add_test(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the agent's parser."""
    test = commands.add_parser(
        "test",
        help="show live samples of the configured sources",
        description="Opens the configured sources and shows what comes in; then says of each "
        "source what is wrong. Exit status 1 if a channel gave no usable value. Nothing is "
        "written to any machine. A serial port that the running agent holds can not be tested "
        "at the same time.",
    )
    test.add_argument("config", type=Path, help="the agent's TOML file")
    test.add_argument(
        "--seconds", type=float, default=5.0, metavar="S", help="how long (5); 0: until Ctrl-C"
    )
    test.add_argument(
        "--once", action="store_true", help="end as soon as each channel gave something"
    )
    test.add_argument(
        "--channel", action="append", default=[], metavar="NAME", help="only this one; repeatable"
    )
    test.add_argument(
        "--source", default="", metavar="KEY", help="only this one: source.modbus[1], or modbus"
    )
    test.add_argument(
        "--orders",
        action="store_true",
        help="show registers of Modbus channels in all types, byte and word orders, and nothing "
        "else; the file may leave the orders out",
    )
    # The summary says what log lines would, once.
    test.set_defaults(command=_test, log_level=logging.CRITICAL)


def _test(options: argparse.Namespace) -> int:
    config: Path = options.config
    # Without the orders the file has problems, and finding them is what --orders is for.
    settings = (
        read_settings(config, AgentSettings) if options.orders else read_agent_settings(config)
    )
    sources = _chosen(sources_of(harmless(settings.source)), options.source, config)
    _check_names(sources, options.channel, config)
    if options.orders:
        return asyncio.run(_orders(sources, options.channel))
    agent = _ANYBODY
    if any(needs_own_certificate(source) for source in sources):
        agent = agent_id(config, settings.trust)
    state = resolve(config, settings.agent.state_dir)
    _join_groups(sources)
    with as_owner(state) as inside:
        return _look(sources, SourceContext(config.parent.absolute(), inside, agent), options)


def _look(
    sources: Sequence[ConfiguredSource], context: SourceContext, options: argparse.Namespace
) -> int:
    """Watch, then sum up; returns the exit status."""
    names = [channel.name for source in sources for channel in source.channels]
    watched = [Watched(source, SourceReport(source.title)) for source in renumbered(sources)]
    shown = [at for at, name in enumerate(names) if name in (options.channel or names)]
    seen = Seen(len(names))
    view = _View(watched, seen, shown, _screen())

    def is_enough() -> bool:
        view.refresh()
        return bool(options.once) and all(seen.newest(at, 0.0) is not None for at in shown)

    try:
        with scratch_state(context.state_dir, with_pki=any(map(needs_pki, sources))) as scratch:
            inside = SourceContext(context.config_dir, scratch, context.agent)
            asyncio.run(watch(watched, inside, seen, max(0.0, options.seconds), is_enough))
    except OSError as error:
        reason = f"can not be used: {error.strerror}"
        raise SettingsError(str(error.filename), None, None, reason) from None
    view.refresh(is_last=True)
    print()
    for line in summary(watched, seen, shown, is_running=agent_runs(context.state_dir)):
        print(line)
    now_s = time.monotonic()
    newest = [seen.newest(at, now_s) for at in shown]
    return 0 if all(each is not None and each.usable for each in newest) else 1


def renumbered(sources: Sequence[ConfiguredSource]) -> Iterator[ConfiguredSource]:
    """The chosen sources, their channels counted from 0 without those that were left out."""
    first = 0
    for source in sources:
        yield ConfiguredSource(
            source.key,
            source.kind,
            source.title,
            first,
            source.channels,
            source.settings,
            source.open,
        )
        first += len(source.channels)


class _View:
    """Between what was seen and the terminal."""

    def __init__(
        self, watched: Sequence[Watched], seen: Seen, shown: Sequence[int], screen: Screen
    ) -> None:
        self._channels = [channel for each in watched for channel in each.source.channels]
        self._seen, self._shown, self._screen = seen, shown, screen
        self._pause_s = _LINE_S if isinstance(screen, Lines) else 0.0
        self._drawn_s = 0.0

    def refresh(self, *, is_last: bool = False) -> None:
        """Show what there is, not too often."""
        now_s, now_us = time.monotonic(), time.time_ns() // 1000
        if not is_last and now_s < self._drawn_s + self._pause_s:
            return
        self._drawn_s = now_s
        places = {at: row for row, at in enumerate(self._shown)}
        news = [places[at] for at in self._seen.news() if at in places]
        rows = [
            cells(self._channels[at], self._seen.newest(at, now_s), now_us) for at in self._shown
        ]
        self._screen.show(rows, news)


def summary(
    watched: Sequence[Watched], seen: Seen, shown: Sequence[int], *, is_running: bool
) -> Iterator[str]:
    """One line for each source and one for everything that is wrong with it.

    Args:
      watched: the sources.
      seen: what came.
      shown: numbers of the channels that count.
      is_running: whether the agent runs, which may hold what could not be opened.
    """
    now_s = time.monotonic()
    for each in watched:
        source, report = each.source, each.report
        numbers = range(source.first, source.first + len(source.channels))
        counted = [at for at in numbers if at in shown]
        if not counted:
            continue
        found = {at: seen.newest(at, now_s) for at in counted}
        names = {at: source.channels[at - source.first].name for at in counted}
        samples = sum(newest.count for newest in found.values() if newest is not None)
        yield f"{source.key} ({source.title}): {one_line(report.state)}; {samples} samples"
        for name, reason in report.problems.items():
            yield f"  problem: {one_line(name)}: {one_line(reason)}"
        silent = [names[at] for at, newest in found.items() if newest is None]
        useless = [names[at] for at, newest in found.items() if newest and not newest.usable]
        if silent:
            yield f"  gave nothing at all: {', '.join(silent)}"
        if useless:
            yield f"  gave only Bad samples: {', '.join(useless)}"
        if is_running and not report.is_well:
            yield from _beside_the_agent(source)


def _beside_the_agent(source: ConfiguredSource) -> Iterator[str]:
    """What the running agent may have to do with it."""
    device = getattr(source.settings, "device", "")
    if device:
        yield f"  the agent is running and holds {device} for itself: for this test, stop it with "
        yield "  systemctl stop journeyman-agent, or look at what it reads: journeyman-agent status"
    elif isinstance(source.settings, ModbusSettings):
        yield "  the agent is running: many Modbus devices take only one connection at a time"


async def _orders(sources: Sequence[ConfiguredSource], names: Sequence[str]) -> int:
    status, count = 0, 0
    for settings, channel in channels_with_orders(sources):
        if names and channel.name not in names:
            continue
        lines, is_there = await orders_of(settings, channel)
        print("\n".join(lines), flush=True)
        status |= not is_there
        count += 1
    if not count:
        print("no Modbus channel here has more than one register")
    return status


def _chosen(sources: list[ConfiguredSource], key: str, config: Path) -> list[ConfiguredSource]:
    chosen = [
        source
        for source in sources
        if key in ("", source.key, source.kind) or source.key.startswith(f"{key}[")
    ]
    if not chosen:
        known = ", ".join(source.key for source in sources)
        raise SettingsError(str(config), None, None, f"no source {key!r}; there are: {known}")
    return chosen


def _check_names(sources: Sequence[ConfiguredSource], names: Sequence[str], config: Path) -> None:
    known = [channel.name for source in sources for channel in source.channels]
    for name in names:
        if name not in known:
            reason = f"no channel {name!r}; there are: {', '.join(known)}"
            raise SettingsError(str(config), None, None, reason)


def _join_groups(sources: Sequence[ConfiguredSource]) -> None:
    """As root, take the groups of the serial ports along, which the agent's unit gives to it."""
    if os.geteuid() != 0:
        return
    groups = set(os.getgroups())
    for source in sources:
        device = getattr(source.settings, "device", "")
        with suppress(OSError):
            groups |= {Path(device).stat().st_gid} if device else set()
    with suppress(OSError):  # in a container root may not
        os.setgroups(sorted(groups))


def _screen() -> Screen:
    return Table(sys.stdout) if sys.stdout.isatty() else Lines(sys.stdout)
