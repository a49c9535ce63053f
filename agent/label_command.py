"""`journeyman-agent label`: what an operator knows, said from a terminal beside the running agent.

The running agent sees it at once: rows are labelled when they are read.
"""

import argparse
import time
from pathlib import Path

from agent.config import read_agent_settings
from agent.labels.settings import LabelChannel
from agent.labels.store import OPERATOR, Labels
from agent.labels.words import describe, in_a_line, span_us, value_of
from agent.signals.label_file import LabelRecord
from wire.errors import SettingsError
from wire.settings import resolve, settings_error


def add_label(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the agent's parser."""
    label = commands.add_parser(
        "label",
        help="say what was true of a time span: good, scratched, worn",
        description="Labels a time span of a [[labels.channel]]. Rows of that time are labelled "
        "from then on, however long ago they were kept; a later label overrules an earlier one.",
    )
    actions = label.add_subparsers(required=True, metavar="ACTION")
    add = actions.add_parser(
        "add",
        help="label a time span",
        description="Example: journeyman-agent label add agent.toml defect scratch --last 10m",
    )
    add.add_argument("config", type=Path, help="the agent's TOML file")
    add.add_argument("channel", help="name of a [[labels.channel]]")
    add.add_argument("value", help="a number, one of its states, or `none` to take labels away")
    add.add_argument("--from", dest="begin", metavar="TIME", help="ISO 8601, local if not said")
    add.add_argument("--until", metavar="TIME", help="ISO 8601; now if not given")
    add.add_argument("--last", metavar="SPAN", help="instead of --from: 90s, 10m, 8h, 2d")
    add.add_argument("--note", default="", help="kept with it")
    add.set_defaults(command=_add)
    show = actions.add_parser("list", help="the newest labels", description="The newest labels.")
    show.add_argument("config", type=Path, help="the agent's TOML file")
    show.add_argument("--limit", type=int, default=20, help="how many (20)")
    show.set_defaults(command=_list)
    remove = actions.add_parser(
        "remove", help="take a label back", description="Takes a label back by its number."
    )
    remove.add_argument("config", type=Path, help="the agent's TOML file")
    remove.add_argument("number", type=int, help="as `label list` shows it")
    remove.set_defaults(command=_remove)


def _add(options: argparse.Namespace) -> int:
    labels, channels = _open(options.config)
    channel = _channel(options.config, channels, options.channel)
    try:
        record = LabelRecord(
            channel.name,
            *span_us(options.begin, options.until, options.last, time.time_ns() // 1000),
            value_of(channel, options.value),
        )
    except ValueError as error:
        raise SettingsError("label add", None, None, str(error)) from None
    number = labels.add(record, OPERATOR, options.note)
    labels.close()
    print(f"label {number}: {describe(channel, record)}")
    return 0


def _list(options: argparse.Namespace) -> int:
    labels, channels = _open(options.config)
    found = labels.newest(max(1, options.limit))
    labels.close()
    by_name = {channel.name: channel for channel in channels}
    for kept in found:
        print(in_a_line(by_name.get(kept.record.channel), kept))
    if not found:
        print("no labels yet: journeyman-agent label add --help")
    return 0


def _remove(options: argparse.Namespace) -> int:
    labels, _ = _open(options.config)
    was_there = labels.remove(options.number)
    labels.close()
    if not was_there:
        reason = f"there is no label {options.number}; `journeyman-agent label list` shows them"
        raise SettingsError("label remove", None, None, reason)
    print(f"label {options.number} is taken back")
    return 0


def _open(config: Path) -> tuple[Labels, tuple[LabelChannel, ...]]:
    settings = read_agent_settings(config)
    if not settings.labels.channel:
        raise settings_error(config, "labels", "there is no [[labels.channel]] to label")
    state = resolve(config, settings.agent.state_dir)
    if not state.is_dir():
        reason = f"{state} is not there: the agent has not run with this file yet"
        raise settings_error(config, "agent.state_dir", reason)
    names = [channel.name for channel in settings.channels]
    labels = Labels(state / "labels.db", settings.labels, names, config.parent)
    return labels, settings.labels.channel


def _channel(config: Path, channels: tuple[LabelChannel, ...], name: str) -> LabelChannel:
    for channel in channels:
        if channel.name == name:
            return channel
    known = ", ".join(channel.name for channel in channels)
    raise settings_error(config, "labels.channel", f"no label channel {name!r}; there are: {known}")
