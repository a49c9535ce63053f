"""Columns of integers and real numbers as few bytes, without losing a bit.

Samples of one channel stand together (a run), because a channel resembles itself.  Integers are
differences within their run, folded to small unsigned numbers; the bytes of equal weight stand
together; zlib at its lowest level does the rest.  FORMAT.md has the measurements that chose this.

Pure.  Refuses bytes that do not give exactly the numbers asked for: `ValueError`.
"""

import zlib
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
Floats = NDArray[np.float64]
Number = TypeVar("Number", bound=np.generic)

LEVEL = 1
"""zlib's: 6 saves 2 to 5 % more for two to six times the time."""
FLOAT64, FLOAT32, FIRST_SCALED = 0, 1, 2
_DIVISORS = (1.0, 10.0, 100.0, 1e3, 1e4)
_FACTORS = (0.1, 0.01, 1e-3, 1e-4)
SCALES = tuple((scale, True) for scale in _DIVISORS) + tuple((scale, False) for scale in _FACTORS)
"""Form `FIRST_SCALED + i` is integer / scale where the flag says so, else integer * scale.

Both, because 3 / 10 (a text "0.3") and 3 * 0.1 (a register with its scale) are different doubles.
"""
_WIDTHS = (1, 2, 4, 8)
_EXACT = 2.0**53


@dataclass(frozen=True, eq=False)
class Runs:
    """Where each of R runs stands among N samples.

    Attributes:
      counts: int64 (R,), samples of each, at least 1.
      starts: int64 (R,), index of its first sample.
    """

    counts: Int64s
    starts: Int64s

    @classmethod
    def of_counts(cls, counts: Int64s) -> "Runs":
        """Runs that follow each other without a gap."""
        return cls(counts, np.cumsum(counts) - counts)

    @classmethod
    def of_equal(cls, numbers: NDArray[Any]) -> "Runs":
        """Runs of equal neighbors; (N,), at least one."""
        edges = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
        starts = np.concatenate((np.zeros(1, np.int64), edges))
        return cls(np.diff(starts, append=len(numbers)), starts)

    def chosen(self, which: NDArray[np.bool_]) -> "Runs":
        """These runs alone, moved together; bool (R,)."""
        return Runs.of_counts(self.counts[which])

    def spread(self, of_run: NDArray[Number]) -> NDArray[Number]:
        """A value of each run for each of its samples: (R,) to (N,)."""
        return np.repeat(of_run, self.counts)

    def differences(self, numbers: Int64s) -> Int64s:
        """Each number less the one before it in its run; the first ones stay; wraps around."""
        result = numbers.copy()
        result[1:] -= numbers[:-1]
        result[self.starts] = numbers[self.starts]
        return result

    def sums(self, differences: Int64s) -> Int64s:
        """Undo `differences`."""
        total = np.cumsum(differences)
        before = total[self.starts] - differences[self.starts]
        return total - self.spread(before)


def pack_bytes(data: bytes) -> bytes:
    """Compress (RFC 1950); nothing stays nothing."""
    return zlib.compress(data, LEVEL) if data else b""


def unpack_bytes(data: bytes, size: int) -> bytes:
    """Undo `pack_bytes`.

    Raises:
      ValueError: it is not exactly `size` bytes of zlib.
    """
    if not size:
        return b""
    inflater = zlib.decompressobj()
    try:
        found = inflater.decompress(data, size)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(found) != size or inflater.unconsumed_tail:
        raise ValueError(f"not the {size} bytes that were announced")
    return found


def planes(numbers: NDArray[Any]) -> bytes:
    """All first bytes, then all second bytes and so on, of little-endian numbers."""
    plain = np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<"))
    return plain.view(np.uint8).reshape(plain.size, plain.itemsize).T.tobytes()


def from_planes(data: bytes, dtype: str) -> NDArray[Any]:
    """Undo `planes`; `dtype` little-endian, such as `<f8`."""
    width = np.dtype(dtype).itemsize
    mixed = np.frombuffer(data, np.uint8).reshape(width, len(data) // width)
    return np.ascontiguousarray(mixed.T).view(dtype).reshape(-1)


def pack_integers(numbers: Int64s) -> tuple[int, bytes]:
    """int64 (N,), best around zero; returns the bytes of each number and the packed ones."""
    folded = ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)
    largest = int(folded.max()) if len(folded) else 0
    width = next(width for width in _WIDTHS if largest < 1 << 8 * width)
    return width, pack_bytes(planes(folded.astype(f"<u{width}")))


def unpack_integers(packed: tuple[int, bytes], count: int) -> Int64s:
    """Undo `pack_integers`.

    Raises:
      ValueError: these are not `count` numbers.
    """
    width, data = packed
    if width not in _WIDTHS:
        raise ValueError(f"no integer has {width} bytes")
    folded = from_planes(unpack_bytes(data, width * count), f"<u{width}").astype(np.uint64)
    return ((folded >> np.uint64(1)) ^ -(folded & np.uint64(1))).view(np.int64)


def pack_reals(values: Floats) -> tuple[bool, bytes]:
    """float64 (N,) as planes or as they are, whichever is smaller: says whether as planes.

    Noise is smaller as planes, steps of an odd width (a scaled register) are as they are.
    """
    split, plain = pack_bytes(planes(values)), pack_bytes(values.astype("<f8").tobytes())
    return (True, split) if len(split) < len(plain) else (False, plain)


def unpack_reals(packed: tuple[bool, bytes], count: int) -> Floats:
    """Undo `pack_reals`.

    Raises:
      ValueError: these are not `count` numbers.
    """
    are_planes, data = packed
    raw = unpack_bytes(data, 8 * count)
    found = from_planes(raw, "<f8") if are_planes else np.frombuffer(raw, "<f8")
    return found.astype(np.float64)


def to_integers(values: Floats, form: int) -> Floats:
    """The nearest integers of a scaled form, as float64."""
    scale, divides = SCALES[form - FIRST_SCALED]
    with np.errstate(over="ignore"):
        return np.rint(values * scale if divides else values / scale)


def from_integers(integers: Int64s, form: int) -> Floats:
    """The values of a scaled form."""
    scale, divides = SCALES[form - FIRST_SCALED]
    wide = integers.astype(np.float64)
    return wide / scale if divides else wide * scale


def forms_of(values: Floats, runs: Runs) -> NDArray[np.uint8]:
    """The form in which each run loses nothing: uint8 (R,).

    Scaled integers where one scale fits all of a run, else float32 where that is exact, else
    float64.  Three samples of each run are tried first: most forms do not fit.
    """
    forms = np.zeros(len(runs.counts), np.uint8)
    ends = runs.starts + runs.counts - 1
    probes = values[np.stack((runs.starts, (runs.starts + ends) // 2, ends))]
    for form in (*range(FIRST_SCALED, FIRST_SCALED + len(SCALES)), FLOAT32):
        maybe = (forms == FLOAT64) & _is_exact(probes, form).all(axis=0)
        if maybe.any():
            fits = _is_exact(values[runs.spread(maybe)], form)
            whole = np.logical_and.reduceat(fits, runs.chosen(maybe).starts)
            forms[np.flatnonzero(maybe)[whole]] = form
    return forms


def _is_exact(values: Floats, form: int) -> NDArray[np.bool_]:
    """Which values come back bit by bit; a minus zero is no integer, a NaN no number."""
    if form == FLOAT32:
        with np.errstate(over="ignore", invalid="ignore"):
            again = values.astype(np.float32).astype(np.float64)
    else:
        nearest = to_integers(values, form)
        whole = np.where(np.abs(nearest) < _EXACT, nearest, 0.0)
        again = from_integers(whole.astype(np.int64), form)
    return np.equal(again.view(np.int64), values.view(np.int64), dtype=np.bool_)
