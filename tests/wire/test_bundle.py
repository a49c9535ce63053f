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
    read_draft,
    write_bundle,
    write_draft,
)
from wire.chunks import sha256
from wire.codec import MAX_BYTES, open_envelope, parse_body, seal, seal_bytes
from wire.errors import BundleError, MalformedError, SignatureError, TooLargeError, WireError
from wire.manifest import (
    MAX_INPUT_ELEMENTS,
    Alarm,
    BandEnergy,
    Kurtosis,
    OneHot,
    Recipe,
    Rms,
    Window,
    check_manifest,
    input_shape,
)
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
        ({"label": None}, "binary_cross_entropy needs a label"),
        ({"loss": "reconstruction"}, "learns the input itself"),
        ({"loss": "cross_entropy"}, "needs label.classes"),
        ({"label": Label(channel="y", classes=("a", "b", "c"))}, "2 classes, 3 are named"),
        ({"label": Label(channel="y", classes=("a", "a"))}, "names a class twice"),
        ({"label": Label(channel="y", mean=3.0)}, "takes labels as they are"),
        ({"loss": "mse", "label": Label(channel="y", classes=("a", "b"))}, "learns a number"),
        (
            {"loss": "huber", "label": Label(channel="y", lowest=2.0, highest=1.0)},
            "label.lowest 2 is not below label.highest 1",
        ),
        ({"recipe": Recipe(patience=1, average_tail=0.5)}, "exclude each other"),
        ({"recipe": Recipe(class_weights=(1.0, 2.0, 3.0))}, "3 class_weights are given for 2"),
        ({"recipe": Recipe(class_weights="balanced"), "loss": "mse"}, "have no meaning for"),
        ({"features": (OneHot(channel="air", values=(1.0, 1.0)),)}, "lists a value twice"),
        ({"symmetry": "mirror"}, "symmetry mirror is for images"),
        (
            {
                "channels": (Channel(name="air", unit="bit", shape=(1, 4, 6)),),
                "features": (Level(channel="air", mean=0.0, std=1.0),),
                "symmetry": "square",
            },
            "needs images as wide as high",
        ),
        ({"alarm": Alarm()}, "give either missed_cost"),
        ({"alarm": Alarm(missed_cost=2.0, share=0.1)}, "give either missed_cost"),
        ({"alarm": Alarm(share=0.1)}, "alarm.share is for loss reconstruction"),
        ({"alarm": Alarm(missed_cost=2.0), "loss": "mse"}, "missed_cost is for loss binary_cross"),
        (
            {"alarm": Alarm(share=0.1, false_cost=2.0), "loss": "reconstruction", "label": None},
            "false_cost says nothing",
        ),
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
        {"alarm": {"missed_cost": 0.0}},
        {"alarm": {"missed_cost": float("nan")}},
        {"alarm": {"missed_cost": 1.0, "false_cost": -1.0}},
        {"alarm": {"share": 1.0}},
        {"alarm": {"share": 0.1, "learned": True}},
        {"agreement": b"short"},
        {"preprocess": "exec"},
        {"channels": ({"name": "torque", "unit": "Nm", "offset": 3.0},)},
        {"window": Window(length=0)},
        {"standardise": "never"},
        {"label": {"channel": "failure", "std": 0.0}},
        {"recipe": {"optimizer": "lbfgs"}},
        {"recipe": {"class_weights": "unbalanced"}},
        {"split": {"share": 1.0}},
        {"split": {"by": "random"}},
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


def shaped(features: object, window: Window | None = None, **channel: object) -> Manifest:
    """A manifest whose channels a and b have a shape or rate."""
    channels = tuple(
        msgspec.structs.replace(Channel(name=name, unit="g"), **channel) for name in ("a", "b")
    )
    return msgspec.structs.replace(MANIFEST, features=features, window=window, channels=channels)


@pytest.mark.parametrize(
    ("manifest", "shape"),
    [
        (shaped((Level(channel="a"), Product(a="a", b="b"))), (2,)),
        (shaped((Level(channel="a"), OneHot(channel="b", values=(0.0, 1.0)))), (3,)),
        (shaped((Level(channel="a"), Level(channel="b")), Window(length=30)), (2, 30)),
        (shaped((Rms(channel="a"), Kurtosis(channel="b")), Window(length=30)), (2,)),
        (shaped((Level(channel="a"),), shape=(1024,)), (1, 1024)),
        (
            shaped(
                (BandEnergy(channel="a", low_hz=5.0, high_hz=50.0),), Window(length=64), rate_hz=100
            ),
            (1,),
        ),
        (shaped((Level(channel="b"),), shape=(2, 64, 64)), (2, 64, 64)),
    ],
)
def test_features_make_one_input_of_one_shape(manifest: Manifest, shape: tuple[int, ...]) -> None:
    check_manifest(manifest)
    assert input_shape(manifest) == shape


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (shaped((Rms(channel="a"),)), r"rms\(a\): needs a series: give a \[window\]"),
        (shaped((Rms(channel="a"),), shape=(3, 64)), r"needs a series: it is \(3, 64\)"),
        (
            shaped((Level(channel="a"), Rms(channel="a")), Window(length=30)),
            r"level\(a\) is an array of shape \(30,\), rms\(a\) is a number",
        ),
        (shaped((Level(channel="a"), Level(channel="b")), shape=(2, 8, 8)), "must be the only"),
        (shaped((Level(channel="a"),), Window(length=3), shape=(8,)), "a has a shape"),
        (shaped((OneHot(channel="a", values=(1.0,)),), shape=(8, 8)), "needs numbers or a series"),
        (shaped((Level(channel="a"),), shape=(65536, 65)), f"the caps .* {MAX_INPUT_ELEMENTS}"),
        (
            shaped(tuple(OneHot(channel="a", values=tuple(range(256))) for _ in range(17))),
            "over the caps of 4096 columns",
        ),
        (shaped((BandEnergy(channel="a", low_hz=1.0, high_hz=2.0),), shape=(64,)), "needs rate_hz"),
        (
            shaped((BandEnergy(channel="a", low_hz=1.0, high_hz=60.0),), shape=(64,), rate_hz=100),
            "low_hz < high_hz <= 50",
        ),
        (
            shaped((BandEnergy(channel="a", low_hz=1.0, high_hz=1.1),), shape=(64,), rate_hz=100),
            "no bin of the spectrum",
        ),
        (
            shaped((BandEnergy(channel="a", low_hz=0.0, high_hz=50.0),), shape=(3,), rate_hz=100),
            "4 values or more",
        ),
    ],
)
def test_features_that_do_not_fit_each_other_are_refused(manifest: Manifest, reason: str) -> None:
    with pytest.raises(BundleError, match=reason):
        check_manifest(manifest)


def test_a_difference_of_channels_of_two_shapes_is_refused() -> None:
    channels = (Channel(name="a", unit="g", shape=(8,)), Channel(name="b", unit="g", shape=(9,)))
    manifest = msgspec.structs.replace(
        MANIFEST, channels=channels, features=(Difference(a="a", b="b"),)
    )
    with pytest.raises(BundleError, match=r"different shapes \(8,\), \(9,\)"):
        check_manifest(manifest)


def test_a_draft_is_refused_where_bundles_are_read_and_says_what_to_do(trust: Trust) -> None:
    data = write_draft(MANIFEST, FILES)
    with pytest.raises(BundleError, match="unsigned draft; sign it"):
        read_bundle(data, trust)


def test_the_authors_tools_read_drafts_and_bundles_and_tell_them_apart(trust: Trust) -> None:
    draft, draft_is_signed = read_draft(write_draft(MANIFEST, FILES))
    bundle, bundle_is_signed = read_draft(written())
    assert draft == bundle == read_bundle(written(), trust)
    assert (draft_is_signed, bundle_is_signed) == (False, True)


def test_a_draft_that_calls_itself_the_authors_does_not_verify(trust: Trust) -> None:
    """The signature of zeros is not one that any key makes."""
    raw = msgspec.msgpack.decode(write_draft(MANIFEST, FILES))
    raw[2] = AUTHOR
    with pytest.raises(SignatureError):
        read_bundle(msgspec.msgpack.encode(raw), trust)


def test_a_draft_whose_parts_do_not_agree_is_refused() -> None:
    with pytest.raises(BundleError, match="not the three expected"):
        read_draft(write_draft(MANIFEST, FILES | {"train.py": b""}))


def test_a_draft_over_the_cap_is_not_written() -> None:
    with pytest.raises(TooLargeError):
        write_draft(MANIFEST, FILES | {MODEL: bytes(MAX_BYTES["bundle"])})


def test_each_check_that_passes_is_told(trust: Trust) -> None:
    passed: list[str] = []
    read_bundle(written(), trust, passed.append)
    assert passed[0] == "signature of an author of plant-net"
    assert len(passed) == 5
