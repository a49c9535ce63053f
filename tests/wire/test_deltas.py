"""Deltas: exact for any two files, refused where they are none, and smaller than the file."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wire import deltas
from wire.deltas import WORTH, decode, encode
from wire.errors import MalformedError
from wire.tensors import write_params

PARAMETERS = 100_000


LAYERS = np.repeat([0.5, 0.1, 0.05, 0.02], PARAMETERS // 4)
"""Spread of every parameter's layer."""


def weights(seed: int = 1) -> NDArray[np.float32]:
    """Weights like those of dense layers of different width."""
    normal = np.random.default_rng(seed).normal(size=PARAMETERS)
    return np.asarray(normal * LAYERS, "<f4")


def file_of(values: NDArray[np.floating]) -> bytes:
    return write_params({"weights": values.astype("<f4")})


def stepped(relative: float, share: float = 1.0) -> tuple[bytes, bytes]:
    """Two files; the second one is a step of this relative size and share of numbers later."""
    step = np.random.default_rng(2).normal(size=PARAMETERS) * relative * LAYERS
    step[int(share * PARAMETERS) :] = 0.0
    return file_of(weights()), file_of(weights() + step)


def delta_of(base: bytes, target: bytes) -> bytes:
    delta = encode(base, target)
    assert delta is not None
    return delta


def always_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deltas, "WORTH", 100.0)


PAIRS = st.integers(0, 700).flatmap(
    lambda size: st.tuples(
        st.binary(min_size=size, max_size=size), st.binary(min_size=size, max_size=size)
    )
)


@given(PAIRS)
def test_any_file_comes_back_from_any_other_of_its_size(pair: tuple[bytes, bytes]) -> None:
    base, target = pair
    with pytest.MonkeyPatch.context() as patch:
        always_worth_it(patch)
        delta = encode(base, target)
    if delta is not None:  # it is None for files of very few bytes only
        assert decode(base, delta, len(target)) == target
    assert delta is not None or len(target) < 8


@given(PAIRS, st.sampled_from([1, 2, 33, 64]))
def test_files_of_several_slabs_come_back(pair: tuple[bytes, bytes], slab: int) -> None:
    base, target = pair
    with pytest.MonkeyPatch.context() as patch:
        always_worth_it(patch)
        patch.setattr(deltas, "_SLAB", slab)
        delta = encode(base, target)
        assert delta is None or decode(base, delta, len(target)) == target


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(0, 300))
def test_any_bytes_decode_to_the_right_size_or_are_malformed(
    base: bytes, delta: bytes, size: int
) -> None:
    try:
        target = decode(base, delta, size)
    except MalformedError:
        return
    assert len(target) == size


@given(st.data())
def test_a_damaged_delta_decodes_to_the_right_size_or_is_malformed(data: st.DataObject) -> None:
    base = file_of(weights()[:200])
    good = delta_of(base, file_of(weights()[:200] * np.float32(1.001)))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + data.draw(st.binary(min_size=1, max_size=4)) + good[at + 1 :]
    with contextlib.suppress(MalformedError):
        assert len(decode(base, bad, len(base))) == len(base)


def test_a_shorter_and_a_longer_delta_are_refused() -> None:
    base, target = stepped(1e-3)
    delta = delta_of(base, target)
    for wrong in (delta[:-1], delta[:-400], delta[:1], b"", delta + b"\0", b"\2" + delta[1:]):
        with pytest.raises(MalformedError, match="a delta"):
            decode(base, wrong, len(base))


def test_a_width_above_32_is_refused() -> None:
    base = bytes(4 * 32)
    with pytest.raises(MalformedError, match="above 32"):
        decode(base, b"\x01\x21" + bytes(4 * 33), len(base))
    assert decode(base, b"\x01\x20" + bytes(4 * 32), len(base)) == base


def test_a_delta_for_a_file_of_another_size_is_refused() -> None:
    base, target = stepped(1e-3)
    with pytest.raises(MalformedError, match="keeps the size"):
        decode(base, delta_of(base, target), len(base) + 4)
    assert encode(base, target + b"\0\0\0\0") is None


def test_another_base_gives_another_file_of_the_right_size() -> None:
    base, target = stepped(1e-3)
    other = file_of(weights(seed=9))
    found = decode(other, delta_of(base, target), len(other))
    assert len(found) == len(target)
    assert found != target


def test_unrelated_files_are_not_worth_a_delta() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.bytes(40_000), rng.bytes(40_000)
    assert encode(one, other) is None
    assert encode(b"", b"") is None


@pytest.mark.parametrize(
    ("relative", "share", "most"),
    [(1e-2, 1.0, 0.68), (1e-3, 1.0, 0.57), (1e-4, 1.0, 0.46), (1e-2, 0.1, 0.08), (0.0, 1.0, 0.009)],
)
def test_a_delta_is_as_small_as_its_step(relative: float, share: float, most: float) -> None:
    base, target = stepped(relative, share)
    delta = delta_of(base, target)
    assert len(delta) < most * len(target) < WORTH * len(target)
    assert decode(base, delta, len(base)) == target


def test_small_steps_around_zero_are_small_integers() -> None:
    tiny = np.array([-3e-45, -1e-45, -0.0, 0.0, 1e-45, 3e-45] * 1000, "<f4")
    base, target = file_of(tiny), file_of(np.roll(tiny, 1))
    assert len(delta_of(base, target)) < 0.15 * len(base)  # 4 of 32 bits, and the widths


def test_a_large_file_of_several_slabs_comes_back() -> None:
    rng = np.random.default_rng(4)
    before = rng.normal(size=600_001).astype("<f4")
    base = file_of(before) + b"abc"
    target = file_of(before * np.float32(1.0001)) + b"xyz"
    assert decode(base, delta_of(base, target), len(base)) == target
