"""An update of which only the largest parameters are sent: where they are, and their integers.

Pure.  For policies with `kept_share` below 1 (`agent/feedback.py` chooses what is kept).  Bytes:

    number                     varint: how many parameters are not zero
    gaps                       that many varints: for each of them, in ascending order, how many
                               parameters were skipped since the one before (or the beginning)
    integers                   that many integers of the policy's bits, as in a dense content

A varint is LEB128, as in DWARF (version 5, section 7.6): seven bits in a byte, the lowest first;
the eighth bit says that another byte follows.  At a share of 1 % a parameter that is kept costs
1.3 bytes for its place, at 10 % one byte.

Invariant: any bytes give a vector or `MalformedError`, and a vector has one encoding only: varints
as short as can be, no integer that is zero, no byte left over.  Sizes are checked before anything
is allocated: what a decoder holds is some multiple of the bytes it was given, and the P integers.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wire.errors import MalformedError
from wire.messages import Policy
from wire.tensors import (
    MAX_PARAMETERS,
    Bits,
    largest_integer,
    pack_integers,
    read_integers,
    update_bytes,
)

_LONGEST: Final = 4
"""Bytes of a varint: 28 bits hold every gap below `MAX_PARAMETERS`, 2**26."""


def kept_count(share: float, count: int) -> int:
    """Parameters that an update may change: ceil(share * count), the product in float64."""
    return min(math.ceil(share * count), count)


def largest_sparse_bytes(bits: Bits, count: int, most: int) -> int:
    """Bytes that no content with up to `most` of `count` parameters exceeds.

    A coordinator knows by it from the header alone which content not to ask for.
    """
    number = len(_varints(np.array([most], np.int64)))
    return number + _most_gap_bytes(most, count) + update_bytes(bits, most)


def problem_with(policy: Policy, *, is_private: bool = False, is_masked: bool = False) -> str:
    """Why a policy can not ask for sparse updates; empty when it can, or does not.

    Args:
      policy: the head's, or the one a coordinator is configured with.
      is_private: updates are noised for differential privacy.
      is_masked: updates are masked for secure aggregation.
    """
    if policy.kept_share == 1.0:
        return ""
    what = f"kept_share = {policy.kept_share} sends only the largest parameters"
    if policy.calibration > 0:
        return (
            f"{what}, and calibration = {policy.calibration} remembers what was sent, so what was "
            "left out would be corrected twice; use kept_share = 1 or calibration = 0"
        )
    if is_private:
        return (
            f"{what}, and which ones they are tells of the rows without any noise; under "
            "differential privacy use kept_share = 1"
        )
    if is_masked:
        return (
            f"{what}, and masks need every site to send the same ones; under secure aggregation "
            "use kept_share = 1"
        )
    return ""


def encode_sparse(integers: NDArray[np.signedinteger], bits: Bits) -> bytes:
    """Encode a vector of shape (P,) that is zero nearly everywhere.

    Raises:
      OverflowError: an integer is beyond +-(2**(bits-1) - 1).
    """
    indices = np.flatnonzero(integers)
    gaps = np.diff(indices, prepend=-1) - 1
    number = np.array([len(indices)], np.int64)
    return _varints(number) + _varints(gaps) + pack_integers(integers[indices], bits)


def decode_sparse(data: bytes, bits: Bits, count: int, most: int) -> NDArray[np.signedinteger]:
    """Decode a content.

    Args:
      data: any bytes.
      bits: width of an integer.
      count: P, the model's parameters, at most `MAX_PARAMETERS`.
      most: parameters that may be kept.

    Returns:
      int8 (4 and 8 bits) or int16, shape (P,).

    Raises:
      MalformedError: not what `encode_sparse` makes of any vector with at most `most` kept.
      ValueError: `count` is above `MAX_PARAMETERS`.
    """
    if count > MAX_PARAMETERS:
        reason = f"{count} parameters; a sparse update has at most {MAX_PARAMETERS}"
        raise ValueError(reason)
    kept, start = _read_number(data)
    if kept > min(most, count):
        reason = f"a sparse update of {kept} parameters; at most {min(most, count)} may be kept"
        raise MalformedError(reason)
    end = len(data) - update_bytes(bits, kept)
    if not kept <= end - start <= _most_gap_bytes(kept, count):
        reason = f"a sparse update of {kept} parameters does not have {len(data)} bytes"
        raise MalformedError(reason)
    indices = np.cumsum(_read_varints(data[start:end], kept) + 1) - 1
    if kept and indices[-1] >= count:
        reason = f"a sparse update changes parameter {indices[-1]} of {count}"
        raise MalformedError(reason)
    integers = read_integers(data[end:], bits, kept)
    _check_integers(integers, bits)
    dense = np.zeros(count, integers.dtype)
    dense[indices] = integers
    return dense


def _check_integers(integers: NDArray[np.signedinteger], bits: Bits) -> None:
    if not integers.all():
        reason = "a sparse update names a parameter that it does not change"
        raise MalformedError(reason)
    if integers.min(initial=0) < -largest_integer(bits):
        reason = f"an integer below -{largest_integer(bits)} is not sent at {bits} bits"
        raise MalformedError(reason)


def _most_gap_bytes(kept: int, count: int) -> int:
    """Bytes that the gaps take at most: all gaps together are below `count`."""
    return kept + sum(min(kept, count >> (7 * position)) for position in range(1, _LONGEST))


def _varints(numbers: NDArray[np.int64]) -> bytes:
    """Encode non-negative numbers below 2**28, shape (N,)."""
    lengths = np.ones(len(numbers), np.int64)
    for position in range(1, _LONGEST):
        lengths += numbers >= 1 << (7 * position)
    starts = np.cumsum(lengths) - lengths
    encoded = np.zeros(int(lengths.sum()), np.uint8)
    for position in range(_LONGEST):
        longer = np.flatnonzero(lengths > position)
        low = numbers[longer] >> (7 * position) & 0x7F
        encoded[starts[longer] + position] = low | (lengths[longer] > position + 1) << 7
    return encoded.tobytes()


def _read_number(data: bytes) -> tuple[int, int]:
    """The first varint, and where the next one begins."""
    for at, byte in enumerate(data[:_LONGEST]):
        if byte < 0x80:
            return int(_read_varints(data[: at + 1], 1)[0]), at + 1
    reason = f"a sparse update must begin with a number of at most {_LONGEST} bytes"
    raise MalformedError(reason)


def _read_varints(data: bytes, number: int) -> NDArray[np.int64]:
    """Decode exactly `number` varints, none longer than it need be, that fill `data`."""
    encoded = np.frombuffer(data, np.uint8)
    last = np.flatnonzero(encoded < 0x80)
    if len(last) != number or (number and last[-1] != len(encoded) - 1):
        reason = f"a sparse update's places are not {number} whole numbers"
        raise MalformedError(reason)
    lengths = np.diff(last, prepend=-1)
    if lengths.max(initial=0) > _LONGEST or (encoded[last[lengths > 1]] == 0).any():
        reason = "a sparse update's place takes more bytes than it needs"
        raise MalformedError(reason)
    numbers = np.zeros(number, np.int64)
    for position in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > position)
        byte = encoded[last[longer] - lengths[longer] + 1 + position]
        numbers[longer] |= (byte.astype(np.int64) & 0x7F) << (7 * position)
    return numbers
