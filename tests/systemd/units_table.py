"""`make check-units`: what systemd's own tools say of every unit, as a table.

usage: python -m tests.systemd.units_table; exit status 1 where a unit is criticised or too exposed
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.systemd.test_units import MOST_EXPOSURE, PROGRAMS, SERVICES, UNITS, judge, verify

REPOSITORY = Path(__file__).resolve().parents[2]


def main() -> int:
    """Print a line for each unit; returns the exit status."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        print("systemd-analyze is not here: apt install systemd", file=sys.stderr)
        return 1
    version = subprocess.run([analyze, "--version"], capture_output=True, text=True, check=True)
    print(f"{version.stdout.splitlines()[0]}; exposure at most {MOST_EXPOSURE}")
    print(f"{'unit':40} {'exposure':>8}  verify")
    with tempfile.TemporaryDirectory() as folder:
        system = Path(folder) / "system"
        shutil.copytree(REPOSITORY / "systemd", system)
        for unit in system.glob("*.service"):  # the programs are not on this machine
            unit.write_text(PROGRAMS.sub(r"ExecStart=/bin/true \2 \3", unit.read_text()))
        verdicts = [_line(analyze, system / name) for name in UNITS]
    return 0 if all(verdicts) else 1


def _line(analyze: str, unit: Path) -> bool:
    """Print what is found; returns whether it is good."""
    said = verify(analyze, unit)
    exposure = judge(analyze, unit)[0] if unit.name in SERVICES else None
    shown = "" if exposure is None else f"{exposure:.1f}"
    print(f"{unit.name:40} {shown:>8}  {' '.join(said.split()) or 'clean'}")
    return not said and (exposure is None or exposure <= MOST_EXPOSURE)


if __name__ == "__main__":
    sys.exit(main())
