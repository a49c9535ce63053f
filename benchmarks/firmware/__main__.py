"""What a microcontroller pays: code, RAM, instructions; and that nothing breaks it.

Framing, link and model slots are in `size.py`, inference in `kernels.py`.  `value` is the code of
framing, link, slots and SHA-256 on a Cortex-M3 at -Os, without what it calls of the C library.
"""

import argparse
import json
import sys

from benchmarks.firmware import kernels, size

FULL_INPUTS, REDUCED_INPUTS = 10_000_000, 50_000


def main() -> int:
    """Measure all; 0 when the code is small enough, warns of nothing and agrees bit for bit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.firmware", description=__doc__)
    parser.add_argument("--reduced", action="store_true", help="few random inputs, one seed")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    inputs = REDUCED_INPUTS if options.reduced else FULL_INPUTS
    found = size.report(inputs, options.seed)
    found |= kernels.report(1 if options.reduced else 20, inputs)
    verdict = {
        "name": "firmware",
        "value": found["total"],
        "unit": "B",
        "target": size.MOST_CODE_BYTES,
        "holds": found["total"] <= size.MOST_CODE_BYTES and found["warnings"] == 0,
        **found,
    }
    print(json.dumps(verdict))
    return 0 if verdict["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
