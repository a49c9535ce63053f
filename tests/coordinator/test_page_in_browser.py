"""The page in a real browser: what it draws, that it follows the database, that it can act.

`JOURNEYMAN_PICTURES=DIR` keeps the photographs that the last test takes.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.coordinator.browser import Browser, chromium
from tests.coordinator.live_page import TOKEN, Live, live_page
from tests.coordinator.seeded_view import VERSIONS, Seeded, seed

IS_LIVE = "document.getElementById('live').textContent === 'live'"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed: run tests/install.sh .venv/bin/python as root")
    with chromium(program, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def seeded(tmp_path: Path) -> Seeded:
    return seed(tmp_path / "coordinator.db")


@pytest.fixture
def live(seeded: Seeded) -> Iterator[Live]:
    with live_page(seeded.path, token=TOKEN) as page:
        yield page


@pytest.fixture
def page(browser: Browser, live: Live) -> Browser:
    browser.events.clear()
    browser.look(live.address)
    browser.wait(IS_LIVE)
    return browser


def text(page: Browser, selector: str) -> str:
    return str(page.ask(f"document.querySelector({selector!r}).textContent"))


def number_of(page: Browser, selector: str) -> int:
    return int(page.ask(f"document.querySelectorAll({selector!r}).length"))


def test_the_chart_shows_lines_marks_lost_lineages_and_rollbacks(page: Browser) -> None:
    assert number_of(page, "#chart svg") == 1
    assert number_of(page, "#chart path.train") == 1
    assert number_of(page, "#chart path.served") == 1
    assert number_of(page, "#chart .mark") == VERSIONS // 5
    assert number_of(page, "#chart .mark.promoted") == 5
    assert number_of(page, "#chart .mark.judged") == 1  # the candidate that is judged now
    assert number_of(page, "#chart rect.gone") == 2
    assert number_of(page, "#chart line.back") == 2
    assert "↶ back to v25" in text(page, "#chart")
    assert text(page, "#readout").endswith("serving v40 0.872")
    label = page.ask("document.querySelector('#chart svg').getAttribute('aria-label')")
    assert label.startswith("PR-AUC over versions 0 to 48.")


def test_a_version_is_explained_under_the_pointer_and_by_arrow_keys(page: Browser) -> None:
    page.ask("document.querySelector('#chart svg').focus()")
    key = "new KeyboardEvent('keydown', {key: 'ArrowLeft'})"
    back = f"document.querySelector('#chart svg').dispatchEvent({key})"
    for _ in range(VERSIONS - 33):
        page.ask(back)
    assert text(page, "#readout").startswith("v33 · ")
    assert "rolled back: back to v25" in text(page, "#readout")
    page.ask(back)
    assert text(page, "#readout").endswith("abandoned lineage")


def test_a_write_to_the_database_changes_the_page_and_its_title(
    seeded: Seeded, page: Browser
) -> None:
    assert page.ask("document.title") == "v40 served, v48 training · plant-net"
    seeded.execute("UPDATE control SET training = 'closed'")
    row = {"version": VERSIONS, "lineage": 2, "verdict": "kept back", "reason": "worse by 0.2"}
    seeded.insert("decisions", {"number": 99, "at": 1_799_999_999.0} | row)
    page.wait("document.querySelector('h1').textContent.includes('training is closed')")
    page.wait("document.querySelector('#decisions').textContent.includes('worse by 0.2')")
    assert "v48 kept back" in text(page, "#decisions li")
    assert page.ask("document.querySelector('[data-act=training]').textContent") == "Open training"


def test_an_operator_with_the_token_acts_and_one_without_is_told(
    seeded: Seeded, page: Browser
) -> None:
    button = "document.querySelector('button[data-agent=l-press-1]')"
    page.ask(f"{button}.click()")
    page.wait("document.getElementById('said').textContent.includes('needs the operator')")
    page.ask(f"document.getElementById('token').value = '{TOKEN}'; {button}.click()")
    page.wait("document.getElementById('said').textContent === 'l-press-1 is told to pause'")
    page.wait(f"{button}.textContent === 'resume'")
    page.ask("window.confirm = () => true; document.getElementById('version').value = '25'")
    page.ask("document.querySelector('[data-act=rollback]').click()")
    page.wait("document.getElementById('said').textContent.includes('version 25 is asked for')")
    assert page.ask("document.getElementById('token').value") == TOKEN


def test_a_lost_server_is_said_and_the_page_comes_back_by_itself(
    seeded: Seeded, browser: Browser
) -> None:
    with live_page(seeded.path) as live:
        browser.look(live.address)
        browser.wait(IS_LIVE)
        assert browser.ask("document.getElementById('panel')") is None  # no token: it only shows
    browser.wait("document.getElementById('live').className === 'live down'")
    assert "trying again" in text(browser, "#live")
    seeded.execute("UPDATE control SET training = 'closed'")
    with live_page(seeded.path, port=live.port):
        browser.wait(IS_LIVE)
        assert "training is closed" in text(browser, "h1")


def test_a_hostile_name_is_text_in_the_browser_too(seeded: Seeded, page: Browser) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\">"
    seeded.execute("UPDATE agents SET agent = ? WHERE agent = 'l-press-1'", evil)
    page.wait("document.getElementById('agents').textContent.includes('onerror')")
    assert number_of(page, "img") == 0
    assert "owned" not in page.ask("document.title")


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light"), (760, "dark")]
)
def test_the_page_fits_its_window_in_light_and_dark_without_a_complaint(
    live: Live, browser: Browser, tmp_path: Path, width: int, scheme: str
) -> None:
    browser.events.clear()
    browser.look(live.address, width, scheme=scheme)
    browser.wait(IS_LIVE)
    assert browser.ask("document.documentElement.scrollWidth") == width
    assert browser.problems() == []
    directory = Path(os.environ.get("JOURNEYMAN_PICTURES", tmp_path))
    picture = directory / f"page-{scheme}-{width}.png"
    browser.photograph(picture)
    with Image.open(picture) as image:
        colors = image.convert("RGB").getcolors(1 << 24)
    assert colors is not None
    assert image.width == width
    background = max(colors)[1]
    assert isinstance(background, tuple)
    assert (sum(background) > 600) == (scheme == "light")
    assert len(colors) > 100  # something is drawn on it
