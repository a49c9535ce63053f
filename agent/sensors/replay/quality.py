"""From what a historian writes about quality to an OPC UA StatusCode.

Words and codes of OPC UA (OPC 10000-4, 7.39), and the quality bytes of OPC Classic (OPC Data Access
3.0, 6.8), whose two highest bits of the low byte say Bad, Uncertain or Good: there 192 is Good and
0 is Bad, where OPC UA's 0 is Good.  Pure.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

GOOD = 0
UNCERTAIN = 0x4000_0000
BAD = 0x8000_0000
BAD_NO_DATA = 0x809B_0000
BAD_TYPE_MISMATCH = 0x8074_0000
BAD_DECODING_ERROR = 0x8007_0000

_WORDS = (("uncertain", UNCERTAIN), ("good", GOOD), ("bad", BAD))
_CLASSIC = (BAD, UNCERTAIN, BAD, GOOD)
"""By the two highest bits of an OPC Classic quality byte; 2 is not used."""
_MAX_CACHED = 10_000

Severity = Callable[[int], int]


class Qualities:
    """Reads cells of quality; remembers the few that a file repeats.

    Args:
      codes: `opcua` or `opcda`.
      words: StatusCodes of words, before all other rules.
    """

    def __init__(self, codes: str, words: Mapping[str, int]) -> None:
        self._is_classic = codes == "opcda"
        self._known: dict[Any, int | None] = {
            word.strip().casefold(): code for word, code in words.items()
        }

    def read(self, cells: Sequence[Any] | NDArray[Any]) -> tuple[NDArray[np.uint32], list[int]]:
        """StatusCodes of cells, uint32 (N,), and which cells say nothing that is known."""
        known = self._known
        found: list[int] = []
        unknown: list[int] = []
        for at, cell in enumerate(cells):
            code = known[cell] if cell in known else self._learn(cell)
            if code is None:
                unknown.append(at)
                code = BAD_DECODING_ERROR
            found.append(code)
        return np.array(found, np.uint32), unknown

    def _learn(self, cell: Any) -> int | None:  # noqa: ANN401  a cell of any file format
        text = "" if cell is None else str(cell).strip().casefold()
        code = self._known[text] if text in self._known else self._status(text)
        if len(self._known) < _MAX_CACHED:
            self._known[cell] = code
        return code

    def _status(self, text: str) -> int | None:
        """An empty cell is Uncertain: nobody has said that the value is good."""
        if not text:
            return UNCERTAIN
        for word, code in _WORDS:
            if text.startswith(word):
                return code
        number = _number(text)
        if number is None:
            return None
        if self._is_classic:
            return _CLASSIC[(number & 0xFF) >> 6]
        return number if number <= 0xFFFF_FFFF else None


def _number(text: str) -> int | None:
    try:
        number = int(text, 16) if text.startswith("0x") else int(float(text))
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < 1 << 53 else None
