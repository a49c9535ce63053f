"""The operator's form: over real HTTP, on loopback, refusing what is not from its own page."""

import asyncio
import math
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.egress import Egress
from agent.labels import LabelChannel, Labels, LabelsTable, problems
from agent.labels.form import label_form

STATES = {"good": 0.0, "scratch <deep>": 2.0}
TABLE = LabelsTable(listen="127.0.0.1:0", channel=(LabelChannel(name="defect", states=STATES),))


def with_form(folder: Path, visit: Callable[[str], None], table: LabelsTable = TABLE) -> Labels:
    """Run a visitor in a thread beside the event loop that owns the labels."""
    labels = Labels(folder / "labels.db", table, ["torque", "defect"], folder)

    async def run() -> None:
        async with label_form(labels, table, "gateway-1, Ulm", Egress()) as address:
            await asyncio.to_thread(visit, address)

    asyncio.run(run())
    return labels


def get(address: str, **headers: str) -> tuple[int, str]:
    return _ask(urllib.request.Request(address, headers=headers))


def post(address: str, action: str, **fields: str) -> tuple[int, str]:
    data = urllib.parse.urlencode(fields).encode()
    return _ask(urllib.request.Request(f"{address}{action}", data=data))


def _ask(request: urllib.request.Request) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def token(page: str) -> str:
    found = re.search(r'name=token value="([^"]+)"', page)
    assert found is not None
    return found[1]


def filled_in(page: str, **changes: str) -> dict[str, str]:
    fields = {
        "token": token(page),
        "channel": "defect",
        "value": "scratch <deep>",
        "from": "2026-03-31T14:00:00",
        "until": "2026-03-31T14:05:00",
        "note": "line 2",
    }
    return fields | changes


def test_what_an_operator_fills_in_is_kept_and_shown_and_can_be_taken_back(tmp_path: Path) -> None:
    def visit(address: str) -> None:
        _, page = get(address)
        assert "scratch &lt;deep&gt;" in page
        status, page = post(address, "add", **filled_in(page))
        assert status == 200
        assert "Label 1 is kept." in page
        assert "line 2" in page
        status, page = post(address, "add", **filled_in(page, value="none"))
        assert status == 200
        status, page = post(address, "remove", token=token(page), number="1")
        assert "Label 1 is taken back." in page

    (kept,) = with_form(tmp_path, visit).newest(10)
    assert math.isnan(kept.record.value)
    assert kept.record.until_us - kept.record.from_us == 300_000_000


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"value": "dent"}, "neither a number nor a state of defect"),
        ({"from": "yesterday"}, "yesterday"),
        ({"from": "2026-04-01T00:00:00"}, "end before it begins"),
        ({"channel": "torque"}, "no such label"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_kept(
    tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    def visit(address: str) -> None:
        status, page = post(address, "add", **filled_in(get(address)[1], **changes))
        assert status == 400
        assert reason in page

    assert with_form(tmp_path, visit).newest(10) == []


def test_a_form_of_another_page_or_another_host_is_refused(tmp_path: Path) -> None:
    def visit(address: str) -> None:
        page = get(address)[1]
        assert post(address, "add", **filled_in(page, token="guess"))[0] == 403
        assert get(address, Host="evil.example")[0] == 421
        assert post(address, "add", **filled_in(page, note="x" * 9000))[0] == 400
        assert post(address, "drop", **filled_in(page))[0] == 400
        assert get(f"{address}etc/passwd")[0] == 404

    assert with_form(tmp_path, visit).newest(10) == []


def test_the_form_can_listen_on_ipv6(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")

    def visit(address: str) -> None:
        assert address.startswith("http://[::1]:")
        assert get(address)[0] == 200

    with_form(tmp_path, visit, LabelsTable(listen="[::1]:0", channel=TABLE.channel))


@pytest.mark.parametrize("listen", ["0.0.0.0:8485", "192.168.1.4:80", "here", "127.0.0.1:99999"])
def test_an_address_that_others_could_reach_is_refused(listen: str) -> None:
    assert [key for key, _ in problems(LabelsTable(listen=listen))] == ["labels.listen"]
