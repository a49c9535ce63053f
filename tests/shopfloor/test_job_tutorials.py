"""The four jobs' tutorial pages.

All blocks of all pages are typed by `python -m benchmarks.tutorials`; here are those that take
seconds, and one short demo on a person's own rows.
"""

import json
from pathlib import Path

import pytest

from benchmarks.central import DATA
from benchmarks.tutorials import ROOT, SETS, Block, blocks_of, environment, run_block
from shopfloor.jobs.choice import NAMES

PAGES = {name: ROOT / "docs" / f"{name}.md" for name in SETS}


def typed(page: str, blocks: list[Block], folder: Path) -> list[str]:
    """Type blocks; what each printed."""
    said = []
    for block in blocks:
        status, text = run_block(block, folder, environment(ROOT, DATA, page))
        assert status == 0, f"{block.text}\n{text}"
        said.append(text)
    return said


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_types_beside_its_demos_can_be_followed_word_by_word(
    page: str, tmp_path: Path
) -> None:
    blocks = [block for block in blocks_of(PAGES[page]) if not block.is_demo]
    said = "".join(typed(page, blocks, tmp_path))
    lines = {line.split(maxsplit=1)[0] for line in said.splitlines() if line.strip()}
    assert "together" in lines  # the table of `bundle test` that every page ends with
    assert len(list((tmp_path / "mine").iterdir())) >= 2


@pytest.mark.timeout(600)  # a federation runs for a minute on two free cores
def test_the_short_look_of_the_process_page_can_be_followed_word_by_word(tmp_path: Path) -> None:
    look = [block for block in blocks_of(PAGES["job-process"]) if "--out look" in block.text]
    assert [block.is_whole_demo for block in look] == [False]
    (said,) = typed("job-process", look, tmp_path)
    record = json.loads((tmp_path / "look" / "report.json").read_text())
    assert record["task"] == "process"
    assert record["updates"]["lost"] == 0
    assert record["versions"] >= 10
    assert "<h2>Proposed set-points</h2>" in (tmp_path / "look" / "report.html").read_text()
    assert "No update was lost" in said


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_generated_rows_then_the_public_set_then_rows_of_ones_own(page: str) -> None:
    demos = [block.text for block in blocks_of(PAGES[page]) if block.is_demo]
    where = [
        next(at for at, text in enumerate(demos) if words in text)
        for words in ("", '--data "$DATA"', "--data mine")
    ]
    assert where == sorted(where)
    assert "--data" not in demos[0]
    assert any(not block.is_whole_demo for block in blocks_of(PAGES[page]) if block.is_demo)
    assert len({block.out for block in blocks_of(PAGES[page]) if block.is_demo}) == len(demos)


def test_every_job_is_on_a_page() -> None:
    pages = "".join(page.read_text() for page in PAGES.values())
    assert {name for name in NAMES if f"journeyman demo --job {name} " in pages} == set(NAMES)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_points_to_what_exists(page: str) -> None:
    text = PAGES[page].read_text()
    for target in (part.partition(")")[0].partition("#")[0] for part in text.split("](")[1:]):
        assert (PAGES[page].parent / target).is_file(), target
    for name in (word.strip("`,.;:()") for word in text.split() if "configs/" in word):
        path = name.removeprefix('"$CONFIGS/').strip('"')
        assert (ROOT / path).is_file() or (ROOT / "configs" / path).is_file(), name
