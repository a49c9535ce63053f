"""Sources without an agent: opened, watched for a while, closed.

Reads the machines as the agent does and writes nothing to them; folders of images are left as they
are, whatever `after` says.  A source's own files go to a temporary directory, but for the OPC UA
certificates and trust list, which must be the agent's.
"""

import asyncio
import contextlib
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.live.seen import Seen
from agent.sensors.opcua import OpcUaSettings
from agent.sensors.opcua.trust_store import pki_directory
from agent.sensors.source import SourceContext, SourceReport
from agent.sources import ConfiguredSource, SourceTable

_REFRESH_S = 0.25


@dataclass(frozen=True)
class Watched:
    """A source that is watched, with what it says about itself."""

    source: ConfiguredSource
    report: SourceReport


def harmless(table: SourceTable) -> SourceTable:
    """The same sources, but images that were looked at stay where they are."""
    images = table.images if isinstance(table.images, tuple) else (table.images,)
    return msgspec.structs.replace(
        table, images=tuple(msgspec.structs.replace(each, after="leave") for each in images)
    )


def needs_pki(source: ConfiguredSource) -> bool:
    """Whether certificates are read or made for it."""
    settings = source.settings
    return isinstance(settings, OpcUaSettings) and settings.security.policy != "None"


def needs_own_certificate(source: ConfiguredSource) -> bool:
    """Whether it shows the certificate that the agent made, which holds the agent's id."""
    settings = source.settings
    return (
        isinstance(settings, OpcUaSettings)
        and settings.security.policy != "None"
        and not settings.security.certificate
    )


@contextlib.contextmanager
def scratch_state(state: Path, *, with_pki: bool) -> Iterator[Path]:
    """A state directory for a look: empty, but its OPC UA pki is the agent's own.

    Raises:
      OSError: the agent's pki can not be made.
    """
    with tempfile.TemporaryDirectory(prefix="journeyman-") as name:
        scratch = Path(name)
        if with_pki:
            real, link = pki_directory(state), pki_directory(scratch)
            real.mkdir(parents=True, exist_ok=True)
            link.parent.mkdir(parents=True)
            link.symlink_to(real.absolute())
        yield scratch


async def watch(
    watched: Sequence[Watched],
    context: SourceContext,
    seen: Seen,
    seconds: float,
    is_enough: Callable[[], bool],
) -> None:
    """Read the sources until the time is over, it is enough, all ended, or somebody interrupts.

    Args:
      watched: sources whose `first` is their channels' place in `seen`.
      context: what they are given.
      seen: takes their samples.
      seconds: how long; 0 is until interrupted.
      is_enough: asked now and then; shows what there is, and ends the watch when true.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not the main thread
        loop.add_signal_handler(signal.SIGINT, stop.set)
    readers = [
        asyncio.create_task(_read(each, context, seen), name=each.source.key) for each in watched
    ]
    stopping = asyncio.create_task(stop.wait(), name="interrupted")
    end_s = time.monotonic() + seconds if seconds else float("inf")
    try:
        while not stop.is_set() and not all(reader.done() for reader in readers):
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                break
            pending = [reader for reader in readers if not reader.done()]
            await asyncio.wait(
                [*pending, stopping],
                timeout=min(_REFRESH_S, left_s),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if is_enough():
                break
        for reader in readers:
            if reader.done():
                reader.result()  # a source ends by itself only when it has no more to give
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        await _cancel([*readers, stopping])


async def _read(watched: Watched, context: SourceContext, seen: Seen) -> None:
    blocks = watched.source.open(context, watched.report)
    async with contextlib.aclosing(blocks):
        async for block in blocks:
            seen.take(block.shifted(watched.source.first), time.monotonic())


async def _cancel(tasks: Sequence["asyncio.Task[object]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
