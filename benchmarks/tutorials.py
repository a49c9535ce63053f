"""The four jobs' tutorial pages, typed word by word from a clean copy of the checkout.

Every block of docs/job-*.md is executed as it stands, in the page's order, in an empty folder.  The
programs are those of a copy that holds what git tracks, or would, and nothing that was built.  A
block fails when its exit status is not 0, or when a demo left no report.

    python -m benchmarks.tutorials                        everything: about an hour
    python -m benchmarks.tutorials --reduced              without the whole demos: some minutes
    python -m benchmarks.tutorials --pages job-process    some of the pages

Whole demos are those that do not say `--versions`.  Blocks that need a public set which is not here
are skipped and counted.  The last line is JSON; `value` is the number of blocks that failed.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.central import DATA

ROOT = Path(__file__).resolve().parents[1]
SETS: Mapping[str, Mapping[str, str]] = {
    "job-maintenance": {"DATA": "ai4i2020/ai4i2020.csv", "CMAPSS": "cmapss"},
    "job-inspection": {"DATA": "deeppcb"},
    "job-process": {"DATA": "steel_energy"},
    "job-supply-chain": {"DATA": "supply_chain"},
}
"""By page: which variable names what of the public sets' folder."""
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_DEMO = "journeyman demo "
_LONGEST_S = 3600.0


@dataclass(frozen=True)
class Block:
    """A block of a page: a file to save, named by its first line, or commands to type."""

    language: str
    text: str

    @property
    def is_demo(self) -> bool:
        """Whether it starts a federation."""
        return self.text.startswith(_DEMO)

    @property
    def is_whole_demo(self) -> bool:
        """Whether it learns to the end, which takes minutes."""
        return self.is_demo and "--versions" not in self.text

    @property
    def out(self) -> str:
        """Where its report goes."""
        found = re.search(r"--out (\S+)", self.text)
        return found[1] if found else ""

    def needs(self, variables: Sequence[str]) -> list[str]:
        """Which of the variables it names."""
        return [name for name in variables if f"${name}" in self.text]


@dataclass(frozen=True)
class Told:
    """What came of a block; `status` is its exit status, None when it was skipped."""

    page: str
    command: str
    status: int | None
    said: str
    wall_s: float


def blocks_of(page: Path) -> list[Block]:
    """Read a page's blocks; what a program prints (`text`) is none."""
    return [Block(*found) for found in _BLOCK.findall(page.read_text()) if found[0] != "text"]


def environment(root: Path, data: Path, page: str) -> dict[str, str]:
    """Variables of a shell in which a page's commands are typed, with `root` as the checkout."""
    sets = {name: str(data.resolve() / path) for name, path in SETS[page].items()}
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(root),
        "CONFIGS": str(root / "configs"),
        "OMP_NUM_THREADS": "1",
        **sets,
    }


def run_block(block: Block, folder: Path, variables: Mapping[str, str]) -> tuple[int, str]:
    """Save or type a block; exit status and what was printed.

    A demo that ends well and leaves no report has the status 1.
    """
    if block.language != "sh":
        (folder / block.text.splitlines()[0].removeprefix("# ")).write_text(block.text)
        return 0, ""
    done = subprocess.run(
        ["bash", "-e", "-c", block.text],
        cwd=folder,
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_LONGEST_S,
        check=False,
    )
    missing = [
        name
        for name in ("report.html", "report.json")
        if block.is_demo and not (folder / block.out / name).is_file()
    ]
    if done.returncode == 0 and missing:
        return 1, f"{done.stdout}\nno {' and no '.join(missing)} in {block.out}"
    return done.returncode, done.stdout


def clean_copy(folder: Path) -> Path:
    """Copy what git tracks or would track, and nothing that was built."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def main() -> int:
    """Type the pages; 0 when every block that was typed ended well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tutorials", description=__doc__)
    parser.add_argument("--pages", default=",".join(SETS), help="some of them, by comma")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public sets")
    parser.add_argument("--parallel", type=int, default=1, help="pages at a time")
    parser.add_argument("--reduced", action="store_true", help="without the whole demos")
    options = parser.parse_args()
    pages = options.pages.split(",")
    if set(pages) - set(SETS):
        parser.error(f"pages are {', '.join(SETS)}")
    with tempfile.TemporaryDirectory(prefix="journeyman-tutorials-") as temporary:
        (Path(temporary) / "checkout").mkdir()
        root = clean_copy(Path(temporary) / "checkout")

        def type_page(page: str) -> list[Told]:
            folder = Path(temporary) / page
            folder.mkdir()
            return _type(page, root, folder, options.data, is_reduced=options.reduced)

        with ThreadPoolExecutor(options.parallel) as pool:
            told = [each for found in pool.map(type_page, pages) for each in found]
    return _conclude(told, is_reduced=options.reduced)


def _type(page: str, root: Path, folder: Path, data: Path, *, is_reduced: bool) -> list[Told]:
    """Type one page; what comes after a block that failed is typed all the same."""
    variables = environment(root, data, page)
    told = []
    for block in blocks_of(root / "docs" / f"{page}.md"):
        command = block.text.splitlines()[0]
        absent = [
            name for name in block.needs(list(SETS[page])) if not Path(variables[name]).exists()
        ]
        if absent or (is_reduced and block.is_whole_demo):
            why = f"{absent[0]} is not here" if absent else "a whole demo"
            told.append(Told(page, command, None, why, 0.0))
        else:
            begin = time.monotonic()
            status, said = run_block(block, folder, variables)
            told.append(Told(page, command, status, said, time.monotonic() - begin))
        _print(told[-1])
    return told


def _print(told: Told) -> None:
    if told.status is None:
        words = f"skipped: {told.said}"
    else:
        words = f"{told.wall_s:.0f} s" if told.status == 0 else f"STATUS {told.status}\n{told.said}"
    print(f"{told.page}: {told.command}: {words}", flush=True)


def _conclude(told: Sequence[Told], *, is_reduced: bool) -> int:
    failed = [each for each in told if each.status not in (0, None)]
    skipped = sum(each.status is None for each in told)
    verdict = {
        "name": "tutorials",
        "value": len(failed),
        "unit": "blocks of the pages that failed",
        "target": 0,
        "holds": not failed,
        "typed": len(told) - skipped,
        "skipped": skipped,
        "reduced": is_reduced,
    }
    print(json.dumps(verdict))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
