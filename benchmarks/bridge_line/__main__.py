"""The microcontroller link under damage: what gets through, how exact its clock is, what resumes.

Everything runs in virtual time (`world.py`), the gateway's code against the C library's:

`traffic.py`  a line at 115,200 and at 921,600 baud, full in both directions, one frame in a hundred
              damaged: flipped bits, lost or added bytes, a cut tail, a lost delimiter, lost whole
`uploads.py`  models to a device whose line is cut, whose power fails in the middle of a flash
              operation, and whose gateway restarts

The last line is JSON; `value` is the lowest goodput, as a share of the bytes that the line carries.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks.bridge_line import traffic, uploads
from shopfloor.microcontroller import build_library

BAUDRATES = (115_200, 921_600)
FRAMES, REDUCED_FRAMES = 1_000_000, 8_000
UPLOADS, REDUCED_UPLOADS = 500, 40
DAMAGED_SHARE = 0.01
SEED = 20_240_601
LEAST_GOODPUT = 0.9
MOST_CLOCK_US = 1000.0


def _line(baudrate: int, each: traffic.Outcome, cpu_s: float) -> str:
    frames = each.up_frames + each.down_frames
    return (
        f"{baudrate:8} {each.up_frames:9} {each.down_frames:9} {each.false:6}"
        f" {each.goodput_up:7.1%} {each.goodput_down:7.1%} {each.clock_p99_us:8.0f}"
        f" {each.clock_worst_us:8.0f} {each.models:7} {each.damaged_models:6}"
        f" {1e6 * cpu_s / frames:9.0f}"
    )


def _run_lines(folder: Path, frames: int, seed: int) -> dict[int, traffic.Outcome]:
    library = build_library(folder, traffic.CHIP)
    print(
        "    baud        up      down  false  up good  dn good  clk p99  clk max  models"
        "  wrong  us/frame"
    )
    outcomes: dict[int, traffic.Outcome] = {}
    for baudrate in BAUDRATES:
        began_s = time.process_time()
        each = traffic.run(library, baudrate, frames, seed, DAMAGED_SHARE)
        print(_line(baudrate, each, time.process_time() - began_s), flush=True)
        outcomes[baudrate] = each
    return outcomes


def _is_right(lines: dict[int, traffic.Outcome], models: uploads.Outcome) -> bool:
    """Whether nothing false was accepted, and nothing but whole models ran and came through."""
    is_false = any(each.false or each.damaged_models for each in lines.values())
    is_safe = not (models.wrong_model or models.restarted or models.failed or models.violations)
    return is_safe and not is_false


def _is_good(lines: dict[int, traffic.Outcome]) -> bool:
    """Whether goodput and clock keep their limits."""
    is_fast = all(
        min(each.goodput_up, each.goodput_down) >= LEAST_GOODPUT for each in lines.values()
    )
    is_exact = all(each.clock_p99_us <= MOST_CLOCK_US for each in lines.values())
    return is_fast and is_exact


def main() -> int:
    """Run; 0 when all limits hold, or, reduced, when everything is right."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bridge_line", description=__doc__)
    parser.add_argument("--frames", type=int, default=FRAMES, help="each way, at each rate")
    parser.add_argument("--uploads", type=int, default=UPLOADS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--reduced", action="store_true", help=f"{REDUCED_FRAMES} frames, {REDUCED_UPLOADS} uploads"
    )
    options = parser.parse_args()
    frames = REDUCED_FRAMES if options.reduced else options.frames
    count = REDUCED_UPLOADS if options.reduced else options.uploads
    # A folder for each library: the loader takes two of one path for the same.
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as other:
        print(f"full both ways, {DAMAGED_SHARE:.0%} damaged, seed {options.seed}; clock in us")
        lines = _run_lines(Path(name), frames, options.seed)
        library = build_library(Path(other))
        models = uploads.run(library, count, options.seed, DAMAGED_SHARE)
    cuts = ", ".join(f"{number} {kind}" for kind, number in sorted(models.interruptions.items()))
    print(f"\n{models.uploads} uploads in {models.virtual_s:.0f} s of virtual time; {cuts}")
    print(
        f"confirmed {models.confirmed}, rolled back {models.rolled_back}, failed"
        f" {len(models.failed)}, wrong model {models.wrong_model}, restarted {models.restarted},"
        f" sent {models.sent_share:.2f} times the content"
    )
    _conclude(lines, models)
    is_right = _is_right(lines, models)
    return 0 if is_right and (options.reduced or _is_good(lines)) else 1


def _conclude(lines: dict[int, traffic.Outcome], models: uploads.Outcome) -> None:
    every = lines.values()
    result = {
        "name": "bridge_line",
        "value": round(min(min(each.goodput_up, each.goodput_down) for each in every), 4),
        "unit": "lowest goodput by line rate",
        "target": LEAST_GOODPUT,
        "holds": _is_right(lines, models) and _is_good(lines),
        "frames": sum(each.up_frames + each.down_frames for each in every),
        "damaged": sum(sum(each.damaged[way].values()) for each in every for way in ("up", "down")),
        "false_accepts": sum(each.false + each.damaged_models for each in every),
        "clock_p99_us": {rate: round(each.clock_p99_us) for rate, each in lines.items()},
        "clock_worst_us": {rate: round(each.clock_worst_us) for rate, each in lines.items()},
        "goodput_up": {rate: round(each.goodput_up, 4) for rate, each in lines.items()},
        "goodput_down": {rate: round(each.goodput_down, 4) for rate, each in lines.items()},
        "uploads": models.uploads,
        "wrong_model": models.wrong_model,
        "restarted": models.restarted,
        "failed": len(models.failed),
        "interruptions": models.interruptions,
        "sent_by_size": round(models.sent_share, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    raise SystemExit(main())
