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

MAX_TENSORS = 1024
MAX_HEADER_BYTES = 1 << 20
MAX_PARAMETERS = 1 << 26
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}
_INTEGERS: dict[int, np.dtype[Any]] = {8: np.dtype("<i1"), 16: np.dtype("<i2")}


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


def quantize(
    vector: NDArray[np.floating], scale: float, bits: Literal[8, 16], rng: np.random.Generator
) -> tuple[bytes, int]:
    """Round a delta stochastically to integers of `scale` each.

    Args:
      vector: float, shape (P,), finite.
      scale: value of one integer step.
      bits: width of an integer; values beyond +-(2**(bits-1) - 1) steps saturate.
      rng: source of the rounding's uniform numbers (not a privacy noise).

    Returns:
      P little-endian integers, and how many of them saturated.
    """
    limit = (1 << (bits - 1)) - 1
    steps = vector.astype(np.float64) / scale
    rounded = np.floor(steps + rng.random(steps.shape))
    saturated = int(np.count_nonzero(np.abs(rounded) > limit))
    return np.clip(rounded, -limit, limit).astype(_INTEGERS[bits]).tobytes(), saturated


def read_integers(data: bytes, bits: Literal[8, 16], count: int) -> NDArray[np.signedinteger]:
    """View an update's bytes as `count` little-endian integers of `bits`."""
    if len(data) != count * bits // 8:
        expected = count * bits // 8
        reason = f"an update of {count} {bits}-bit integers has {expected} bytes, not {len(data)}"
        raise MalformedError(reason)
    return np.frombuffer(data, _INTEGERS[bits])


def clip(vector: NDArray[np.floating], norm: float) -> NDArray[np.floating]:
    """Scale a vector down to at most this L2 norm."""
    # Not np.linalg.norm: it wakes the threads of BLAS, which spin for 8 ms after a sum of 0.2 ms.
    length = float(np.sqrt(np.sum(np.square(vector))))
    return vector * (norm / length) if length > norm else vector
