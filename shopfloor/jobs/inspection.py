"""Visual inspection: patches of circuit boards, each board design a site; one class each.

Responsible for who has which patches.  One site has never seen one class of defect (`lacking`); it
is judged on all of them.  Invariant: patches of one image are on one side, and a site's `train`
rows are the same whatever the other sites have.

What a person names is DeepPCB's file `deeppcb_patches.npz` (S. Tang et al., arXiv:1902.06197), the
folder that holds it, or an npz file of one's own:

    DeepPCB                         one's own          what it is, an entry each patch
    bits   (N, 1024) uint8, packed  patch (N,2,64,64)  tested board and template, 0 or 1
    y      (N,)                     defect (N,)        class, 0 to 6, as `CLASSES` has them
    group  (N,), group_names (G,)   board (N,)         design: a site
    image  (N,)                     image (N,)         whole images judge, the others train
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shopfloor.boards import DESIGNS, SHARES, SIZE, Patches, generate, shares_without
from shopfloor.jobs.task import TIME, Columns, DataError, SiteRows, Task

CLASSES: Final = ("ok", "open", "short", "mousebite", "spur", "copper", "pin-hole")
FILE: Final = "deeppcb_patches.npz"
TEST_SHARE: Final = 0.2
MOST_BYTES: Final = 4 << 30
"""Of all arrays, unpacked."""
GENERATED_ROWS: Final = 1000
GENERATED_TEST_ROWS: Final = 250

_START_S: Final = 1_700_000_000.0
_SHAPE: Final = (2, SIZE, SIZE)
_PACKED: Final = 2 * SIZE * SIZE // 8
_DEEPPCB: Final = {"patch": "bits", "defect": "y", "board": "group", "image": "image"}
_OWN: Final = {"patch": "patch", "defect": "defect", "board": "board", "image": "image"}

Bits = NDArray[np.uint8]
Integers = NDArray[np.int64]


def lacking(seed: int, sites: int = len(DESIGNS)) -> tuple[int, int]:
    """Which site, by its place in their order, has never seen which class, 1 to 6."""
    return seed % sites, 1 + seed % (len(CLASSES) - 1)


def generated(
    seed: int, rows: int = GENERATED_ROWS, test_rows: int = GENERATED_TEST_ROWS
) -> list[SiteRows]:
    """Inspect patches of the simulated shop floor's seven designs, so many at each."""
    without, defect = lacking(seed)
    sites = []
    for at, design in enumerate(DESIGNS):
        shares = shares_without(defect) if at == without else SHARES
        begin = 100 * seed + 2 * at
        train = generate(design, rows, begin, shares)
        test = generate(design, test_rows, begin + 1)
        sites.append(SiteRows(design.name, _said(train), _said(test)))
    return sites


def read(path: Path, seed: int) -> list[SiteRows]:
    """Read a person's patches; about a fifth of each design's, chosen by `seed`, are the test.

    Raises:
      DataError: there is no such file, or it is of another form; names file and array.
    """
    file = path / FILE if path.is_dir() else path
    arrays = _arrays(file)
    is_packed = "bits" in arrays
    names = _DEEPPCB if is_packed else _OWN
    columns = {key: _array(file, arrays, name) for key, name in names.items()}
    patches = _patches(file, columns["patch"], names["patch"])
    defects = _whole(file, columns["defect"], names["defect"], len(CLASSES))
    boards = columns["board"]
    if is_packed:
        design = _array(file, arrays, "group_names").astype(str)
        boards = design[_whole(file, boards, names["board"], len(design))]
    images = columns["image"]
    if not len(patches) == len(defects) == len(boards) == len(images):
        lengths = ", ".join(f"{names[key]} {len(column)}" for key, column in columns.items())
        raise DataError(f"{file}: its arrays have different lengths: {lengths}")
    held_out = _held_out(file, boards.astype(str), images, seed)
    return _sites(Patches(patches, defects), boards.astype(str), held_out, seed)


def _sites(
    patches: Patches, boards: NDArray[np.str_], held_out: NDArray[np.bool_], seed: int
) -> list[SiteRows]:
    """A site for each design in the order of their names."""
    designs = np.unique(boards).tolist()
    without, defect = lacking(seed, len(designs))
    sites = []
    for at, design in enumerate(designs):
        is_here = boards == design
        seen = is_here & ~held_out
        if at == without:
            seen &= patches.defect != defect
        test = is_here & held_out
        sites.append(SiteRows(_name(design), _of(patches, seen), _of(patches, test)))
    return sites


def _name(design: str) -> str:
    """A site's name of a design's: letters, digits and dashes."""
    return "".join(each if each.isascii() and each.isalnum() else "-" for each in design)


def _of(patches: Patches, chosen: NDArray[np.bool_]) -> Columns:
    return _said(Patches(patches.patch[chosen], patches.defect[chosen]))


def _said(patches: Patches) -> Columns:
    """A site's rows: a patch each second."""
    return {
        "patch": patches.patch,
        "defect": patches.defect,
        TIME: _START_S + np.arange(len(patches), dtype=np.float64),
    }


def _held_out(
    file: Path, boards: NDArray[np.str_], images: NDArray[Any], seed: int
) -> NDArray[np.bool_]:
    """Whole images of each design, until a fifth of its patches are chosen; bool (N,)."""
    random = np.random.default_rng(seed)
    chosen = np.zeros(len(boards), np.bool_)
    for design in np.unique(boards):
        is_here = boards == design
        names, sizes = np.unique(images[is_here], return_counts=True)
        if len(names) < 2:
            raise DataError(f"{file}: design {design} has one image: need at least 2 of each")
        order = random.permutation(len(names))
        before = np.cumsum(sizes[order]) - sizes[order]
        taken = max(1, min(len(names) - 1, int(np.sum(before < TEST_SHARE * is_here.sum()))))
        chosen |= is_here & np.isin(images, names[order[:taken]])
    return chosen


def _arrays(file: Path) -> Mapping[str, NDArray[Any]]:
    """All arrays of an npz file."""
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MOST_BYTES:
            raise DataError(f"{file}: {size:,} bytes of arrays: at most {MOST_BYTES:,}")
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        reason = f"there is none: name {FILE}, the folder with it, or an npz file of your own"
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = f"it can not be read as npz: {error}"
    raise DataError(f"{file}: {reason}")


def _array(file: Path, arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    if name in arrays and arrays[name].ndim >= 1 and len(arrays[name]):
        return arrays[name]
    found = ", ".join(sorted(arrays)) or "none"
    wanted = ", ".join(_OWN.values())
    raise DataError(f"{file}: no array {name} with rows; found {found}; needed are {wanted}")


def _patches(file: Path, values: NDArray[Any], name: str) -> Bits:
    """Tested board and template, uint8 (N, 2, 64, 64) of 0 and 1."""
    if name == _DEEPPCB["patch"]:
        if values.dtype != np.uint8 or values[0].size != _PACKED:
            raise DataError(f"{file}: {name} is no uint8 (N, {_PACKED}) of packed bits")
        return np.unpackbits(values.reshape(len(values), -1), axis=1).reshape(-1, *_SHAPE)
    if values.shape[1:] != _SHAPE:
        raise DataError(f"{file}: {name} is {values.shape}: need (N, 2, {SIZE}, {SIZE})")
    strange = np.flatnonzero(~np.isin(values, (0, 1)).reshape(len(values), -1).all(axis=1))
    if len(strange):
        raise DataError(f"{file}:{strange[0]}:{name}: only 0 (copper) and 1 are pixels")
    return values.astype(np.uint8)


def _whole(file: Path, values: NDArray[Any], name: str, count: int) -> Integers:
    """Whole numbers below `count`, (N,)."""
    if values.ndim != 1 or values.dtype.kind not in "iufb":
        raise DataError(f"{file}: {name} is {values.dtype} {values.shape}: need numbers (N,)")
    strange = np.flatnonzero(~np.isin(values, np.arange(count)))
    if len(strange):
        value = values[strange[0]]
        raise DataError(f"{file}:{strange[0]}:{name}: {value} is none of 0 to {count - 1}")
    return values.astype(np.int64)


_PERSONAL: Final = """\
models = ["global", "fine_tuned"]
local_normalisation = false
learning_rate = 0.0003
fine_tune_epochs = 3
keep_unseen = true
"""
"""A network of images takes minutes of CPU to train anew at each site, which `local` would.  What a
site has never seen, it is to know from the others, also with a model of its own."""

INSPECTION: Final = Task(
    name="inspection",
    title="Visual inspection",
    bundle="board",
    metric="accuracy",
    generate=generated,
    read=read,
    personal=_PERSONAL,
)
