"""docs/strategies.md: its module runs, its tables are valid, and what it calls refused is."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from coordinator.aggregate import Buffer, Member, empty
from coordinator.config import read_coordinator_settings, read_identity
from coordinator.store import Store
from coordinator.strategies.own import StrategyError, own
from coordinator.strategies.strategy import Offer, Rejected
from shopfloor.simulate.settings import read_tables
from tests.coordinator.conftest import Plant
from tests.coordinator.small_federation import (
    FEDERATION,
    Site,
    buffer_in,
    bundle_bytes,
    enrol,
    open_federation,
)
from wire.errors import SettingsError
from wire.keys import AUTHOR_KEY, make_federation
from wire.messages import Policy
from wire.signing import read_private_key

DOCUMENT = Path(__file__).parents[2] / "docs" / "strategies.md"


def blocks(language: str) -> list[str]:
    """The document's code blocks of one language."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The document's module, installed where the coordinator finds it."""
    [source] = blocks("python")
    (tmp_path / "plant_rules.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("plant_rules")
    del sys.modules["plant_rules"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "coordinator.db")
    yield opened
    opened.close()


def members(*sites: str) -> Buffer:
    """A buffer in which one update of each of these sites waits."""
    waiting = tuple(
        Member(agent=f"{site}-{at}", site=site, base_version=0, weight=10, coefficient=10)
        for at, site in enumerate(sites)
    )
    before = empty(4)
    return Buffer(before.summed, waiting, 10 * len(waiting))


@pytest.mark.parametrize(
    ("base_version", "sites", "expected"),
    [
        (7, (), 100),
        (6, ("a", "b", "b"), 50),
        (0, ("a",), 12),
        (7, ("a", "b", "a"), "site a is in this version twice already"),
    ],
)
def test_the_documents_rule_says_what_it_promises(
    rules: ModuleType, base_version: int, sites: tuple[str, ...], expected: int | str
) -> None:
    offer = Offer("a-9", "a", 100, base_version)
    answer = rules.fresh_and_fair(offer, members(*sites), 7)
    assert answer == (Rejected(expected) if isinstance(expected, str) else expected)


def test_the_documents_rule_gives_every_update_a_weight_or_a_reason(rules: ModuleType) -> None:
    assert rules.fresh_and_fair(Offer("a", "a", 1, 0), empty(4), 20) == 1
    late = rules.fresh_and_fair(Offer("a", "a", 1, 0), empty(4), 21)
    assert late == Rejected("21 versions behind; we take 20")


def test_a_federation_aggregates_by_the_documents_rule(rules: ModuleType, store: Store) -> None:
    assert rules.__name__ == "plant_rules"
    table = blocks("toml")[-1]
    federation = open_federation(store, table)
    for agent, site in (("a-1", "a"), ("a-2", "a"), ("a-3", "a"), ("b-1", "b")):
        enrol(store, agent, site)
    told = []
    for agent in ("a-1", "a-2", "a-3", "b-1"):
        update = Site(agent).update(federation.head.train, weight=30)
        [(_, receipt)] = federation.commit([update], 1.0).receipts
        told.append((receipt.status, receipt.reason))
    refused = ("refused", "site a is in this version twice already")
    assert told == [("committed", ""), ("committed", ""), refused, ("committed", "")]
    assert [member.weight for member in buffer_in(federation).members] == [30, 30, 30]
    first = federation.head.train
    assert federation.tick(601.0).head_moved  # at its deadline
    enrol(store, "b-2", "b")
    federation.commit([Site("b-2").update(first, weight=30)], 602.0)
    assert [member.weight for member in buffer_in(federation).members] == [15]


def test_the_simulation_takes_the_documents_rule_too(rules: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text(blocks("toml")[-1], encoding="utf-8")
    strategy = read_tables(file).rules().strategy
    assert strategy.admit(Offer("a", "a", 40, 0), empty(4), 3) == 10
    assert rules.OLDEST == 20


@pytest.mark.parametrize("table", blocks("toml"))
def test_every_table_of_the_document_is_valid(
    rules: ModuleType, tmp_path: Path, table: str
) -> None:
    file = plant_in(tmp_path, table, k_min=2)
    settings = read_coordinator_settings(file)
    read_identity(file, settings)
    assert settings.strategy.function in ("", f"{rules.__name__}:fresh_and_fair")


# What an operator's function may answer


POLICY_OF_DEFAULTS = Policy()


def rule(directory: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> str:
    """Install a module with a function that answers an expression; return its name."""
    name = f"rule_{abs(hash(body))}"
    (directory / f"{name}.py").write_text(
        "from coordinator.strategies.strategy import Rejected\n"
        f"def decide(offer, buffer, current):\n    return {body}\n"
    )
    monkeypatch.syspath_prepend(directory)
    importlib.invalidate_caches()
    return f"{name}:decide"


@pytest.mark.parametrize(
    ("answer", "is_taken"),
    [
        ("1", True),
        ("offer.weight * 1000", True),
        ("0", False),
        ("-5", False),
        ("1.5", False),
        ("True", False),
        ("None", False),
        ("'heavy ' * 1000", False),
        ("1 << 39", True),
        ("1 << 40", False),
        ("10 ** 30", False),
    ],
)
def test_an_answer_that_is_no_weight_is_a_refusal_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, is_taken: bool
) -> None:
    function = rule(tmp_path, monkeypatch, answer)
    strategy = own(function, 5, 600.0, POLICY_OF_DEFAULTS)
    said = strategy.admit(Offer("a", "a", 10, 0), empty(4), 0)
    assert isinstance(said, int) == is_taken
    if isinstance(said, Rejected):
        assert said.reason.startswith(f"the strategy {function} answered ")
        assert len(said.reason) < 200


def test_no_answer_makes_the_buffer_overflow_even_while_clipping_counts_in_128ths(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = rule(tmp_path, monkeypatch, "1 << 38")
    toml = f'[strategy]\nname = "own"\nfunction = "{function}"\n[robust]\nclip = "norm"\n'
    federation, site = open_federation(store, toml), Site()
    told = []
    for _ in range(3):
        [(_, receipt)] = federation.commit([site.update(federation.head.train)], 1.0).receipts
        told.append(receipt.status)
    assert told == ["committed", "committed", "refused"]


@pytest.mark.parametrize(
    "function", ["", "plant", "no_such_module:decide", "os:no_such", "os:sep", ".:x", "a..b:x"]
)
def test_a_function_that_is_not_there_is_an_error_of_the_file(function: str) -> None:
    with pytest.raises(StrategyError):
        own(function, 5, 600.0, POLICY_OF_DEFAULTS)


def test_a_module_with_a_slip_of_the_pen_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = rule(tmp_path, monkeypatch, "1 +")
    with pytest.raises(StrategyError, match=r"can not be imported: .*syntax"):
        own(function, 5, 600.0, POLICY_OF_DEFAULTS)


# What is refused together


def plant_in(directory: Path, toml: str, k_min: int = 1, policy: str = "") -> Path:
    """A coordinator's file with these tables, and the keys that it names."""
    root = make_federation(directory / "keys", FEDERATION, k_min=k_min)
    author = read_private_key(directory / "keys" / AUTHOR_KEY)
    (directory / "bundle.jm").write_bytes(bundle_bytes(FEDERATION, author))
    made = Plant(directory, directory, root, 1)
    if "[policy]" in toml:
        toml, _, rest = toml.partition("[policy]\n")
        policy += rest
    made.configure(toml, policy)
    if "weight_cap" in policy:
        usual = made.config.read_text()
        made.config.write_text(usual.replace("weight_cap = 1000\n", ""))
    return made.config


CALIBRATED = '[strategy]\nname = "calibrated"\ngoal = 5\n'
CALIBRATION = "calibration = 1.0\noffline_training = false\n"


@pytest.mark.parametrize(
    ("key", "toml", "policy", "k_min"),
    [
        ("strategy.goal", "[strategy]\ngoal = 2\n", "", 3),
        ("strategy.clients", '[strategy]\nname = "fedavg"\nclients = 2\n', "", 3),
        ("strategy.name", '[strategy]\nname = "fedasync"\n', "", 2),
        (
            "robust.buckets",
            '[strategy]\ngoal = 8\n[robust]\ncombine = "median"\nbuckets = 5\n',
            "",
            2,
        ),
        ("initial.source", '[initial]\nsource = "site"\nsite = "L"\n', "", 2),
        ("gate.quorum", "[gate]\nquorum = 2\n", "", 3),
        ("robust.buckets", '[robust]\ncombine = "median"\nbuckets = 2\n', "", 1),
        ("policy.calibration", "", CALIBRATION, 1),
        ("policy.calibration", CALIBRATED, "offline_training = false\n", 1),
        ("policy.offline_training", CALIBRATED, "calibration = 1.0\n", 1),
        ("robust.clip", CALIBRATED + '[robust]\nclip = "norm"\n', CALIBRATION, 1),
        (
            "robust.combine",
            CALIBRATED.replace("5", "9") + '[robust]\ncombine = "median"\nbuckets = 3\n',
            CALIBRATION,
            1,
        ),
        ("policy.kept_share", CALIBRATED, CALIBRATION + "kept_share = 0.1\n", 1),
    ],
)
def test_what_the_document_calls_refused_together_is_refused_and_named(
    tmp_path: Path, key: str, toml: str, policy: str, k_min: int
) -> None:
    file = plant_in(tmp_path, toml, k_min, policy)
    with pytest.raises(SettingsError, match=rf"coordinator\.toml:\d+: {key}: ") as caught:
        read_identity(file, read_coordinator_settings(file))
    assert caught.value.key == key
