"""`journeyman-agent egress`: what ever left this gateway, for a works council or a lawyer.

Reads the account beside the running agent, or without one; changes nothing.
"""

import argparse
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from agent.config import read_agent_settings
from agent.egress import FILE_NAME, Account, Line, read_account
from agent.egress.categories import CATEGORIES, Category
from agent.egress.enrolment import enrolment_lines
from agent.status_words import in_bytes
from wire.database import DiskError
from wire.errors import SettingsError
from wire.settings import resolve

_HEAD = ("category", "messages", "bytes", "", "first", "last")
_RIGHT = (1, 2, 3)


def add_egress(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the agent's parser."""
    egress = commands.add_parser(
        "egress",
        help="show every category and byte count that ever left this gateway",
        description="Shows by destination and category how many bytes ever left this gateway, and "
        "what they hold. The running agent writes the account every ten seconds. Not in it: what "
        "goes to machines of the site that are read, DNS, and what the operating system sends.",
    )
    egress.add_argument("config", type=Path, help="the agent's TOML file")
    egress.add_argument("--json", action="store_true", help="for programs, with all words")
    egress.add_argument(
        "--explain", action="store_true", help="say of every category what it holds and never holds"
    )
    egress.set_defaults(command=_egress)


def _egress(options: argparse.Namespace) -> int:
    settings = read_agent_settings(options.config)
    path = resolve(options.config, settings.agent.state_dir) / FILE_NAME
    try:
        account = read_account(path)
    except DiskError as error:
        raise SettingsError(str(path), None, None, error.reason) from None
    enrolled = enrolment_lines(resolve(options.config, settings.trust.credential))
    if account is None and not enrolled and not options.explain:
        print(f"no {path}: the agent has not run with this file yet", file=sys.stderr)
        return 1
    begun = account or Account(since=min([line.first for line in enrolled], default=0.0), cuts=0)
    whole = msgspec.structs.replace(begun, lines=(*enrolled, *begun.lines))
    if options.json:
        print(msgspec.json.format(as_json(whole)).decode())
        return 0
    for text in table(whole):
        print(text)
    if options.explain:
        for category in CATEGORIES.values():
            print(f"\n{category.name}\n  holds: {category.holds}")
            if category.never:
                print(f"  never: {category.never}")
    return 0


class _JsonLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line with its words; times are ISO 8601, UTC, by the gateway's clock."""

    destination: str
    category: str
    messages: int
    bytes: int
    first: str
    last: str
    holds: str
    never: str


class _JsonAccount(msgspec.Struct, frozen=True, kw_only=True):
    since: str
    processes_cut_short: int
    bytes: int
    lines: list[_JsonLine]


def as_json(account: Account) -> bytes:
    """The account as JSON."""
    lines = [
        _JsonLine(
            destination=line.destination,
            category=line.category,
            messages=line.messages,
            bytes=line.bytes,
            first=_time(line.first),
            last=_time(line.last),
            holds=_category(line).holds,
            never=_category(line).never,
        )
        for line in account.lines
    ]
    return msgspec.json.encode(
        _JsonAccount(
            since=_time(account.since),
            processes_cut_short=account.cuts,
            bytes=sum(line.bytes for line in account.lines),
            lines=lines,
        )
    )


def table(account: Account) -> Iterator[str]:
    """Yield the account's lines for a terminal: by destination, in the order of the categories."""
    order = list(CATEGORIES)
    for destination in dict.fromkeys(line.destination for line in account.lines):
        found = [line for line in account.lines if line.destination == destination]
        found.sort(key=lambda line: order.index(_category(line).name))
        yield destination
        yield from _aligned([_HEAD, *map(_row, found)])
        yield ""
    total = sum(line.bytes for line in account.lines)
    yield f"all: {total} bytes ({in_bytes(total)}) since {_time(account.since)}"
    if account.cuts:
        yield (
            f"{account.cuts} times the agent was killed or lost its power: what it sent in the "
            "last seconds before is missing"
        )


def _row(line: Line) -> tuple[str, ...]:
    times = (_time(line.first), _time(line.last))
    return (line.category, str(line.messages), str(line.bytes), in_bytes(line.bytes), *times)


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(_HEAD))]
    for row in rows:
        cells = (
            f"{cell:>{width}}" if at in _RIGHT else f"{cell:<{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield f"  {'  '.join(cells)}".rstrip()


def _category(line: Line) -> Category:
    return CATEGORIES.get(line.category, CATEGORIES["unknown"])


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
