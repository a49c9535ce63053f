"""A model on the emulated board over the real protocol: sent, tested, judged, kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.learning import families
from firmware_bridge import messages
from firmware_bridge.device import CONNECTED
from firmware_bridge.events import Sampled, Scored
from firmware_bridge.frames import Frame
from firmware_bridge.image_format import read_image
from firmware_bridge.image_layers import Image
from firmware_bridge.image_reference import quantize_rows, run_image
from firmware_bridge.messages import Request
from firmware_bridge.model_image import image_from_tflite
from firmware_bridge.slot_content import slot_content
from firmware_bridge.upload import Stage, Upload
from tests.firmware_bridge.emulated_device import Emulated, emulated
from tests.firmware_bridge.tflm_models import exported

CHANNELS, LENGTH = 3, 16
UNIT = np.float32(1 / 1024)
"""The real value of one step of the board's samples."""


def model(seed: int, *, spoiled: bool = False) -> tuple[Image, bytes]:
    """A small network over windows of the board's signals, and a slot's content."""
    graph = families.cnn1d(CHANNELS, LENGTH, 2, seed, widths=(6, 8), kernel=3)
    image = image_from_tflite(exported(graph, seed))
    rows = np.random.default_rng(seed).integers(-128, 128, (4, CHANNELS * LENGTH))
    content = bytearray(slot_content(image, rows.astype(np.int8)))
    if spoiled:
        content[-1] ^= 1  # the last golden output
    return read_image(image), bytes(content)


def sampled(board: Emulated) -> dict[int, NDArray[np.generic]]:
    """Every sample that came, by its device time."""
    found = {}
    for event in board.events:
        if isinstance(event, Sampled):
            sensor = event.sensor
            for place, values in enumerate(sensor.values):
                found[sensor.time_us + place * sensor.period_us] = values
    return found


def scored(board: Emulated, content: bytes) -> list[Scored]:
    mark = hashlib.sha256(content).digest()[:8]
    found = (event for event in board.events if isinstance(event, Scored))
    return [event for event in found if event.score.model == mark]


def compare_scores(board: Emulated, image: Image, content: bytes) -> int:
    """Assert that every score is the reference's of the samples before it; tell how many."""
    samples = sampled(board)
    compared = 0
    for event in scored(board, content):
        last = event.score.time_us
        times = [last - k * 10_000 for k in range(LENGTH - 1, -1, -1)]
        if all(at in samples for at in times):
            row = np.array([samples[at] for at in times]).astype(np.float32) * UNIT
            wanted = run_image(image, quantize_rows(image, row[None]))[0]
            assert np.array_equal(event.score.values, wanted), (last, wanted)
            compared += 1
    return compared


def stage(upload: Upload) -> tuple[Stage, str]:
    return upload.stage, upload.reason


def deploy(board: Emulated, content: bytes) -> Upload:
    board.talk_until(lambda: board.device.state == CONNECTED)
    upload = Upload(content, trial_s=60)
    board.device.deploy(upload)
    return upload


def test_a_model_is_sent_tested_judges_on_trial_and_is_kept_over_a_power_cut(
    tmp_path: Path,
) -> None:
    image, content = model(1)
    with emulated(tmp_path / "memory") as board:
        upload = deploy(board, content)
        board.talk_until(lambda: upload.stage is Stage.ON_TRIAL or upload.has_ended)
        assert stage(upload) == (Stage.ON_TRIAL, "")
        board.talk_until(lambda: compare_scores(board, image, content) >= 3)
        board.device.confirm()
        board.talk_until(lambda: upload.has_ended)
        assert stage(upload) == (Stage.CONFIRMED, "")
    with emulated(tmp_path / "memory") as board:
        board.talk_until(lambda: compare_scores(board, image, content) >= 3)
        assert not scored(board, content)[-1].score.on_trial


def test_a_model_whose_golden_vector_differs_is_refused_and_the_old_one_goes_on(
    tmp_path: Path,
) -> None:
    image, content = model(2)
    spoiled = model(3, spoiled=True)[1]
    with emulated(tmp_path / "memory") as board:
        upload = deploy(board, content)
        board.talk_until(lambda: upload.stage is Stage.ON_TRIAL)
        board.device.confirm()
        board.talk_until(lambda: upload.has_ended)
        refused = deploy(board, spoiled)
        board.talk_until(lambda: refused.has_ended)
        assert stage(refused)[0] is Stage.FAILED
        assert "vector" in stage(refused)[1]
        before = compare_scores(board, image, content)
        board.talk_until(lambda: compare_scores(board, image, content) >= before + 2)
        assert not scored(board, spoiled)


def test_a_reset_over_the_line_starts_the_board_anew_with_the_model_it_had(
    tmp_path: Path,
) -> None:
    image, content = model(4)
    with emulated(tmp_path / "memory") as board:
        upload = deploy(board, content)
        board.talk_until(lambda: upload.stage is Stage.ON_TRIAL)
        board.device.confirm()
        board.talk_until(lambda: compare_scores(board, image, content) >= 2)
        known = board.device.known
        assert known is not None
        board.say(Frame(Request.RESET, 9999, messages.reset(known.boot)))
        board.talk_until(lambda: board.device.figures.resets == 1)
        before = len(scored(board, content))
        board.talk_until(lambda: len(scored(board, content)) >= before + 2)
        assert board.device.known is not None
        assert board.device.known.boot == known.boot + 1
        assert not scored(board, content)[-1].score.on_trial
