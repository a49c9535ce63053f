"""The sceptic of secure mode finds what he looks for: broken promises, masks that stay on."""

import itertools
import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.helper.identity import make_helper
from coordinator.helper.store import Store, make_store
from coordinator.secure.rules import levelled
from shopfloor.chaos.helpers import HelperAccount, OldCopy, problems_of, read_helper
from shopfloor.chaos.layout import Layout
from shopfloor.chaos.refold import Recipe, coefficients
from shopfloor.chaos.schedule import HELPERS, KINDS, kinds_of, schedule
from shopfloor.chaos.tape import Taped
from shopfloor.chaos.unmasking import unmasked
from wire.chunks import sha256
from wire.errors import MalformedError
from wire.masking import mask, seal_seeds
from wire.messages import HelperKeys, Masked
from wire.sealing_keys import SealingKey

UPDATE = ("gateway-1", "00112233445566ff", 7)
LIVING = HelperAccount("union", 5, "", {b"r": b"m"})
REPLACED = HelperAccount("insurer", 4, "", {b"r": b"m", b"s": b"m"})
COPIED = HelperAccount("insurer", 2, "", {b"r": b"m"})
RESTORED = replace(COPIED, restored="the broker has its endorsement 4, its store 2")


def test_helpers_that_kept_their_word_have_no_problems() -> None:
    assert problems_of([LIVING], None, None) == []
    assert problems_of([LIVING, RESTORED], REPLACED, COPIED) == []


@pytest.mark.parametrize(
    ("account", "words"),
    [
        (COPIED, ["insurer says of its store: nothing"]),
        (replace(RESTORED, endorsed=3), ["insurer endorsed 1 manifests on an old copy"]),
        (replace(RESTORED, promises={b"s": b"x"}), ["insurer promised report 73… twice"]),
    ],
    ids=["it did not notice", "it went on", "it promised twice"],
)
def test_an_old_copy_that_goes_on_is_found(account: HelperAccount, words: list[str]) -> None:
    assert problems_of([LIVING, account], REPLACED, COPIED) == words


def test_a_helper_that_takes_itself_for_an_old_copy_without_being_one_is_found() -> None:
    wrong = replace(LIVING, restored="a mistake")
    assert problems_of([wrong], None, None) == ["union says of its store: a mistake"]


def masked_update(values: np.ndarray) -> tuple[bytes, Masked, list[bytes]]:
    keys = [SealingKey.generate() for _ in HELPERS]
    content, seeds = mask(values, 16)
    agent, incarnation, sequence = UPDATE
    masked = seal_seeds(
        seeds,
        16,
        [key.public for key in keys],
        federation="chaos",
        name=(agent, f"{incarnation}/{sequence}"),
        digest=sha256(content),
    )
    return content, masked, [key.raw for key in keys]


def test_two_helpers_keys_open_a_report_and_one_helpers_do_not() -> None:
    values = np.random.default_rng(3).integers(-127, 128, 5_000)
    content, masked, keys = masked_update(values)
    digest = sha256(content).hex()
    for pair in (keys[:2], keys[1:], keys[::2], keys):
        found = unmasked(content, masked, pair, "chaos", UPDATE, digest)
        assert np.array_equal(found, values)
    alone = unmasked(content, masked, keys[:1], "chaos", UPDATE, digest)
    assert np.mean(alone == values) < 0.01
    with pytest.raises(MalformedError, match="no box"):
        unmasked(content, masked, keys, "chaos", (*UPDATE[:2], 8), digest)


@given(
    weights=st.lists(st.integers(1, 20), min_size=3, max_size=12),
    seed=st.integers(0, 1000),
    k_min=st.integers(1, 3),
)
def test_the_sceptic_levels_as_the_specification_says(
    weights: list[int], seed: int, k_min: int
) -> None:
    rng = random.Random(seed)
    agents = [f"gateway-{rng.randint(1, 4)}" for _ in weights]
    headers = [
        Taped((agent, "00", at), "", (), 0.1, 8, weight, 0, 3)
        for at, (agent, weight) in enumerate(zip(agents, weights, strict=True))
    ]
    recipe = Recipe(np.zeros(1, np.float32), (), 1.0, 20, 2.0, (b"key",), "chaos", k_min)
    expected = levelled(weights, agents, k_min)
    if expected is not None:
        assert coefficients(recipe, headers, version=4) == expected


def test_without_helpers_the_schedule_is_what_it_was_and_with_them_they_are_struck_too() -> None:
    assert kinds_of(()) == KINDS
    rules = kinds_of(HELPERS)
    faults = itertools.islice(schedule(1, tuple(rules), rules), 2000)
    targets = {(fault.kind, target) for fault in faults for target in fault.targets}
    for helper in HELPERS:
        assert {("kill-helper", helper), ("cut", helper), ("disk-full", helper)} <= targets
    assert {target for kind, target in targets if kind == "restore-helper"} == {"insurer"}
    two = kinds_of(HELPERS[:-1])
    assert "restore-helper" not in two
    assert not any("insurer" in kind.targets for kind in two.values())


def endorse(state: Path, keys: HelperKeys) -> None:
    """As a helper does: one promise more."""
    store = Store(state, keys)
    with store.transaction():
        store.promise(state.name.encode(), b"", [])
    store.close()


def test_an_old_copy_takes_the_place_of_a_helpers_disk_once(tmp_path: Path) -> None:
    layout, log = Layout(tmp_path, 0, 0, {}), tmp_path / "insurer.log"
    state = layout.state("insurer")
    keys = make_helper(tmp_path / "keys", "insurer")
    make_store(state, keys)
    copy, ripe = OldCopy(layout, log), []
    ripe.append(copy.is_ripe)
    copy.take()
    ripe.append(copy.is_ripe)
    endorse(state, keys)
    ripe.append(copy.is_ripe)
    copy.is_used = True
    copy.restore()
    ripe.append(copy.is_ripe)
    assert ripe == [False, False, True, False]
    endorsed = [read_helper("insurer", each).endorsed for each in (state, layout.replaced)]
    assert endorsed == [0, 1]
    log.write_text("connected")
    noticed = [copy.is_unnoticed]
    log.write_text("ALARM restored: the broker has more")
    assert [*noticed, copy.is_unnoticed] == [True, False]
    with closing(sqlite3.connect(state / "helper.db")) as database:
        assert database.execute("PRAGMA quick_check").fetchone() == ("ok",)
