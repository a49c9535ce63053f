"""Tensors: the safetensors package agrees, hostile files are refused, rounding is unbiased."""

import json
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wire.errors import MalformedError, WireError
from wire.tensors import (
    MAX_TENSORS,
    Bits,
    Params,
    clip,
    flatten,
    largest_integer,
    pack_integers,
    parameter_count,
    quantize,
    read_integers,
    read_params,
    read_safetensors,
    unflatten,
    update_bytes,
    write_params,
    write_safetensors,
)

SHAPES = [("dense.weight", (3, 4)), ("dense.bias", (3,)), ("gain", ())]


def some_params(seed: int = 0) -> Params:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES}


def file(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


tensor_sets = st.dictionaries(
    st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__"),
    st.tuples(
        st.sampled_from([np.float32, np.int64]),
        st.lists(st.integers(1, 4), max_size=3),
        st.integers(0, 1 << 30),
    ),
    max_size=5,
)


def made(specification: dict[str, tuple[Any, list[int], int]]) -> dict[str, NDArray[Any]]:
    return {
        name: np.random.default_rng(seed).integers(-1000, 1000, shape).astype(dtype)
        for name, (dtype, shape, seed) in specification.items()
    }


@given(tensor_sets)
def test_the_safetensors_package_reads_what_we_write(
    specification: dict[str, tuple[Any, list[int], int]],
) -> None:
    tensors = made(specification)
    data = write_safetensors(tensors)
    theirs, ours = safetensors.numpy.load(data), read_safetensors(data)
    assert theirs.keys() == tensors.keys()
    assert list(ours) == list(tensors)
    for name, tensor in tensors.items():
        for read in (theirs[name], ours[name]):
            assert read.dtype == tensor.dtype
            np.testing.assert_array_equal(read, tensor)


@given(tensor_sets)
def test_we_read_what_the_safetensors_package_writes(
    specification: dict[str, tuple[Any, list[int], int]],
) -> None:
    tensors = made(specification)
    data = safetensors.numpy.save(tensors, metadata={"format": "np"})
    read = read_safetensors(data)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor)


@given(st.binary(max_size=200))
def test_any_bytes_are_tensors_or_a_wire_error(data: bytes) -> None:
    try:
        read_safetensors(data)
    except WireError:
        return
    safetensors.numpy.load(data)


naturals = st.integers(-1, 40) | st.sampled_from([1 << 29, 1 << 64, 10**30])
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I64", "F64", "BF16", ""]) | st.none(),
        "shape": st.lists(naturals, max_size=9),
        "data_offsets": st.lists(naturals, max_size=3),
    }
)


@given(
    st.dictionaries(st.text(max_size=5), entries | st.none(), max_size=3), st.binary(max_size=64)
)
def test_any_header_gives_tensors_or_a_wire_error(header: object, body: bytes) -> None:
    try:
        read_safetensors(file(header, body))
    except WireError:
        return
    safetensors.numpy.load(file(header, body))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not fit"),
        (b"\0" * 7, "does not fit"),
        ((100).to_bytes(8, "little") + b"{}", "does not fit"),
        ((1 << 63).to_bytes(8, "little") + b"{}", "does not fit"),
        (file([]), "not a JSON object"),
        (file(b"{"), "not a JSON object"),
        (file(b"[" * 100_000), "not a JSON object"),
        (file('{"a": 1}'.encode("utf-16")), "not a JSON object"),
        (file({"w": None}), "needs dtype"),
        (file({"w": entry([1], 0, 4, "F64")}, bytes(8)), "needs dtype"),
        (file({"w": entry([-1], 0, 4)}, bytes(4)), "needs dtype"),
        (file({"w": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}), "needs dtype"),
        (file({"w": entry([1], 4, 8)}, bytes(8)), "not at bytes 0 to 4"),
        (file({"w": entry([1], 0, 8)}, bytes(8)), "not at bytes 0 to 4"),
        (file({"w": entry([2], 0, 8)}, bytes(4)), "not at bytes 0 to 8"),
        (file({"v": entry([1], 0, 4), "w": entry([1], 0, 4)}, bytes(4)), "not at bytes 4 to 8"),
        (file({"w": entry([1], 0, 4)}, bytes(5)), "1 bytes after the last"),
        (file({"w": entry([0], 0, 0)}), "has no elements"),
        (file({"w": entry([0, 1 << 29, 1 << 29, 1 << 29], 0, 0)}), "has no elements"),
        (file({"w": entry([1 << 28, 1 << 28], 0, 4)}, bytes(4)), "elements, at most"),
        (file({"w": entry([1], 0, 4)}, np.float32("nan").tobytes()), "not finite"),
        (file({"w": entry([1], 0, 4)}, np.float32("-inf").tobytes()), "not finite"),
        (file({str(name): None for name in range(MAX_TENSORS + 1)}), "1025 tensors"),
        (file(b'{"w": null, "w": null}'), "not a JSON object"),
    ],
)
def test_a_hostile_file_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        read_safetensors(data)


def test_weights_come_back_in_the_manifests_order() -> None:
    params = some_params()
    read = read_params(write_params(params), SHAPES)
    assert list(read) == [name for name, _ in SHAPES]
    for name, tensor in params.items():
        np.testing.assert_array_equal(read[name], tensor)
        assert read[name].flags.writeable


@pytest.mark.parametrize(
    "shapes",
    [SHAPES[:2], [*SHAPES, ("more", (1,))], SHAPES[::-1], [("dense.weight", (4, 3)), *SHAPES[1:]]],
)
def test_weights_that_are_not_the_manifests_are_refused(
    shapes: list[tuple[str, tuple[int, ...]]],
) -> None:
    with pytest.raises(MalformedError, match="do not match the manifest"):
        read_params(write_params(some_params()), shapes)


def test_weights_that_are_integers_are_refused() -> None:
    data = write_safetensors({"w": np.arange(3)})
    with pytest.raises(MalformedError, match="float32"):
        read_params(data, [("w", (3,))])


def test_the_flat_vector_is_every_tensor_in_order_and_in_c_order() -> None:
    params: Params = {
        "a": np.asfortranarray(np.array([[1, 2], [3, 4]], np.float32)),
        "b": np.array(5, np.float32),
    }
    vector = flatten(params)
    assert vector.tolist() == [1, 2, 3, 4, 5]
    back = unflatten(vector, [("a", (2, 2)), ("b", ())])
    for name, tensor in params.items():
        np.testing.assert_array_equal(back[name], tensor)
    assert parameter_count(SHAPES) == 12 + 3 + 1


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_rounding_is_unbiased(bits: Bits) -> None:
    rng = np.random.default_rng(1)
    scale, repeats = 0.01, 4000
    vector = rng.uniform(-1, 1, 50) * scale * min(largest_integer(bits), 100)
    total = np.zeros(50, np.int64)
    for _ in range(repeats):
        total += read_integers(quantize(vector, scale, bits, rng)[0], bits, 50)
    # One rounding has a standard deviation of at most half a step; six of them for the mean.
    allowed = 6 * 0.5 * scale / np.sqrt(repeats)
    assert np.abs(total * scale / repeats - vector).max() < allowed


@given(
    st.lists(st.floats(-1.2, 1.2), min_size=1, max_size=40),
    st.floats(1e-4, 0.1),
    st.sampled_from([4, 8, 16]),
    st.integers(0, 1 << 30),
)
def test_rounding_errs_by_less_than_a_step_or_saturates(
    values: list[float], scale: float, bits: Bits, seed: int
) -> None:
    vector = np.array(values)
    data, saturated = quantize(vector, scale, bits, np.random.default_rng(seed))
    steps = read_integers(data, bits, len(values)).astype(np.float64)
    limit = (1 << (bits - 1)) - 1
    inside = np.abs(vector / scale) <= limit
    assert np.all(np.abs(steps - vector / scale)[inside] < 1.0 + 1e-9)
    assert np.all(steps[~inside] == np.sign(vector[~inside]) * limit)
    assert np.count_nonzero(np.abs(vector / scale) >= limit + 1) <= saturated
    assert saturated <= np.count_nonzero(np.abs(vector / scale) > limit - 1)


def test_what_does_not_fit_saturates_symmetrically_and_is_counted() -> None:
    vector = np.array([-1000.0, -127.0, 0.0, 127.0, 1000.0])
    data, saturated = quantize(vector, 1.0, 8, np.random.default_rng(0))
    assert read_integers(data, 8, 5).tolist() == [-127, -127, 0, 127, 127]
    assert saturated == 2


def test_whole_steps_are_kept_exactly() -> None:
    vector = np.arange(-127, 128) * 0.5
    data, saturated = quantize(vector, 0.5, 8, np.random.default_rng(3))
    assert read_integers(data, 8, 255).tolist() == list(range(-127, 128))
    assert saturated == 0


def test_integers_are_little_endian() -> None:
    data, _ = quantize(np.array([258.0, -2.0]), 1.0, 16, np.random.default_rng(0))
    assert data == b"\x02\x01\xfe\xff"


def test_of_two_4_bit_integers_the_first_is_in_the_low_half() -> None:
    data = bytes.fromhex("f1 79 07")
    assert read_integers(data, 4, 5).tolist() == [1, -1, -7, 7, 7]
    assert pack_integers(np.array([1, -1, -7, 7, 7]), 4) == data
    vector = np.array([0.5, -0.5, -100.0, 3.5, 100.0])
    assert quantize(vector, 0.5, 4, np.random.default_rng(0)) == (data, 2)


@given(st.lists(st.integers(-7, 7), max_size=40))
def test_4_bit_integers_come_back_as_they_were(values: list[int]) -> None:
    data = pack_integers(np.array(values, np.int8), 4)
    assert len(data) == update_bytes(4, len(values)) == (len(values) + 1) // 2
    read = read_integers(data, 4, len(values))
    assert read.dtype == np.int8
    assert read.tolist() == values


@given(st.binary(max_size=20), st.booleans())
def test_any_bytes_are_4_bit_integers_or_refused(data: bytes, odd: bool) -> None:
    count = max(2 * len(data) - odd, 0)
    halves = [half for byte in data for half in (byte & 15, byte >> 4)]
    is_valid = 8 not in halves[:count] and not any(halves[count:])
    try:
        read = read_integers(data, 4, count)
    except MalformedError:
        assert not is_valid
    else:
        assert is_valid
        assert pack_integers(read, 4) == data


@pytest.mark.parametrize(
    ("data", "count", "reason"),
    [
        (b"\x08", 2, "is -8"),
        (b"\x80", 2, "is -8"),
        (b"\x80", 1, "must be zero"),
        (b"\x11\x11", 3, "must be zero"),
        (b"\x11", 3, "has 2 bytes, not 1"),
        (b"\x11\x11", 2, "has 1 bytes, not 2"),
        (b"\x00", 0, "has 0 bytes, not 1"),
    ],
)
def test_4_bit_bytes_that_nobody_sends_are_refused(data: bytes, count: int, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        read_integers(data, 4, count)


@pytest.mark.parametrize(("bits", "value"), [(4, 8), (4, -8), (8, -128), (8, 128), (16, -32768)])
def test_an_integer_that_does_not_fit_is_not_packed(bits: Bits, value: int) -> None:
    with pytest.raises(OverflowError, match=f"does not fit {bits} bits"):
        pack_integers(np.array([0, value]), bits)


@pytest.mark.parametrize(("size", "bits"), [(4, 8), (6, 8), (5, 16), (11, 16)])
def test_an_update_of_another_size_is_refused(size: int, bits: Bits) -> None:
    with pytest.raises(MalformedError, match=f"not {size}"):
        read_integers(bytes(size), bits, 5)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(1e-3, 1e3))
def test_clipping_bounds_the_norm_and_keeps_the_direction(values: list[float], norm: float) -> None:
    vector = np.array(values)
    clipped = clip(vector, norm)
    length = float(np.linalg.norm(vector))
    assert np.linalg.norm(clipped) <= norm * (1 + 1e-9)
    if length <= norm:
        np.testing.assert_array_equal(clipped, vector)
    else:
        np.testing.assert_allclose(clipped, vector / length * norm, rtol=1e-9, atol=1e-12)
