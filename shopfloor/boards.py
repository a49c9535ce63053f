"""Patches of printed circuit boards that behave like an optical inspection's; pure but for a file.

Responsible for seven board designs, for the defects that a tested board can have against its golden
template, and for a site's file.  Refuses designs in which a defect would have no room.  Invariant:
one seed gives the same patches, and a defect changes the board as `DEFECTS` says.

A patch is the layout of DeepPCB (S. Tang et al., arXiv:1902.06197): the tested board and its
template, binary, 1 where there is no copper.  What differs from real boards: traces run straight
and parallel, and every patch has one defect at most.

    t ^   ======o=======   trace, with pads in rows
      |   --------------   pitch
      |   ======o=======   width
      +--> s               turned by the design's angles
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Copper: TypeAlias = NDArray[np.bool_]
"""(SIZE, SIZE), true where there is copper."""
Field: TypeAlias = NDArray[np.float64]

SIZE: Final = 64
OK, OPEN, SHORT, MOUSEBITE, SPUR, COPPER, PIN_HOLE = range(7)
DEFECTS: Final[Mapping[int, str]] = MappingProxyType(
    {
        OK: "no defect: only edges are rough",
        OPEN: "a cut through one trace: one piece of copper more",
        SHORT: "a bridge between two traces: one piece of copper less",
        MOUSEBITE: "a bite out of a trace's edge: as many pieces, no hole",
        SPUR: "a tip on a trace's edge that touches nothing: as many pieces",
        COPPER: "copper between traces that touches none: one piece more",
        PIN_HOLE: "a hole in a trace that does not reach its edge: one hole more",
    }
)
"""What each class does to the copper; pieces are 8-connected, holes 4-connected."""
SHARES: Final = (0.5, 0.1, 0.08, 0.09, 0.08, 0.08, 0.07)
"""Of the classes, rounded from DeepPCB's patches: half of them have no defect."""

_LEAST_PX: Final = 9  # of copper and of gaps: a hole or a speck, and whole pixels on both sides
_SPOT_PX: Final = (20, 44)  # a defect begins here, so that most of it is inside the patch
_REACH_PX: Final = 8.0  # a defect reaches no farther along its trace


@dataclass(frozen=True)
class Design:
    """How a board is laid out.

    Attributes:
      name: of the design.
      width_px: of a trace, 9 or more.
      pitch_px: from trace to trace; leaves a gap of 9 or more.
      pad_px: radius of a pad, or half of its side.
      is_square: whether pads are squares.
      angles: directions of traces in degrees; a patch has one of them.
      roughness: share of edge pixels that differ from the template.
    """

    name: str
    width_px: int
    pitch_px: int
    pad_px: int
    is_square: bool
    angles: tuple[int, ...]
    roughness: float

    def __post_init__(self) -> None:
        if self.width_px < _LEAST_PX or self.pitch_px - self.width_px < _LEAST_PX:
            raise ValueError(f"design {self.name}: copper and gaps need {_LEAST_PX} pixels each")
        if not self.width_px / 2 <= self.pad_px <= (self.pitch_px - 5) / 2:
            raise ValueError(f"design {self.name}: pads of {self.pad_px} pixels touch, or are none")
        if not self.angles or not 0.0 <= self.roughness <= 0.5 or self.pitch_px > SIZE // 2:
            raise ValueError(f"design {self.name}: no angle, too rough, or a pitch over {SIZE}/2")

    @property
    def pad_pitch_px(self) -> float:
        """From row of pads to row of pads."""
        return 2.0 * self.clear_px + 14.0

    @property
    def clear_px(self) -> float:
        """From a defect's middle to that of a pad: nothing touches."""
        return self.pad_px + _REACH_PX + 2.0


DESIGNS: Final = (
    Design("sensor", 9, 19, 6, is_square=False, angles=(0, 90), roughness=0.04),
    Design("drive", 12, 26, 9, is_square=True, angles=(0, 90), roughness=0.06),
    Design("radio", 10, 22, 7, is_square=False, angles=(0, 45, 90), roughness=0.03),
    Design("charger", 14, 30, 11, is_square=False, angles=(0, 45), roughness=0.08),
    Design("display", 9, 18, 5, is_square=True, angles=(90,), roughness=0.02),
    Design("meter", 12, 24, 8, is_square=True, angles=(45, 135), roughness=0.05),
    Design("gateway", 11, 24, 8, is_square=False, angles=(0, 90, 135), roughness=0.04),
)


@dataclass(frozen=True)
class Patches:
    """Patches in the order in which they were inspected.

    Attributes:
      patch: uint8 (N, 2, 64, 64), tested board and template; 1 where there is no copper.
      defect: int64 (N,), number of the class.
    """

    patch: NDArray[np.uint8]
    defect: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.defect)


class Drawing:
    """One patch's copper, before and after a defect.

    Attributes:
      template: the copper as it should be.
    """

    template: Copper

    def __init__(self, design: Design, rng: np.random.Generator) -> None:
        """Draw the template, and choose the spot where a defect would be."""
        self._design = design
        angle = np.deg2rad(rng.choice(design.angles))
        across, down = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
        self._s: Field = across * np.cos(angle) + down * np.sin(angle)
        self._t: Field = down * np.cos(angle) - across * np.sin(angle)
        x, y = rng.integers(*_SPOT_PX, 2).tolist()
        self._at_s = float(self._s[y, x])
        phase = rng.uniform(0.0, design.pitch_px)
        line = np.round((self._t[y, x] - phase) / design.pitch_px)
        self._at_t = float(phase + line * design.pitch_px)
        # What lies beside the trace lies towards the middle of the patch: inside it.
        middle = self._t[SIZE // 2, SIZE // 2]
        self._inward = 1 if middle >= self._at_t else -1
        # Pads keep off the spot, whether or not a defect comes there: no class is told by them.
        clear = design.clear_px
        pads = self._at_s + rng.uniform(clear, design.pad_pitch_px - clear)
        self.template = self._lines(phase) | self._pads(phase, pads)

    def tested(self, defect: int, rng: np.random.Generator) -> Copper:
        """The copper with one defect, without rough edges.

        Raises:
          ValueError: there is no such class.
        """
        width, gap = self._design.width_px, self._design.pitch_px - self._design.width_px
        edge = self._at_t + self._inward * width / 2
        match defect:
            case 0:
                change = np.zeros((SIZE, SIZE), np.bool_)
            case 1:
                change = self._cut(rng)
            case 2:
                change = self._bridge(rng)
            case 3:
                change = self._oval(edge, rng.uniform(0.35, 0.6) * width, rng)
            case 4:
                change = self._oval(edge, rng.uniform(0.35, 0.6) * gap, rng)
            case 5:
                middle = edge + self._inward * gap / 2
                change = self._oval(middle, rng.uniform(2.0, gap / 2 - 1.75), rng)
            case 6:
                change = self._oval(self._at_t, rng.uniform(2.0, width / 2 - 1.75), rng)
            case _:
                raise ValueError(f"class {defect}: expected 0 to {len(DEFECTS) - 1}")
        adds = defect in (SHORT, SPUR, COPPER)
        return self.template | change if adds else self.template & ~change

    def _lines(self, phase: float) -> Copper:
        """All traces."""
        return np.abs(self._off_line(phase)) <= self._design.width_px / 2

    def _pads(self, phase: float, first: float) -> Copper:
        """A pad on every trace in every row of pads."""
        pitch, radius = self._design.pad_pitch_px, self._design.pad_px
        along = np.abs((self._s - first + pitch / 2) % pitch - pitch / 2)
        across = np.abs(self._off_line(phase))
        if self._design.is_square:
            return np.maximum(along, across) <= radius
        return np.hypot(along, across) <= radius

    def _off_line(self, phase: float) -> Field:
        pitch = self._design.pitch_px
        return (self._t - phase + pitch / 2) % pitch - pitch / 2

    def _cut(self, rng: np.random.Generator) -> Copper:
        """A slit over the whole width, straight or oblique."""
        from_line = self._t - self._at_t
        slanted = self._s - self._at_s - rng.uniform(-0.5, 0.5) * from_line
        is_here = np.abs(from_line) <= self._design.width_px / 2 + 1
        return is_here & (np.abs(slanted) <= rng.uniform(1.0, 3.5))

    def _bridge(self, rng: np.random.Generator) -> Copper:
        """A strip from the spot's trace to the next."""
        from_line = self._inward * (self._t - self._at_t)
        slanted = self._s - self._at_s - rng.uniform(-0.3, 0.3) * from_line
        is_here = (from_line >= 0) & (from_line <= self._design.pitch_px)
        return is_here & (np.abs(slanted) <= rng.uniform(1.0, 3.5))

    def _oval(self, middle: float, half_px: float, rng: np.random.Generator) -> Copper:
        """An oval at the spot, `half_px` across the traces and up to twice that along them."""
        along = min(half_px * rng.uniform(0.8, 2.0), _REACH_PX)
        return np.hypot((self._s - self._at_s) / along, (self._t - middle) / half_px) <= 1.0


def draw(
    design: Design, defect: int, rng: np.random.Generator, *, is_rough: bool = True
) -> tuple[Copper, Copper]:
    """Draw the copper of one patch: the tested board's and the template's.

    Raises:
      ValueError: there is no such class.
    """
    drawing = Drawing(design, rng)
    tested = drawing.tested(defect, rng)
    return (_roughened(tested, design.roughness, rng) if is_rough else tested), drawing.template


def generate(design: Design, rows: int, seed: int, shares: Sequence[float] = SHARES) -> Patches:
    """Inspect `rows` patches of one design.

    Args:
      design: of the board.
      rows: 1 or more.
      seed: any integer >= 0.
      shares: relative frequency of each class; 0 for one that this site never sees.

    Raises:
      ValueError: the shares are not seven, negative or all 0, or there are no rows.
    """
    weights = np.array(shares, np.float64)
    if weights.shape != (len(DEFECTS),) or (weights < 0).any() or not 0 < weights.sum() < np.inf:
        raise ValueError(f"shares must be {len(DEFECTS)} numbers >= 0 with a sum, not {shares}")
    if rows < 1:
        raise ValueError(f"rows must be 1 or more, not {rows}")
    rng = np.random.default_rng(seed)
    defects = rng.choice(len(DEFECTS), size=rows, p=weights / weights.sum())
    pairs = np.array([draw(design, defect, rng) for defect in defects.tolist()])
    return Patches((~pairs).astype(np.uint8), defects.astype(np.int64))


def shares_without(defect: int) -> tuple[float, ...]:
    """The usual shares of a site that has never seen this class."""
    return tuple(0.0 if number == defect else share for number, share in enumerate(SHARES))


def write_site(path: Path, patches: Patches, design: Design, *, start_s: float = 0.0) -> None:
    """Write a site's file as `journeyman bundle test` and the source `replay` read it.

    An npz with `patch` and `defect` (the job's channels), `board` (the design, for people) and
    `time` (seconds since 1970, a patch each second).
    """
    rows = len(patches)
    np.savez_compressed(
        path,
        patch=patches.patch,
        defect=patches.defect,
        board=np.full(rows, design.name),
        time=start_s + np.arange(rows, dtype=np.float64),
    )


def _roughened(copper: Copper, share: float, rng: np.random.Generator) -> Copper:
    """Flip some pixels at edges, as etching and the camera do."""
    unlike = sum((each != copper).astype(np.int64) for each in _beside(copper))
    # A corner, a tip or a thin part has more unlike neighbors; it stays, and pieces stay whole.
    flipped = (unlike == 1) & (rng.random(copper.shape) < share)
    flipped[[0, -1]] = flipped[:, [0, -1]] = False  # what ends there may be one pixel wide
    added = flipped & ~copper
    lost = flipped & copper & ~np.any(_beside(added), axis=0)  # what is added hangs on something
    roughened: Copper = (copper | added) & ~lost
    return roughened


def _beside(pixels: Copper) -> list[Copper]:
    """The neighbors above, below, to the left and to the right; at the rim the pixel itself."""
    padded = np.pad(pixels, 1, mode="edge")
    return [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
