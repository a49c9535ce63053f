"""What passes between the agent and its training child: length-prefixed msgpack structs.

Responsible for the messages and their bytes. A frame is a 4-byte big-endian length and that
many bytes of msgpack. Refuses frames over `LARGEST_FRAME` before reading them, unknown fields,
and arrays whose bytes do not fill their shape. Arrays cross as (dtype, shape, bytes): nothing
is ever unpickled.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.learning.checkpoint import Checkpoint
from agent.learning.choice import BackendName
from agent.learning.golden import Golden
from agent.learning.ir import Params
from agent.learning.losses import Loss
from agent.learning.plan import TrainingPlan
from agent.learning.train import TrainingResult

LARGEST_FRAME = 256 << 20
"""Bytes of one message; a site's training rows are a few MB."""

HEADER = struct.Struct(">I")


class FrameError(ValueError):
    """The bytes are no message of this protocol."""


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class WireArray(_Message, frozen=True):
    """One array: little-endian values in C order; the data may be a view of the frame."""

    dtype: Literal["float32", "int64"]
    shape: tuple[int, ...]
    data: memoryview


class WireGolden(_Message, frozen=True):
    """`Golden` with the parameters it holds for."""

    x: WireArray
    y: WireArray
    output: WireArray
    loss: float
    grad_norms: dict[str, float]
    params: dict[str, WireArray]
    tolerance: float


class Prepare(_Message, frozen=True, tag="prepare"):
    """Load a model; answered by `Prepared`."""

    graph: bytes
    loss: Loss
    golden: WireGolden | None = None
    backend: BackendName = "auto"


class Train(_Message, frozen=True, tag="train"):
    """Train the model loaded; answered by any number of `Checkpointed`, then `Trained`.

    `checkpoint` is one to go on from. `checkpoint_s` is the least time between two
    `Checkpointed`, 0 for none.
    """

    params: dict[str, WireArray]
    x: WireArray
    y: WireArray
    plan: TrainingPlan
    held_out: tuple[WireArray, WireArray] | None = None
    example_weights: WireArray | None = None
    checkpoint: bytes | None = None
    checkpoint_s: float = 0.0


class Interrupt(_Message, frozen=True, tag="interrupt"):
    """Stop training between two steps; `Trained` follows as always.

    No answer of its own, and nothing happens when no training is going on: the two may cross.
    """


class Infer(_Message, frozen=True, tag="infer"):
    """Run the model loaded; answered by `Inferred`."""

    params: dict[str, WireArray]
    x: WireArray


class Prepared(_Message, frozen=True, tag="prepared"):
    """The model is loaded and its golden vectors, if any, hold."""


class Checkpointed(_Message, frozen=True, tag="checkpointed"):
    """Where the training that is going on could go on, see `Checkpoint`."""

    data: bytes


class Trained(_Message, frozen=True, tag="trained"):
    """`TrainingResult` on its way back."""

    params: dict[str, WireArray]
    steps: int
    examples: int
    loss_first_epoch: float
    loss_last_epoch: float
    stopped: bool
    epochs: int
    held_out_start: float
    held_out_best: float
    best_epoch: int
    checkpoint: bytes | None


class Inferred(_Message, frozen=True, tag="inferred"):
    """The model's output."""

    output: WireArray


class Failed(_Message, frozen=True, tag="failed"):
    """The request could not be done; `kind` is the error's class, `reason` its words."""

    kind: str
    reason: str


Request = Prepare | Train | Infer | Interrupt
Reply = Prepared | Checkpointed | Trained | Inferred | Failed

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    """Return a message's frame.

    Raises:
      FrameError: the message exceeds `LARGEST_FRAME`.
    """
    body = _encoder.encode(message)
    check_length(len(body))
    return HEADER.pack(len(body)) + body


def check_length(size: int) -> None:
    """Refuse a body's announced length before anything is read.

    Raises:
      FrameError: it exceeds `LARGEST_FRAME`.
    """
    if size > LARGEST_FRAME:
        raise FrameError(f"a frame of {size} bytes exceeds {LARGEST_FRAME}")


def decode_request(body: bytes | bytearray) -> Request:
    """Read a request's body.

    Raises:
      FrameError: it is none.
    """
    try:
        return _requests.decode(body)
    except (msgspec.DecodeError, ValueError) as error:
        raise FrameError(f"not a request: {error}") from error


def decode_reply(body: bytes) -> Reply:
    """Read a reply's body.

    Raises:
      FrameError: it is none.
    """
    try:
        return _replies.decode(body)
    except (msgspec.DecodeError, ValueError) as error:
        raise FrameError(f"not a reply: {error}") from error


def pack_array(value: NDArray[Any]) -> WireArray:
    """Turn a float32 or int64 array into its message.

    Raises:
      FrameError: another element type.
    """
    name = value.dtype.name
    if name not in ("float32", "int64"):
        raise FrameError(f"arrays of {name} do not travel, convert to float32 or int64")
    plain = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
    data = plain.reshape(-1).view(np.uint8).data
    return WireArray("float32" if name == "float32" else "int64", value.shape, data)


def unpack_array(message: WireArray) -> NDArray[Any]:
    """Turn a message into an array; it is a read-only view of the frame.

    Raises:
      FrameError: the bytes do not fill the shape.
    """
    dtype = np.dtype(message.dtype).newbyteorder("<")
    count = math.prod(message.shape)
    if min(message.shape, default=0) < 0 or count * dtype.itemsize != len(message.data):
        raise FrameError(f"{len(message.data)} bytes do not fill shape {message.shape}")
    return (
        np.frombuffer(message.data, dtype).reshape(message.shape).astype(message.dtype, copy=False)
    )


def pack_params(params: Params) -> dict[str, WireArray]:
    """Turn parameters into their message, order kept."""
    return {name: pack_array(value) for name, value in params.items()}


def unpack_params(message: dict[str, WireArray]) -> Params:
    """Turn a message into parameters, order kept."""
    return {name: unpack_array(value) for name, value in message.items()}


def pack_golden(golden: Golden, params: Params, tolerance: float) -> WireGolden:
    """Turn golden vectors, and the parameters they hold for, into their message."""
    return WireGolden(
        x=pack_array(golden.x),
        y=pack_array(golden.y),
        output=pack_array(golden.output),
        loss=golden.loss,
        grad_norms=dict(golden.grad_norms),
        params=pack_params(params),
        tolerance=tolerance,
    )


def unpack_golden(message: WireGolden) -> Golden:
    """Turn a message into golden vectors."""
    return Golden(
        x=unpack_array(message.x),
        y=unpack_array(message.y),
        output=unpack_array(message.output),
        loss=message.loss,
        grad_norms=message.grad_norms,
    )


def pack_result(result: TrainingResult) -> Trained:
    """Turn a training's result into its message."""
    return Trained(
        params=pack_params(result.params),
        steps=result.steps,
        examples=result.examples,
        loss_first_epoch=result.loss_first_epoch,
        loss_last_epoch=result.loss_last_epoch,
        stopped=result.stopped,
        epochs=result.epochs,
        held_out_start=result.held_out_start,
        held_out_best=result.held_out_best,
        best_epoch=result.best_epoch,
        checkpoint=result.checkpoint.to_bytes() if result.checkpoint else None,
    )


def unpack_result(message: Trained) -> TrainingResult:
    """Turn a message into a training's result, with arrays of its own.

    Raises:
      CheckpointError: its checkpoint is none.
    """
    checkpoint = message.checkpoint
    return TrainingResult(
        params={name: unpack_array(value).copy() for name, value in message.params.items()},
        steps=message.steps,
        examples=message.examples,
        loss_first_epoch=message.loss_first_epoch,
        loss_last_epoch=message.loss_last_epoch,
        stopped=message.stopped,
        epochs=message.epochs,
        held_out_start=message.held_out_start,
        held_out_best=message.held_out_best,
        best_epoch=message.best_epoch,
        checkpoint=Checkpoint.from_bytes(checkpoint) if checkpoint is not None else None,
    )
