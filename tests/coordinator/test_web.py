"""The page's server: a real one on a real port, asked by a client that shares no code with it."""

import contextlib
import logging
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
import uvicorn

from coordinator.config import read_coordinator_settings
from coordinator.reader import Reader
from coordinator.view import View
from coordinator.web.guard import Guard
from coordinator.web.page import html_of, page_of
from coordinator.web.serve import serve
from coordinator.web.settings import WebSettings, is_loopback, read_token, split_address
from coordinator.web.stream import MAX_STREAMS
from shopfloor.ports import free_port
from tests.coordinator.conftest import Plant
from tests.coordinator.live_page import TOKEN, Live, actions_on, live_page
from tests.coordinator.seeded_view import NOW, SITES, VERSIONS, Seeded, about, seed
from wire.errors import SettingsError
from wire.settings import parse_settings

EVIL = "<img src=x onerror=alert(1)>\"'&</div>"


@pytest.fixture
def seeded(tmp_path: Path) -> Seeded:
    return seed(tmp_path / "coordinator.db")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A page that only shows; its tests do not write."""
    path = tmp_path_factory.mktemp("live") / "coordinator.db"
    seed(path)
    with live_page(path) as page:
        yield page


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A page that acts, asked only for what it has to refuse."""
    path = tmp_path_factory.mktemp("guarded") / "coordinator.db"
    seed(path)
    with live_page(path, token=TOKEN) as page:
        yield page


class Elements(HTMLParser):
    """Every element and attribute of a page, as a parser of HTML sees them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


# What is shown


def test_the_page_has_every_figure_without_a_script(live: Live) -> None:
    answer = live.get("/")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    text = " ".join(Elements(answer.body).text.split())
    assert "Version 40 is served, PR\N{NON-BREAKING HYPHEN}AUC 0.872" in text
    for words in (
        *SITES,
        "rolled back to v25",
        "lineage 0 abandoned, back to v10",
        "v35 kept back",
    ):
        assert words in text
    for words in ("personal copy, own scale", "lineage … was abandoned", "two contents", "55 %"):
        assert words in text
    assert "being judged" in text
    assert "0.866 4 sites" in text or "0.8664 sites" in text  # the chart as a table


def test_everything_that_the_page_loads_is_its_own(live: Live) -> None:
    page = live.get("/")
    loaded = [value for name, value in Elements(page.body).attributes if name in ("src", "href")]
    assert all(value.startswith("/") and not value.startswith("//") for value in loaded)
    for path in loaded:
        assert live.get(path).status == 200, path
    assert "://" not in "".join(loaded)
    script = live.get("/static/page.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "<script>" not in page.body
    assert [name for name, _ in Elements(page.body).attributes if name.startswith("on")] == []


def test_every_answer_keeps_a_browser_strict(live: Live) -> None:
    for path in ("/", "/view.json", "/metrics", "/healthz", "/static/style.css", "/nothing"):
        headers = live.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'; base-uri 'none'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_words_from_the_network_stay_words(seeded: Seeded) -> None:
    for table, columns in {
        "agents": ("agent", "site", "status"),
        "quality": ("agent", "site", "metric"),
        "choices": ("agent", "model", "normalisation", "reason"),
        "decisions": ("verdict", "reason"),
        "alarms": ("agent", "kind", "detail"),
        "contributions": ("site",),
        "orders": ("name", "status", "reason"),
        "control": ("training",),
    }.items():
        for column in columns:
            seeded.execute(f"UPDATE {table} SET {column} = {column} || ?", EVIL)
    seeded.execute("UPDATE updates SET reason = reason || ?, agent = agent || ?", EVIL, EVIL)
    seeded.execute("UPDATE updates SET status = status || ? WHERE version = 9", EVIL)
    with live_page(seeded.path, token=TOKEN, federation=EVIL) as live:
        page = live.get("/").body
        with live.events() as following:
            _, news = following()
    found = Elements(page + "".join(news["sections"].values()))
    assert "img" not in found.tags
    assert [value for name, value in found.attributes if name.startswith("on")] == []
    assert found.text.count(EVIL) > 20
    assert page.count("</div>") == Elements(page).tags.count("div")


def test_the_view_is_there_for_programs(live: Live) -> None:
    answer = live.get("/view.json")
    view = msgspec.json.decode(answer.body, type=View)
    assert view.version == VERSIONS
    assert view.quality.abandoned[0].first == 11


def test_metrics_come_in_prometheus_text_format(live: Live) -> None:
    answer = live.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "\njourneyman_version 48\n" in answer.body


def test_health_is_503_while_the_database_can_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.db"
    with live_page(path) as live:
        for address in ("/healthz", "/metrics", "/", "/view.json"):
            answer = live.get(address)
            assert answer.status == 503
            assert "start the coordinator" in answer.body
        seed(path)
        with live.events() as following:  # looks again by itself
            name = ""
            while name != "view":
                name, _ = following()
        assert live.get("/healthz").body == f"ok, version {VERSIONS}\n"


def test_a_cohort_page_names_no_site_beside_a_figure(seeded: Seeded) -> None:
    with live_page(seeded.path, k_min=3) as live:
        body = live.get("/").body
        view = live.get("/view.json").json()
    assert "The charter asks for at least 3 sites" in body
    assert "personal copy" not in body
    assert "+0.012" not in body
    assert view["sites"] == []


def test_a_browser_may_ask_by_address_or_by_a_known_name_only(live: Live) -> None:
    for host in ("127.0.0.1:8181", "[::1]:8181", "LOCALHOST", "press.plant.example:80", "10.0.0.9"):
        assert live.get("/healthz", host=host).status == 200, host
    for host in ("attacker.example", "127.0.0.1.attacker.example", "[::1].attacker.example", ":80"):
        answer = live.get("/view.json", host=host)
        assert answer.status == 421, host
        assert "journeyman" not in answer.body


def test_only_actions_take_anything_but_get(live: Live) -> None:
    for path in ("/", "/view.json", "/metrics", "/events"):
        assert live.get(path, method="POST").status == 405
    assert live.get("/act/training").status == 405


# What changes


def test_a_stream_begins_with_everything_and_goes_on_with_what_changed(seeded: Seeded) -> None:
    with live_page(seeded.path) as live, live.events() as following:
        name, first = following()
        assert name == "view"
        assert first["sections"].keys() >= {"state", "tiles", "sites", "agents", "decisions"}
        assert first["chart"]["last"] == VERSIONS
        seeded.execute("UPDATE control SET duplicates = 8")
        name, second = following()
    assert name == "view"
    assert second["sections"].keys() == {"tiles", "updates"}
    assert "8 duplicates" in second["sections"]["tiles"]
    assert "chart" not in second


def test_a_stream_says_when_the_database_can_not_be_read(seeded: Seeded) -> None:
    with live_page(seeded.path) as live, live.events() as following:
        following()
        aside = seeded.path.with_name("aside.db")
        seeded.path.rename(aside)
        name, data = following()
        assert name == "trouble"
        assert "start the coordinator" in data["reason"]
        aside.rename(seeded.path)
        name, data = following()
        assert name == "view"
        assert "tiles" in data["sections"]  # everything again


def test_a_browser_that_does_not_read_holds_up_nobody(seeded: Seeded) -> None:
    with live_page(seeded.path) as live, live.events():
        for number in range(20):
            with closing(sqlite3.connect(seeded.path, timeout=0)) as db, db:
                db.execute("UPDATE control SET duplicates = ?", (100 + number,))
        assert "journeyman_duplicates_total" in live.get("/metrics").body


def test_the_server_ends_although_streams_are_open(seeded: Seeded) -> None:
    with live_page(seeded.path) as live, live.events() as following:
        following()
    # leaving the first block joined the server's thread: it would hang here otherwise
    with pytest.raises(OSError, match=r"refused|reset"):
        live.get("/healthz")


def test_more_streams_than_fit_are_told_to_come_again(live: Live) -> None:
    with contextlib.ExitStack() as open_pages:
        for _ in range(MAX_STREAMS):
            following = open_pages.enter_context(live.events())
            following()
        answer = live.get("/events")
        assert (answer.status, answer.headers["retry-after"]) == (503, "10")
        assert live.get("/healthz").status == 200


# What may be done


def test_without_a_configured_token_nothing_can_be_done(live: Live) -> None:
    for token in (None, "", TOKEN):
        answer = live.post("/act/training", {"training": "closed"}, token)
        assert answer.status == 403
        assert "only shows" in answer.json()["said"]
    assert live.get("/view.json").json()["training"] == "open"
    assert 'data-act="' not in live.get("/").body


@pytest.mark.parametrize("token", [None, "", TOKEN[:-1], TOKEN + "0", TOKEN.upper(), "é" * 32])
def test_a_wrong_token_does_nothing(guarded: Live, token: str | None) -> None:
    if token is not None:
        token = token.encode().decode("latin-1")
    for path, body in (
        ("/act/training", {"training": "closed"}),
        ("/act/agent", {"agent": "h-press-3", "order": "pause"}),
        ("/act/rollback", {"version": 25}),
    ):
        assert guarded.post(path, body, token).status == 403
    assert guarded.get("/view.json").json()["training"] == "open"


def test_with_the_token_the_page_does_what_the_command_line_does(
    seeded: Seeded, caplog: pytest.LogCaptureFixture
) -> None:
    with live_page(seeded.path, token=TOKEN) as acting, caplog.at_level(logging.INFO):
        _act(seeded, acting)
    assert "training is closed" in caplog.text
    assert TOKEN not in caplog.text


def _act(seeded: Seeded, acting: Live) -> None:
    assert acting.post("/act/training", {"training": "closed"}).json() == {
        "said": "training is closed"
    }
    assert acting.post("/act/agent", {"agent": "l-press-1", "order": "pause"}).status == 200
    assert acting.post("/act/rollback", {"version": 25}).status == 200
    with closing(sqlite3.connect(seeded.path)) as db:
        assert db.execute("SELECT training, rollback FROM control").fetchone() == ("closed", 25)
        order = "SELECT name, is_due FROM orders WHERE agent = 'l-press-1'"
        assert db.execute(order).fetchone() == ("pause", 1)
    with acting.events() as following:
        _, news = following()
    assert "Training closed" in news["sections"]["tiles"]
    assert 'data-training="open"' in news["sections"]["actions"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/act/training", b"{", 400),
        ("/act/training", {"training": "ajar"}, 400),
        ("/act/training", {"training": "open", "more": 1}, 400),
        ("/act/agent", {"agent": "x" * 64, "order": "pause"}, 400),
        ("/act/agent", {"agent": "h-press-3", "order": "wipe"}, 400),
        ("/act/rollback", {"version": -1}, 400),
        ("/act/rollback", {"version": "25"}, 400),
        ("/act/rollback", b" " * 5000, 413),
    ],
)
def test_an_action_that_is_not_one_is_refused(
    guarded: Live, path: str, body: object, status: int
) -> None:
    answer = guarded.post(path, body)
    assert answer.status == status
    assert answer.json()["said"]


def test_a_refusal_is_logged_without_what_was_tried(
    guarded: Live, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        guarded.post("/act/training", {"training": "closed"}, TOKEN[:-1] + "x")
    assert "this is not the operator's token" in caplog.text
    assert TOKEN[:-1] not in caplog.text


# What is configured


def test_a_page_listens_on_loopback_and_only_shows_unless_told_otherwise() -> None:
    web = WebSettings()
    assert (web.listen, web.token_file, web.hosts) == ("127.0.0.1:8181", "", ())


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:8181", ("127.0.0.1", 8181, True)),
        ("[::1]:80", ("::1", 80, True)),
        ("localhost:1", ("localhost", 1, True)),
        ("0.0.0.0:8181", ("0.0.0.0", 8181, False)),
        ("plant.example:8181", ("plant.example", 8181, False)),
    ],
)
def test_an_address_is_a_host_and_a_port(listen: str, expected: tuple[str, int, bool]) -> None:
    host, port = split_address(listen)
    assert (host, port, is_loopback(host)) == expected


@pytest.mark.parametrize("listen", ["8181", ":8181", "127.0.0.1", "127.0.0.1:x", "a:65536", "a:-1"])
def test_an_address_that_is_none_is_refused_with_its_line(listen: str) -> None:
    with pytest.raises(SettingsError, match=r"line|listen is `address:port`") as refused:
        parse_settings(f'listen = "{listen}"\n', WebSettings, "coordinator.toml")
    assert "127.0.0.1:8181" in str(refused.value)


def test_a_token_comes_from_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_token(path)
    path.chmod(0o600)
    assert read_token(path) == TOKEN
    for bad in ("short", TOKEN + " two words", "ü" * 40, ""):
        path.write_text(bad)
        with pytest.raises(SettingsError, match="openssl rand -hex 32"):
            read_token(path)


def test_a_name_with_a_dot_at_its_end_is_the_same_name() -> None:
    async def nothing(*_: object) -> None: ...

    guard = Guard(nothing, ["Plant.Example"])
    assert guard.is_known("plant.example.")
    assert not guard.is_known("")


def test_a_page_that_did_not_change_is_not_sent_again(seeded: Seeded) -> None:
    with closing(Reader(seeded.path, about(), clock=lambda: NOW)) as reader:
        page, again = (page_of(reader.view(), may_act=True) for _ in range(2))
    assert again.changed_since(page) is None
    assert page.changed_since(None) is not None
    assert "Roll back" in html_of(page)


# The command


def test_the_command_serves_the_page_of_a_configuration_until_sigterm(plant: Plant) -> None:
    token = plant.directory / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    port = free_port()
    plant.configure(f'[web]\nlisten = "127.0.0.1:{port}"\ntoken_file = "token"\n')
    (plant.directory / "state").mkdir()
    seed(plant.directory / "state" / "coordinator.db")
    command = ["-m", "coordinator.main", "web", str(plant.config)]
    with (plant.directory / "page.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *command], cwd=plant.repository, stderr=log)
    plant.running.append(process)
    page = Live(port)
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, (plant.directory / "page.log").read_text()
        assert time.monotonic() < deadline
        with contextlib.suppress(OSError):
            assert page.get("/healthz").status == 200
            break
        time.sleep(0.05)
    assert "spindle revision 1" in page.get("/").body
    assert page.post("/act/rollback", {"version": 25}).json()["said"].startswith("version 25")
    answer = page.post("/act/rollback", {"version": 12})
    assert (answer.status, "12 is not kept" in answer.json()["said"]) == (409, True)
    assert plant.stop(process) == 0
    assert TOKEN not in (plant.directory / "page.log").read_text()


def test_a_page_that_others_can_reach_warns_of_it(
    plant: Plant, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.configure()
    monkeypatch.setattr(uvicorn.Server, "run", lambda _: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    settings, database = read_coordinator_settings(plant.config), plant.directory / "state.db"
    with caplog.at_level(logging.INFO):
        serve(plant.config, settings, WebSettings(), database, actions_on(database))
        assert "plain HTTP" not in caplog.text
        web = WebSettings(listen="0.0.0.0:8181")
        serve(plant.config, settings, web, database, actions_on(database))
    assert "who can reach it can read it; it speaks plain HTTP" in caplog.text
