"""Images as a source: the files of a folder, or the frames of a command."""

import hashlib
from contextlib import aclosing
from pathlib import Path

from agent.sensors.images.command import Cameras
from agent.sensors.images.seen import Seen
from agent.sensors.images.settings import ImagesSettings
from agent.sensors.images.watch import Watch
from agent.sensors.source import Blocks, SourceContext, SourceReport


async def images_blocks(
    settings: ImagesSettings, context: SourceContext, report: SourceReport
) -> Blocks:
    """Yield the frames of one `[[source.images]]` for ever, one frame in a block."""
    if settings.command:
        async with aclosing(Cameras(settings, context, report).blocks()) as blocks:
            async for block in blocks:
                yield block
        return
    seen = Seen(_memory(settings, context), settings.remember)
    try:
        async with aclosing(Watch(settings, context, report, seen).blocks()) as blocks:
            async for block in blocks:
                yield block
    finally:
        seen.close()


def _memory(settings: ImagesSettings, context: SourceContext) -> Path:
    """The file of one folder and pattern; other settings do not change what was taken."""
    key = f"{settings.folder}\n{settings.glob}".encode()
    name = f"{hashlib.sha256(key).hexdigest()[:16]}.db"
    return context.state_dir / "sources" / "images" / name
