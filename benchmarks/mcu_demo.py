"""A model of the federation on an emulated Cortex-M3: `journeyman demo --mcu`, judged.

    python -m benchmarks.mcu_demo [--reduced]

Runs the demo's programs (broker, coordinator, three agents, bridge, QEMU with the firmware) and
asserts that a version that was trained in the run was confirmed on the board, that every compared
score of it is bit-exact with the int8 reference, and that all are within the bound of the float
model.  The value is the largest difference over the bound.  Needs qemu-system-arm and
arm-none-eabi-gcc; says so, and asserts nothing, where they are missing.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from shopfloor.emulated_board import FIRMWARE, missing_tools
from shopfloor.mcu.plant import REST_S, lay_out
from shopfloor.mcu.report import verdict
from shopfloor.mcu.run import run_mcu_demo

_LONGEST_S = 170.0


def main() -> int:
    """Run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mcu_demo", description=__doc__)
    parser.add_argument("--reduced", action="store_true", help="fewer scores are compared")
    reduced: bool = parser.parse_args().reduced
    if missing := missing_tools(FIRMWARE):
        print(f"left out: {', '.join(missing)} not installed")
        return 0
    with tempfile.TemporaryDirectory(prefix="journeyman-mcu-") as folder:
        plant = lay_out(Path(folder) / "run", 0, 12.0 if reduced else REST_S)
        record = asyncio.run(run_mcu_demo(plant, _LONGEST_S, 10 if reduced else 100))
    print(verdict(record))
    last = record.last
    holds = not record.problem and last is not None
    result = {
        "name": "mcu_demo",
        "value": round(last.largest / last.bound, 3) if holds and last is not None else None,
        "unit": "of the bound between int8 on the board and float on the gateway",
        "target": 1.0,
        "holds": holds,
        "compared": last.compared if last is not None else 0,
        "bit_exact": f"{last.bits_equal} of {last.rows}" if last is not None else "",
        "problem": record.problem,
    }
    print(json.dumps(result))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
