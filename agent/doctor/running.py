"""What a running agent says about itself."""

from collections.abc import Iterator
from pathlib import Path

from agent.doctor.finding import Finding, ok, skipped, warning
from agent.running import agent_runs
from agent.status import Status, read_status
from wire.errors import SettingsError

_START = "systemctl start journeyman-agent; journalctl -u journeyman-agent says why it ended"


def running(state: Path) -> Iterator[Finding]:
    """Whether an agent runs here, and what it complains of."""
    if not agent_runs(state):
        yield skipped("agent", "it does not run here now", _START)
        return
    try:
        status = read_status(state)
    except SettingsError as error:
        yield warning("agent", str(error), "restart the agent: its version differs from this one")
        return
    if status is None:
        yield ok("agent", "it runs, and has not said anything yet")
        return
    yield ok("agent", f"it runs, process {status.pid}, {status.rows} rows, link {status.link}")
    yield from judge_status(status)


def judge_status(status: Status) -> Iterator[Finding]:
    """What it complains of."""
    for source in status.sources:
        if not source.is_well:
            yield warning(
                "source", f"{source.name}: {source.state}", "journeyman-agent test shows it closer"
            )
        for name, reason in list(source.problems.items())[:5]:
            yield warning(
                "source", f"{source.name}, {name}: {reason}", "see the driver's README.md"
            )
    if status.storage != "ok":
        yield warning("storage", status.storage, "see the checks of disk and files")
    if status.refused:
        yield warning("messages", f"refused: {status.refused}", "tell whoever runs the coordinator")
