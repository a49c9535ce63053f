"""A camera command as a source of frames, started again for ever when it ends, fails or hangs.

Invariant: between two frames of a channel there is either nothing lost, or a gap that says why.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from agent.sensors.images.camera import Camera, Splitter, start
from agent.sensors.images.frames import Decoded, FrameDecoder, report_frame
from agent.sensors.images.jpeg import JpegSplitter
from agent.sensors.images.netpbm import NetpbmSplitter
from agent.sensors.images.settings import ImagesSettings
from agent.sensors.source import SourceContext, SourceReport
from agent.signals.block import EMPTY, Block, Gap, block_of
from wire.errors import one_line
from wire.reconnecting import Reconnecting

ALIVE_S = 1.0
FIRST_RESTART_S = 0.5
_COMMAND = "command"


class Cameras:
    """One camera command after the other; settings have no problems."""

    def __init__(
        self, settings: ImagesSettings, context: SourceContext, report: SourceReport
    ) -> None:
        self._settings, self._report, self._folder = settings, report, context.config_dir
        self._decoder = FrameDecoder(settings)
        self._last_us: int | None = None
        self._loss = ""
        self._lost: int | None = 0

    async def blocks(self) -> AsyncGenerator[Block, None]:
        """Yield each frame, and at least every second an empty block."""
        waits = Reconnecting(
            FIRST_RESTART_S,
            self._settings.restart_max_s,
            random.Random(),  # noqa: S311  jitter only
        )
        while True:
            began_s = time.monotonic()
            camera = Camera(self._splitter(), self._settings.queue)
            async with aclosing(self._one(camera)) as blocks:
                async for block in blocks:
                    yield block
            lived_s = camera.last_frame_s - began_s if self._report.state == "reading" else 0.0
            again_s = time.monotonic() + waits.wait_s(lived_s)
            self._report.state = f"waiting: {self._report.problems[_COMMAND]}"
            self._report.count("restarts")
            while (wait_s := again_s - time.monotonic()) > 0:
                yield EMPTY
                await asyncio.sleep(min(wait_s, ALIVE_S))

    def _splitter(self) -> Splitter:
        if self._settings.frames == "mjpeg":
            return JpegSplitter(self._settings.max_bytes)
        return NetpbmSplitter(self._settings.max_pixels, self._settings.max_bytes)

    async def _one(self, camera: Camera) -> AsyncGenerator[Block, None]:
        """The frames of one process, until there can be no more."""
        self._report.state = "starting"
        name = self._settings.command[0]
        try:
            process = await start(self._settings.command, self._folder, camera)
        except (OSError, ValueError) as error:
            self._ended(f"can not start {name}: {error}")
            return
        try:
            async with aclosing(self._frames(camera)) as blocks:
                async for block in blocks:
                    yield block
            reason = self._reason(camera)
        finally:
            status = await process.end()
        self._ended(_last_line(name, reason, status, camera))

    async def _frames(self, camera: Camera) -> AsyncGenerator[Block, None]:
        silent_s = time.monotonic()
        while camera.is_running or camera.frames:
            if camera.frames:
                frame = camera.frames.popleft()
                if camera.dropped:
                    self._lose("the receiver was slower than the camera", camera.dropped)
                    self._report.count("dropped_frames", camera.dropped)
                    camera.dropped = 0
                decoded = await asyncio.to_thread(self._decoder.decode, frame)
                self._report.state = "reading"
                self._report.problems.pop(_COMMAND, None)
                report_frame(decoded, self._settings, self._report)
                yield self._block(decoded)
                silent_s = time.monotonic()
                continue
            if time.monotonic() > camera.last_frame_s + self._settings.frame_timeout_s:
                return
            await camera.wait(min(ALIVE_S, self._settings.frame_timeout_s / 4))
            if not camera.frames and time.monotonic() >= silent_s + ALIVE_S:
                yield EMPTY
                silent_s = time.monotonic()

    def _reason(self, camera: Camera) -> str:
        if camera.failure:
            return f"printed no frame: {camera.failure}"
        if camera.is_running:
            return f"gave no frame for {self._settings.frame_timeout_s:g} s and was ended"
        if camera.splitter.pending_bytes:
            self._report.count("bad_frames")
            return f"ended within a frame, after {camera.splitter.pending_bytes} bytes of it"
        return "ended"

    def _ended(self, problem: str) -> None:
        self._report.problems[_COMMAND] = one_line(problem)
        self._lose(problem, None)

    def _lose(self, reason: str, count: int | None) -> None:
        """Note what is lost before the next frame; an unknown number stays unknown."""
        self._loss = self._loss or reason
        self._lost = None if count is None or self._lost is None else self._lost + count

    def _block(self, decoded: Decoded) -> Block:
        time_us = decoded.samples[0].source_timestamp_us
        gaps: tuple[Gap, ...] = ()
        if self._loss and self._last_us is not None:
            begin = min(self._last_us, time_us)
            gaps = tuple(
                Gap(sample.channel, begin, time_us, one_line(self._loss), self._lost)
                for sample in decoded.samples
            )
            self._report.count("gaps")
        self._loss, self._lost, self._last_us = "", 0, time_us
        return block_of((), (), (), (), arrays=decoded.samples, gaps=gaps)


def _last_line(name: str, reason: str, status: int | None, camera: Camera) -> str:
    ended = f" (status {status})" if reason.startswith("ended") else ""
    words = camera.last_words.splitlines()
    return f"{name} {reason}{ended}" + (f": {words[-1]}" if words else "")
