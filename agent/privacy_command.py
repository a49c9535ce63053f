"""`journeyman-agent privacy`: what this site has promised, spent and left, in words.

Reads the ledger and the status file, beside a running agent and without one; changes nothing.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from agent.config import read_agent_settings
from agent.privacy import FILE_NAME, PrivacyReport, PrivacyTable, read_account
from agent.privacy.accounting import epsilon_of
from agent.privacy.ledger import Account
from agent.status import read_status
from wire.settings import resolve


def add_privacy(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the agent's parser."""
    text = "say what privacy is promised, what it has cost and what is left"
    privacy = commands.add_parser("privacy", help=text, description=text)
    privacy.add_argument("config", type=Path, help="the agent's TOML file")
    privacy.set_defaults(command=_privacy)


def _privacy(options: argparse.Namespace) -> int:
    config: Path = options.config
    settings = read_agent_settings(config)
    state = resolve(config, settings.agent.state_dir)
    try:
        account = read_account(state / FILE_NAME)
    except (OSError, ValueError) as error:
        print(f"{state / FILE_NAME}: {error}", file=sys.stderr)
        return 1
    status = read_status(state)
    said = status.privacy if status is not None else None
    for line in in_lines(settings.privacy, account or Account(), said):
        print(line)
    return 0


def in_lines(table: PrivacyTable, account: Account, said: PrivacyReport | None) -> Iterator[str]:
    """What people are told.

    Args:
      table: the site's settings.
      account: what the ledger holds.
      said: by the agent when it ran last.
    """
    budget = f"epsilon {table.epsilon:g}" if table.epsilon else "none: what is spent is counted"
    yield f"this site insists on: {_floor(table)}"
    yield f"budget: {budget} at delta {table.delta:g}"
    epsilon = epsilon_of(account.spent, table.delta)
    releases = account.spent.releases
    yield f"spent: epsilon {epsilon:.4g} at delta {table.delta:g}, on {releases} updates"
    for unit, number in (("record", account.by_record), ("update", account.by_update)):
        if number:
            yield f'  {number} of them under privacy = "{unit}"'
    if said is None:
        yield "left: not known before the agent has run"
        return
    yield f'policy in force: privacy = "{said.unit}"'
    if said.refused:
        yield f"no update is made: {said.refused}"
    if said.releases_left is not None:
        yield f"left: {said.releases_left} updates at that policy"
    if said.not_covered:
        yield "not covered by these figures:"
    for what in said.not_covered:
        yield f"  - {what}"


def _floor(table: PrivacyTable) -> str:
    asked = [
        f'{key} = "{value}"'
        for key, value in (("privacy", table.unit), ("protection", table.protection))
        if value != "none"
    ]
    if table.noise_multiplier:
        asked.append(f"noise_multiplier of at least {table.noise_multiplier:g}")
    return ", ".join(asked) or "nothing; the federation's policy decides"
