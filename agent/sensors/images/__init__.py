"""Images: the files of a folder, or the frames that a camera command prints."""

from agent.sensors.images.settings import ImagesChannelSettings, ImagesSettings, problems
from agent.sensors.source import Blocks, SourceContext, SourceReport

__all__ = ["ImagesChannelSettings", "ImagesSettings", "images_blocks", "problems"]


def images_blocks(settings: ImagesSettings, context: SourceContext, report: SourceReport) -> Blocks:
    """Blocks of one source, see `source.images_blocks`; the driver is loaded when first asked."""
    from agent.sensors.images.source import images_blocks as blocks  # noqa: PLC0415

    return blocks(settings, context, report)
