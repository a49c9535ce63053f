"""Every byte that leaves the gateway, counted by destination and category (see README.md)."""

from agent.egress.account import FILE_NAME, Egress
from agent.egress.lines import Account, Line
from agent.egress.meter import LinkMeter
from agent.egress.store import read_account

__all__ = ["FILE_NAME", "Account", "Egress", "Line", "LinkMeter", "read_account"]
