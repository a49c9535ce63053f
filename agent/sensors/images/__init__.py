"""Images: the files of a folder, or the frames that a camera command prints."""

from agent.sensors.images.settings import ImagesChannelSettings, ImagesSettings, problems
from agent.sensors.images.source import images_blocks

__all__ = ["ImagesChannelSettings", "ImagesSettings", "images_blocks", "problems"]
