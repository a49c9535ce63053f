"""Tensors on the wire: safetensors files for weights, integers at a public scale for updates.

The flat vector of a model is the concatenation of its tensors in the order of the bundle's
manifest, each in C order.  Quantization is stochastic rounding, so it is unbiased, and its scale is
public, so integers of different sites add (`PROTOCOL.md`, "Updates are integers").
"""

import json
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from wire.errors import MalformedError, TooLargeError

Params = dict[str, NDArray[np.float32]]
Shapes = Sequence[tuple[str, tuple[int, ...]]]
Bits = Literal[4, 8, 16]
"""Width of an update's integers."""

MAX_TENSORS = 1024
MAX_HEADER_BYTES = 1 << 20
MAX_PARAMETERS = 1 << 26
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}
_INTEGERS: dict[int, np.dtype[Any]] = {
    4: np.dtype("<i1"),
    8: np.dtype("<i1"),
    16: np.dtype("<i2"),
}
"""What holds the integers of each width in memory; two of 4 bits share a byte on the wire."""


def write_safetensors(tensors: dict[str, NDArray[np.generic]]) -> bytes:
    """Encode float32 and int64 tensors as a safetensors file (huggingface/safetensors, format).

    Deterministic: the same tensors in the same order give the same bytes.
    """
    header: dict[str, object] = {}
    blobs: list[bytes] = []
    at = 0
    for name, tensor in tensors.items():
        tag = {"f": "F32", "i": "I64"}[tensor.dtype.kind]
        blob = np.ascontiguousarray(tensor, dtype=_DTYPES[tag]).tobytes()
        header[name] = {
            "dtype": tag,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + len(blob)],
        }
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(blobs)


def read_safetensors(data: bytes) -> dict[str, NDArray[np.generic]]:
    """Decode a safetensors file of float32 and int64 tensors, checking every offset.

    Raises:
      MalformedError: not such a file, gaps or overlaps between tensors, or a non-finite value.
      TooLargeError: a header, number of tensors or number of elements above the caps.
    """
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(MAX_HEADER_BYTES, len(data) - 8):
        reason = "safetensors: the header does not fit the file"
        raise MalformedError(reason)
    try:
        header = json.loads(data[8 : 8 + size].decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        reason = "safetensors: the header is not a JSON object"
        raise MalformedError(reason)
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        reason = f"safetensors: {len(header)} tensors, at most {MAX_TENSORS}"
        raise TooLargeError(reason)
    body = data[8 + size :]
    tensors: dict[str, NDArray[np.generic]] = {}
    at = 0
    for name, entry in header.items():
        tensors[name], at = _read_tensor(name, entry, body, at)
    if at != len(body):
        reason = f"safetensors: {len(body) - at} bytes after the last tensor"
        raise MalformedError(reason)
    return tensors


def _read_tensor(name: str, entry: object, body: bytes, at: int) -> tuple[NDArray[np.generic], int]:
    entry = entry if isinstance(entry, dict) else {}
    tag, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if (
        not isinstance(tag, str)
        or tag not in _DTYPES
        or not _naturals(shape, 8)
        or not _naturals(offsets, 2)
        or len(offsets) != 2
    ):
        reason = f"safetensors: tensor {name[:60]!r} needs dtype F32 or I64, shape, data_offsets"
        raise MalformedError(reason)
    count = math.prod(shape)
    if count == 0:  # numpy refuses some of these shapes, and no model needs any
        reason = f"safetensors: tensor {name[:60]!r} has no elements"
        raise MalformedError(reason)
    if count > MAX_PARAMETERS:
        reason = f"safetensors: tensor {name[:60]!r} has {count} elements, at most {MAX_PARAMETERS}"
        raise TooLargeError(reason)
    dtype = _DTYPES[tag]
    end = at + count * dtype.itemsize
    if offsets != [at, end] or end > len(body):
        reason = f"safetensors: tensor {name[:60]!r} is not at bytes {at} to {end}"
        raise MalformedError(reason)
    tensor = np.frombuffer(body, dtype, count, at).reshape(shape)
    if dtype.kind == "f" and not np.isfinite(tensor).all():
        reason = f"safetensors: tensor {name[:60]!r} has a value that is not finite"
        raise MalformedError(reason)
    return tensor, end


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({name for name, _ in pairs}) != len(pairs):
        reason = "a name stands twice"
        raise ValueError(reason)
    return dict(pairs)


def _naturals(value: object, longest: int) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) <= longest
        and all(type(item) is int and 0 <= item <= MAX_PARAMETERS * 8 for item in value)
    )


def write_params(params: Params) -> bytes:
    """Encode a model's weights."""
    return write_safetensors(dict(params))


def read_params(data: bytes, shapes: Shapes) -> Params:
    """Decode a model's weights; names, order and shapes must be those of the manifest."""
    tensors = read_safetensors(data)
    found = [(name, tensor.shape) for name, tensor in tensors.items()]
    if any(tensor.dtype.kind != "f" for tensor in tensors.values()):
        reason = "weights must all be float32"
        raise MalformedError(reason)
    if found != [(name, tuple(shape)) for name, shape in shapes]:
        # Names in the file may be as long as its header; the words go into a log.
        here, there = str(found[:3])[:300], str(list(shapes)[:3])[:300]
        reason = f"weights {here}… do not match the manifest {there}…"
        raise MalformedError(reason)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def flatten(params: Params) -> NDArray[np.float32]:
    """Concatenate all tensors into a float32 vector of shape (P,)."""
    return np.concatenate([tensor.ravel() for tensor in params.values()])


def unflatten(vector: NDArray[np.floating], shapes: Shapes) -> Params:
    """Cut a vector of shape (P,) into the tensors of the manifest."""
    params: Params = {}
    at = 0
    for name, shape in shapes:
        count = math.prod(shape)
        params[name] = vector[at : at + count].astype(np.float32).reshape(shape)
        at += count
    return params


def parameter_count(shapes: Shapes) -> int:
    """P, the length of the flat vector."""
    return sum(math.prod(shape) for _, shape in shapes)


def largest_integer(bits: Bits) -> int:
    """Steps that the widest integer holds; the least is its negative, for symmetry."""
    return (1 << (bits - 1)) - 1


def update_bytes(bits: Bits, count: int) -> int:
    """Size of `count` integers of `bits` on the wire."""
    return -(-count * bits // 8)


def round_to_steps(
    vector: NDArray[np.floating], scale: float, bits: Bits, rng: np.random.Generator
) -> tuple[NDArray[np.signedinteger], int]:
    """Round a delta stochastically to integers of `scale` each.

    Args:
      vector: float, shape (P,), finite.
      scale: value of one integer step.
      bits: width of an integer; values beyond +-(2**(bits-1) - 1) steps saturate.
      rng: source of the rounding's uniform numbers (not a privacy noise).

    Returns:
      int8 (4 and 8 bits) or int16, shape (P,), and how many of them saturated.
    """
    limit = largest_integer(bits)
    steps = vector.astype(np.float64) / scale
    rounded = np.floor(steps + rng.random(steps.shape))
    saturated = int(np.count_nonzero(np.abs(rounded) > limit))
    return np.clip(rounded, -limit, limit).astype(_INTEGERS[bits]), saturated


def pack_integers(integers: NDArray[np.signedinteger], bits: Bits) -> bytes:
    """Encode integers, shape (P,), as little-endian two's complement of `bits` bits.

    Of two 4-bit integers the first is in the low half of their byte; an odd one out leaves the
    last high half zero.

    Raises:
      OverflowError: one is beyond +-(2**(bits-1) - 1); `round_to_steps` gives none.
    """
    limit = largest_integer(bits)
    if integers.max(initial=0) > limit or integers.min(initial=0) < -limit:
        reason = f"an integer beyond +-{limit} does not fit {bits} bits"
        raise OverflowError(reason)
    whole = integers.astype(_INTEGERS[bits])
    if bits != 4:
        return whole.tobytes()
    halves = np.zeros(whole.size + whole.size % 2, np.uint8)
    halves[: whole.size] = whole.view(np.uint8) & 0x0F
    return (halves[0::2] | halves[1::2] << 4).tobytes()


def quantize(
    vector: NDArray[np.floating], scale: float, bits: Bits, rng: np.random.Generator
) -> tuple[bytes, int]:
    """Round a delta as `round_to_steps` does; return a dense content's bytes, and the saturated."""
    integers, saturated = round_to_steps(vector, scale, bits, rng)
    return pack_integers(integers, bits), saturated


def read_integers(data: bytes, bits: Bits, count: int) -> NDArray[np.signedinteger]:
    """Read an update's bytes as `count` little-endian integers of `bits`.

    Returns:
      Shape (count,): int8 for 4 bits, unpacked; for 8 and 16 bits a view of the bytes.

    Raises:
      MalformedError: another size; at 4 bits also a -8, or a last half byte that is not zero.
    """
    expected = update_bytes(bits, count)
    if len(data) != expected:
        reason = f"an update of {count} {bits}-bit integers has {expected} bytes, not {len(data)}"
        raise MalformedError(reason)
    if bits != 4:
        return np.frombuffer(data, _INTEGERS[bits])
    return _read_halves(data, count)


def _read_halves(data: bytes, count: int) -> NDArray[np.int8]:
    """Unpack 4-bit integers.

    Both halves of a byte at once, in a 16-bit lane: over 5 G parameters per second on one core,
    more than twice as many as by a table of all 256 pairs (numpy widens indices to 8 bytes each).
    """
    if count % 2 and data[-1] >> 4:
        reason = "the last half byte of an odd number of 4-bit integers must be zero"
        raise MalformedError(reason)
    lanes = np.frombuffer(data, np.uint8).astype("<u2")
    lanes |= lanes << np.uint16(4)
    lanes &= np.uint16(0x0F0F)
    # Two's complement of 4 bits: flip the sign's bit, then 8 less.
    lanes ^= np.uint16(0x0808)
    integers = lanes.view(np.int8)
    integers -= np.int8(8)
    if integers.min(initial=0) == -8:
        reason = "a 4-bit integer is -8; the range is -7 to 7"
        raise MalformedError(reason)
    return integers[:count]


def clip(vector: NDArray[np.floating], norm: float) -> NDArray[np.floating]:
    """Scale a vector down to at most this L2 norm."""
    # Not np.linalg.norm: it wakes the threads of BLAS, which spin for 8 ms after a sum of 0.2 ms.
    length = float(np.sqrt(np.sum(np.square(vector))))
    return vector * (norm / length) if length > norm else vector
