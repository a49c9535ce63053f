"""Bundles: one signed file whose parts agree, or a refusal that says which part does not."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.bundle import (
    GOLDEN,
    MODEL,
    WEIGHTS,
    Channel,
    Difference,
    Label,
    Level,
    Manifest,
    Product,
    Tensor,
    read_bundle,
    write_bundle,
)
from wire.chunks import sha256
from wire.codec import MAX_BYTES, open_envelope, parse_body, seal, seal_bytes
from wire.errors import BundleError, MalformedError, SignatureError, TooLargeError, WireError
from wire.messages import Charter
from wire.signing import PrivateKey
from wire.tensors import write_params
from wire.trust import AUTHOR, ROOT, Trust, read_charter

AUTHOR_KEY = PrivateKey(bytes([4] * 32))
AGREEMENT = bytes([7] * 32)
PARAMS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([-1.5, 2.5], np.float32),
}
FILES = {MODEL: b"an ONNX graph", WEIGHTS: write_params(PARAMS), GOLDEN: b"golden"}
MANIFEST = Manifest(
    name="spindle",
    revision=3,
    channels=(
        Channel(name="air", unit="K"),
        Channel(name="process", unit="K"),
        Channel(name="torque", unit="N.m"),
    ),
    label=Label(channel="failure"),
    features=(
        Level(channel="torque", mean=40.0, std=10.0),
        Difference(a="process", b="air", mean=10.0, std=1.0),
        Product(a="torque", b="air", mean=0.0, std=1e3),
    ),
    tensors=(Tensor(name="w", shape=(2, 3)), Tensor(name="b", shape=(2,))),
    agreement=AGREEMENT,
    files={},
)


def written(manifest: Manifest = MANIFEST, files: dict[str, bytes] = FILES) -> bytes:
    return write_bundle(manifest, files, "plant-net", AUTHOR_KEY)


def signed_body(manifest: Manifest, files: dict[str, bytes]) -> bytes:
    """A bundle signed by a real author who does not use `write_bundle`."""
    body = msgspec.msgpack.encode({"manifest": manifest, "files": files})
    return seal_bytes(
        "bundle", body, federation="plant-net", signer=AUTHOR, counter=1, key=AUTHOR_KEY
    )


def test_a_bundle_comes_back_whole(trust: Trust) -> None:
    bundle = read_bundle(written(), trust)
    digests = {name: sha256(data) for name, data in FILES.items()}
    assert bundle.manifest == msgspec.structs.replace(MANIFEST, files=digests)
    assert bundle.files == FILES
    assert list(bundle.weights) == ["w", "b"]
    np.testing.assert_array_equal(bundle.weights["w"], PARAMS["w"])


def test_the_same_bundle_is_the_same_bytes() -> None:
    assert written() == written()


@given(st.integers(0, 100_000), st.integers(1, 255))
def test_a_bundle_with_one_byte_changed_is_refused(position: int, change: int) -> None:
    charter = Charter(
        federation="plant-net",
        epoch=1,
        enrolment_key=bytes(32),
        coordinator_key=bytes(32),
        author_keys=(AUTHOR_KEY.public.raw,),
        agreement=AGREEMENT,
    )
    root = PrivateKey(bytes([1] * 32))
    sealed = seal(charter, federation="plant-net", signer=ROOT, counter=1, key=root)
    data = bytearray(written())
    data[position % len(data)] ^= change
    with pytest.raises(WireError):
        read_bundle(bytes(data), read_charter(sealed, root.public))


def test_a_bundle_of_a_stranger_is_refused(trust: Trust) -> None:
    data = write_bundle(MANIFEST, FILES, "plant-net", PrivateKey(bytes([9] * 32)))
    with pytest.raises(SignatureError, match="none of the charter's 2 author keys signed it"):
        read_bundle(data, trust)


def test_a_bundle_for_another_federation_is_refused(trust: Trust) -> None:
    with pytest.raises(SignatureError):
        read_bundle(write_bundle(MANIFEST, FILES, "other-net", AUTHOR_KEY), trust)


def test_a_bundle_under_another_agreement_is_refused(trust: Trust) -> None:
    manifest = msgspec.structs.replace(MANIFEST, agreement=bytes(32))
    with pytest.raises(BundleError, match="another agreement"):
        read_bundle(written(manifest), trust)


@pytest.mark.parametrize(
    "files",
    [
        {name: FILES[name] for name in (MODEL, WEIGHTS)},
        FILES | {"train.py": b"import os"},
        {MODEL: b"", "../" + WEIGHTS: b"", GOLDEN: b""},
    ],
)
def test_a_bundle_with_other_files_than_the_three_is_refused(
    trust: Trust, files: dict[str, bytes]
) -> None:
    with pytest.raises(BundleError, match="not the three expected"):
        read_bundle(written(files=files), trust)


@pytest.mark.parametrize("name", [MODEL, WEIGHTS, GOLDEN])
def test_a_file_that_the_manifest_does_not_name_is_refused(trust: Trust, name: str) -> None:
    digests = {name: sha256(data) for name, data in FILES.items()}
    manifest = msgspec.structs.replace(MANIFEST, files=digests)
    with pytest.raises(BundleError, match="does not have the manifest's SHA-256"):
        read_bundle(signed_body(manifest, FILES | {name: b"another"}), trust)


def test_weights_that_are_not_the_manifests_tensors_are_refused(trust: Trust) -> None:
    manifest = msgspec.structs.replace(MANIFEST, tensors=MANIFEST.tensors[::-1])
    with pytest.raises(MalformedError, match="do not match the manifest"):
        read_bundle(written(manifest), trust)


def test_weights_that_are_no_safetensors_file_are_refused(trust: Trust) -> None:
    with pytest.raises(MalformedError, match="safetensors"):
        read_bundle(written(files=FILES | {WEIGHTS: b"pickle"}), trust)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"channels": (*MANIFEST.channels, Channel(name="air", unit="C"))}, "air is listed twice"),
        ({"features": (Level(channel="oil", mean=0.0, std=1.0),)}, "unknown channel oil"),
        ({"features": (Product(a="air", b="oil", mean=0.0, std=1.0),)}, "unknown channel oil"),
        ({"label": Label(channel="torque")}, "the label torque is an input"),
    ],
)
def test_channels_that_contradict_each_other_are_refused(
    trust: Trust, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(BundleError, match=reason):
        read_bundle(written(msgspec.structs.replace(MANIFEST, **changes)), trust)


@pytest.mark.parametrize(
    "changes",
    [
        {"revision": 0},
        {"channels": ()},
        {"features": ()},
        {"features": ({"type": "exec", "code": "import os"},)},
        {"features": (Level(channel="torque", mean=0.0, std=0.0),)},
        {"features": (Level(channel="torque", mean=float("nan"), std=1.0),)},
        {"tensors": (Tensor(name="w", shape=(0, 3)),)},
        {"tensors": (Tensor(name="w", shape=(1,) * 9),)},
        {"loss": "eval"},
        {"threshold": 1.5},
        {"agreement": b"short"},
    ],
)
def test_a_manifest_out_of_range_is_malformed(trust: Trust, changes: dict[str, object]) -> None:
    fields = msgspec.to_builtins(MANIFEST, builtin_types=(bytes,)) | changes
    digests = {name: sha256(data) for name, data in FILES.items()}
    body = msgspec.msgpack.encode({"manifest": fields | {"files": digests}, "files": FILES})
    data = seal_bytes(
        "bundle", body, federation="plant-net", signer=AUTHOR, counter=1, key=AUTHOR_KEY
    )
    with pytest.raises(MalformedError):
        read_bundle(data, trust)


def test_a_bundle_over_its_cap_is_neither_written_nor_read(trust: Trust) -> None:
    with pytest.raises(TooLargeError):
        written(files=FILES | {MODEL: bytes(MAX_BYTES["bundle"])})
    with pytest.raises(TooLargeError):
        read_bundle(bytes(MAX_BYTES["bundle"] + 1), trust)


def test_the_revision_is_signed_as_the_counter() -> None:
    opened = open_envelope(written(), "bundle")
    assert opened.counter == MANIFEST.revision
    assert parse_body(opened, dict).keys() == {"manifest", "files"}
