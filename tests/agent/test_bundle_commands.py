"""`journeyman bundle`: what a data scientist types, and what it tells her."""

import csv
import io
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from agent.authoring import BundleSettings, build_draft, read_bundle_settings
from agent.bundle import tables
from agent.bundle.examples import Examples, Site, make_examples, make_site, standardised
from agent.bundle.main import main
from agent.bundle.quality import judge, trivial_output
from agent.bundle.tables import TableError, read_table
from agent.bundle.trial import learn_alone, learn_together, plan_of
from agent.learning.train import nothing
from agent.model import local_of, prepare, shared_of, with_local
from wire.bundle import GOLDEN, Bundle, read_bundle, read_draft, write_bundle, write_draft
from wire.codec import open_envelope, parse_body
from wire.errors import BundleError, SettingsError
from wire.keys import make_federation
from wire.manifest import Level, Manifest, Recipe, Split
from wire.messages import Charter
from wire.signing import PrivateKey, read_private_key, write_private_key
from wire.tensors import read_params, read_safetensors, write_safetensors
from wire.trust import Trust

BINARY = """
name = "pump"
threshold = 0.4
[label]
channel = "fault"
[family]
name = "mlp"
hidden = [8]
[recipe]
epochs = 12
batch_size = 16
learning_rate = 0.01
[[channel]]
name = "pressure"
unit = "bar"
[[channel]]
name = "flow"
unit = "l/s"
[[feature]]
type = "level"
channel = "pressure"
mean = 4.0
[[feature]]
type = "product"
a = "pressure"
b = "flow"
"""
WINDOWED = """
name = "wear"
loss = "huber"
standardise = "federated"
[label]
channel = "remaining"
mean = 20.0
std = 10.0
highest = 40.0
[window]
length = 5
[family]
name = "cnn1d"
widths = [4]
kernel = 3
[recipe]
epochs = 15
learning_rate = 0.01
[split]
by = "group"
[[channel]]
name = "heat"
unit = "K"
[[feature]]
type = "level"
channel = "heat"
"""
WAVEFORMS = """
name = "bearing"
loss = "cross_entropy"
[label]
channel = "state"
classes = ["good", "inner race", "outer race"]
[family]
name = "mlp"
hidden = [8]
[recipe]
epochs = 40
learning_rate = 0.02
class_weights = "balanced"
[[channel]]
name = "shock"
unit = "g"
rate_hz = 1000
shape = [64]
[[feature]]
type = "rms"
channel = "shock"
[[feature]]
type = "kurtosis"
channel = "shock"
[[feature]]
type = "band_energy"
channel = "shock"
low_hz = 0
high_hz = 250
[[feature]]
type = "band_energy"
channel = "shock"
low_hz = 250
high_hz = 500
"""
IMAGES = """
name = "board"
loss = "reconstruction"
[family]
name = "autoencoder"
widths = [4]
[[channel]]
name = "noise"
unit = "V"
shape = [16]
[[feature]]
type = "level"
channel = "noise"
"""
MEAN_SQUARE = BINARY.replace("[label]", 'loss = "mse"\n[label]', 1)
PATTERN = """
name = "pattern"
loss = "cross_entropy"
[label]
channel = "state"
classes = ["a", "b"]
[family]
name = "cnn2d"
widths = [4]
[[channel]]
name = "image"
unit = ""
shape = [2, 8, 8]
[[feature]]
type = "level"
channel = "image"
"""
JOBS = {
    "binary": BINARY,
    "windowed": WINDOWED,
    "waveforms": WAVEFORMS,
    "autoencoder": IMAGES,
    "mean square": MEAN_SQUARE,
    "images": PATTERN,
}


def settings_of(directory: Path, text: str) -> tuple[Path, BundleSettings]:
    path = directory / "job.toml"
    path.write_text(text)
    return path, read_bundle_settings(path)


def drafted(directory: Path, text: str) -> Path:
    """A draft of a description, on disk."""
    path = directory / "draft.jm"
    path.write_bytes(build_draft(*settings_of(directory, text)))
    return path


def bundle_of(directory: Path, text: str) -> Bundle:
    return read_draft(drafted(directory, text).read_bytes())[0]


def write_csv(path: Path, columns: dict[str, NDArray[Any] | list[Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def pump(path: Path, seed: int, rows: int = 400) -> Path:
    """Rows in which a low product of pressure and flow is a fault."""
    random = np.random.default_rng(seed)
    pressure, flow = random.normal(4, 1, rows), random.normal(2, 0.5, rows)
    fault = (pressure * flow < 6).astype(int)
    return write_csv(path, {"fault": fault, "flow": flow, "pressure": pressure})


def wear(path: Path, seed: int) -> Path:
    """Ten machines that grow hot as they wear; each is a group of 25 to 44 rows."""
    random = np.random.default_rng(seed)
    parts = []
    for machine in range(10):
        life = int(random.integers(25, 45))
        left = np.arange(life, 0, -1)
        heat = 80 - left + random.normal(0, 0.5, life)
        parts.append(np.column_stack([np.full(life, machine), np.arange(life), heat, left]))
    table = np.concatenate(parts)
    table = table[random.permutation(len(table))]  # rows of a group need not stand together
    names = ("machine", "hour", "heat", "remaining")
    return write_csv(path, {name: table[:, i] for i, name in enumerate(names)})


def shocks(path: Path, seed: int, rows: int = 150) -> Path:
    """Waveforms: a slow sine, a fast one, and rare impulses."""
    random = np.random.default_rng(seed)
    state = random.integers(0, 3, rows)
    time = np.arange(64) / 1000
    waves = np.stack([np.sin(2 * np.pi * f * time) for f in (60.0, 400.0, 0.0)])[state]
    waves[state == 2, 7] = 6.0
    waves += random.normal(0, 0.1, waves.shape)
    np.savez(path, shock=waves.astype(np.float32), state=state)
    return path


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    directory = tmp_path / "keys"
    make_federation(directory, "mills")
    return directory


def charter_of(keys: Path) -> Charter:
    return parse_body(open_envelope((keys / "charter.jm").read_bytes(), "charter"), Charter)


def run(*words: object) -> int:
    return main([str(word) for word in words])


# Building, signing, verifying


def test_a_description_becomes_a_draft_and_the_draft_a_bundle_that_verifies(
    tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings_of(tmp_path, BINARY)
    draft, signed = tmp_path / "draft.jm", tmp_path / "pump.jm"
    assert run("build", tmp_path / "job.toml", "--out", draft) == 0
    assert "UNSIGNED DRAFT" in capsys.readouterr().out
    with pytest.raises(BundleError, match="unsigned draft"):
        read_bundle(draft.read_bytes(), Trust(charter_of(keys)))
    words = ("--keys", keys, "--federation", "mills")
    assert run("sign", draft, *words, "--out", signed) == 0
    assert run("verify", signed, "--keys", keys) == 0
    said = capsys.readouterr().out
    assert said.count("✓") == 9
    assert "golden vectors reproduced" in said
    assert read_bundle(signed.read_bytes(), Trust(charter_of(keys))).manifest.name == "pump"


def test_a_bundle_built_with_keys_is_the_draft_signed(tmp_path: Path, keys: Path) -> None:
    settings_of(tmp_path, BINARY)
    both = [tmp_path / "one.jm", tmp_path / "two.jm"]
    assert run("build", tmp_path / "job.toml", "--keys", keys, "--out", both[0]) == 0
    assert run("build", tmp_path / "job.toml", "--out", tmp_path / "d.jm") == 0
    assert run("sign", tmp_path / "d.jm", "--keys", keys, "--out", both[1]) == 0
    assert both[0].read_bytes() == both[1].read_bytes()


def test_signing_puts_the_charters_agreement_into_the_manifest(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    make_federation(keys, "mills", agreement=bytes([5] * 32))
    out = tmp_path / "signed.jm"
    assert run("sign", drafted(tmp_path, BINARY), "--keys", keys, "--out", out) == 0
    manifest = read_bundle(out.read_bytes(), Trust(charter_of(keys))).manifest
    assert manifest.agreement == bytes([5] * 32)


def test_a_bundle_is_not_signed_for_a_federation_that_is_not_the_charters(
    tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--keys", keys, "--federation", "dairies", "--out", tmp_path / "x.jm")
    assert run("sign", drafted(tmp_path, BINARY), *words) == 2
    assert "is of federation 'mills', not 'dairies'" in capsys.readouterr().err
    assert not (tmp_path / "x.jm").exists()


def test_a_key_that_is_not_the_charters_signs_nothing(
    tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (keys / "author.key").unlink()
    write_private_key(keys / "author.key", PrivateKey.generate())
    words = ("--keys", keys, "--out", tmp_path / "x.jm")
    assert run("sign", drafted(tmp_path, BINARY), *words) == 2
    assert "not among the charter's author keys" in capsys.readouterr().err


def resigned(bundle: Bundle, keys: Path, **files: bytes) -> bytes:
    """A bundle with other files, signed by the real author."""
    author = read_private_key(keys / "author.key")
    return write_bundle(bundle.manifest, bundle.files | files, "mills", author)


def test_verify_fails_at_golden_vectors_that_this_machine_does_not_reproduce(
    tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_of(tmp_path, BINARY)
    golden = {
        name: np.array(value) for name, value in read_safetensors(bundle.files[GOLDEN]).items()
    }
    golden["output"] = golden["output"] + 1
    path = tmp_path / "wrong.jm"
    path.write_bytes(resigned(bundle, keys, **{GOLDEN: write_safetensors(golden)}))
    assert run("verify", path, "--keys", keys) == 1
    said = capsys.readouterr().out
    assert "✓ training graph derived" in said
    assert "✗ bundle pump: golden output: expected norm" in said


def test_golden_vectors_that_would_keep_a_gateway_busy_are_refused(
    tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_of(tmp_path, BINARY)
    many = {
        name: np.repeat(value, 100, axis=0) if value.ndim else np.array(value)
        for name, value in read_safetensors(bundle.files[GOLDEN]).items()
    }
    path = tmp_path / "many.jm"
    path.write_bytes(resigned(bundle, keys, **{GOLDEN: write_safetensors(many)}))
    assert run("verify", path, "--keys", keys) == 1
    assert "1600 golden rows, at most 256" in capsys.readouterr().out


def test_what_a_file_says_can_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_of(tmp_path, BINARY)
    evil = msgspec.structs.replace(bundle.manifest, description="\x1b[2Jall is well\nsigned YES")
    (tmp_path / "evil.jm").write_bytes(write_draft(evil, bundle.files))
    assert run("inspect", tmp_path / "evil.jm") == 0
    said = capsys.readouterr().out
    assert "  ?[2Jall is well?signed YES\n" in said
    assert "\x1b" not in said


def test_verify_fails_at_a_changed_byte(
    tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(resigned(bundle_of(tmp_path, BINARY), keys))
    data[len(data) // 2] ^= 1
    (tmp_path / "b.jm").write_bytes(data)
    assert run("verify", tmp_path / "b.jm", "--charter", keys / "charter.jm") == 1
    assert "✗ bundle: none of the charter's 1 author keys signed it" in capsys.readouterr().out


def test_verify_under_another_root_is_refused(
    tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.jm").write_bytes(resigned(bundle_of(tmp_path, BINARY), keys))
    other = PrivateKey.generate().public.raw.hex()
    words = ("--charter", keys / "charter.jm", "--root", other)
    assert run("verify", tmp_path / "b.jm", *words) == 2
    assert "the signature does not verify" in capsys.readouterr().err
    assert run("verify", tmp_path / "b.jm", "--charter", keys / "charter.jm", "--root", "xy") == 2
    assert "--root" in capsys.readouterr().err


def test_inspect_shows_what_a_draft_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("inspect", drafted(tmp_path, WINDOWED)) == 0
    said = capsys.readouterr().out
    for words in (
        "wear revision 1",
        "heat [K]",
        "window     5 rows",
        "input N x 1 x 5",
        "level(heat)",
        "standardised by federated",
        "remaining, at most 40; minus 20, over 10",
        "conv0.weight",
        "4 x 1 x 3",
        "Conv conv0",
        "clipped sums",
        "bytes for the forward values of one row",
        "signed     NO: a draft",
    ):
        assert words in said


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("backend", ["onnxruntime", "numpy"])
def test_every_kind_of_job_builds_and_its_golden_vectors_hold_on_both_backends(
    tmp_path: Path, job: str, backend: Any
) -> None:
    passed: list[str] = []
    prepare(bundle_of(tmp_path, JOBS[job]), backend, passed.append)
    assert passed[-1].startswith("golden vectors reproduced")


def test_without_onnx_runtime_numpy_does_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_of(tmp_path, BINARY)
    # None in the place of a module makes its import fail.
    monkeypatch.setitem(sys.modules, "agent.learning.onnxruntime_backend", None)
    assert type(prepare(bundle).backend).__name__ == "NumpyBackend"
    data = pump(tmp_path / "a.csv", 1)
    words = ("test", tmp_path / "draft.jm", "--data", data, "--epochs", 1)
    assert run(*words, "--backend", "onnxruntime") == 2
    assert "agent.learning.onnxruntime_backend" in capsys.readouterr().err
    assert run(*words) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BINARY.replace('"level"', '"square"'), "feature"),
        (
            BINARY.replace('unit = "bar"', 'unit = "bar"\noffset = 1'),
            "channel[0].offset: unknown key",
        ),
        (BINARY.replace('channel = "pressure"', 'channel = "presure"'), "unknown channel presure"),
        (BINARY.replace('channel = "fault"', 'channel = "flow"'), "the label flow is an input"),
        (BINARY.replace("epochs = 12", "epochs = 0"), "recipe.epochs"),
        (BINARY.replace('name = "mlp"', 'name = "transformer"'), "family"),
        (BINARY.replace("hidden = [8]", "hidden = [8]\ndepth = 2"), "family.depth: unknown key"),
        (BINARY.replace('"mlp"\nhidden = [8]', '"cnn1d"'), "cnn1d takes series"),
        (WINDOWED.replace("cnn1d", "cnn2d"), "cnn2d takes images"),
        (WINDOWED.replace("cnn1d", "autoencoder"), "for loss reconstruction, not huber"),
        (
            IMAGES.replace('"autoencoder"\nwidths = [4]', '"mlp"\nhidden = [4]'),
            "only an autoencoder",
        ),
        ('model = "x.onnx"\n' + BINARY, "either a table [family] or"),
    ],
)
def test_a_description_that_is_wrong_is_refused_with_file_and_key(
    tmp_path: Path, text: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.toml").write_text(text)
    assert run("build", tmp_path / "job.toml", "--out", tmp_path / "x.jm") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"journeyman: {tmp_path / 'job.toml'}")
    assert reason in said
    assert said.count("\n") == 1


def model_text(**changes: str) -> str:
    text = BINARY.replace('[family]\nname = "mlp"\nhidden = [8]\n', "")
    return f'model = "{changes.get("model", "m.onnx")}"\n{text}'


def test_a_model_file_that_does_not_fit_the_features_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = bundle_of(tmp_path, WINDOWED)
    (tmp_path / "m.onnx").write_bytes(other.files["model.onnx"])
    (tmp_path / "job.toml").write_text(model_text())
    assert run("build", tmp_path / "job.toml", "--out", tmp_path / "x.jm") == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'm.onnx'}: model: input" in said
    assert "the 2 features make (2,)" in said


def test_a_model_file_is_trained_as_it_is(tmp_path: Path) -> None:
    family = bundle_of(tmp_path, BINARY)
    (tmp_path / "m.onnx").write_bytes(family.files["model.onnx"])
    again = bundle_of(tmp_path, model_text())
    assert again.manifest.tensors == family.manifest.tensors
    assert again.files["weights.safetensors"] == family.files["weights.safetensors"]


@pytest.mark.parametrize("content", [None, b"", b"not an ONNX file"])
def test_a_model_file_that_can_not_be_read_is_named(
    tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "m.onnx").write_bytes(content)
    (tmp_path / "job.toml").write_text(model_text())
    assert run("build", tmp_path / "job.toml", "--out", tmp_path / "x.jm") == 2
    assert f"{tmp_path / 'm.onnx'}: model: " in capsys.readouterr().err


# Tensors that each site keeps


@pytest.mark.parametrize(
    ("patterns", "local"),
    [
        ([], []),
        (["dense1.bias"], ["dense1.bias"]),
        (["dense1.*"], ["dense1.weight", "dense1.bias"]),
        (["*.bias", "dense1.weight"], ["dense0.bias", "dense1.weight", "dense1.bias"]),
    ],
)
def test_an_author_names_the_tensors_that_sites_keep(
    tmp_path: Path, patterns: list[str], local: list[str]
) -> None:
    bundle = bundle_of(tmp_path, f"local_tensors = {patterns}\n{BINARY}")
    assert [tensor.name for tensor in bundle.manifest.tensors if tensor.local] == local
    shared = [name for name, _ in bundle.manifest.shared_shapes]
    assert [*bundle.weights] == [name for name, _ in bundle.manifest.shapes]
    assert [name for name in bundle.weights if name not in local] == shared
    model = prepare(bundle)  # golden vectors and all
    parts = shared_of(model.manifest, bundle.weights), local_of(model.manifest, bundle.weights)
    assert [[*part] for part in parts] == [shared, local]
    assert [*with_local(model.manifest, *parts)] == [*bundle.weights]


@pytest.mark.parametrize(
    ("patterns", "reason"),
    [
        (["dense1.bias", "head.*"], r"'head\.\*' is no tensor of the model, which has dense0"),
        (["*"], "all tensors are local, so there is nothing to learn together"),
        (["dense0.*", "dense1.*"], "all tensors are local"),
        ([""], "length >= 1"),
    ],
)
def test_local_tensors_that_no_model_could_have_are_refused_with_their_line(
    tmp_path: Path, patterns: list[str], reason: str
) -> None:
    with pytest.raises(SettingsError, match=rf"toml:1: local_tensors.*{reason}"):
        bundle_of(tmp_path, f"local_tensors = {patterns}\n{BINARY}")


# Trying out


def test_two_files_are_trained_alone_and_together_and_judged_on_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = drafted(tmp_path, BINARY)
    files = [pump(tmp_path / "north.csv", 1), pump(tmp_path / "south.csv", 2)]
    words = [word for file in files for word in ("--data", file)]
    out = tmp_path / "weights.safetensors"
    assert run("test", draft, *words, "--out", out) == 0
    said = capsys.readouterr().out
    assert "north.csv: 400 rows: 320 to train on, 80 held out by time" in said
    assert "samples/s" in said
    lines = said.partition("each file's held-out rows (column)")[2].splitlines()[2:-1]
    table = {line[:30].strip(): line[30:].split() for line in lines}
    alone = ["north.csv alone", "south.csv alone"]
    assert list(table) == ["looks at no input", "as built", *alone, "together"]
    trivial, together = (np.array(table[who], float) for who in ("looks at no input", "together"))
    assert (together > trivial + 0.3).all()
    bundle = read_draft(draft.read_bytes())[0]
    read_params(out.read_bytes(), bundle.manifest.shapes)


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(tmp_path: Path) -> None:
    draft, data = drafted(tmp_path, BINARY), pump(tmp_path / "a.csv", 1)
    out = [tmp_path / name for name in ("one", "two", "three")]
    for path, seed in zip(out, (3, 3, 4), strict=True):
        assert run("test", draft, "--data", data, "--seed", seed, "--out", path) == 0
    assert out[0].read_bytes() == out[1].read_bytes() != out[2].read_bytes()


def scores(said: str, who: str) -> list[float]:
    line = next(line for line in said.splitlines() if line.strip().startswith(who))
    return [float(cell) for cell in line.strip().removeprefix(who).split()]


def test_windows_of_a_regression_are_split_by_machine_and_judged_in_the_labels_unit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft, data = drafted(tmp_path, WINDOWED), wear(tmp_path / "a.csv", 1)
    assert run("test", draft, "--data", data, "--group", "machine", "--time", "hour") == 0
    said = capsys.readouterr().out
    assert "held out by group" in said
    assert "in units of remaining" in said
    assert scores(said, "after")[0] < 0.5 * scores(said, "looks at no input")[0]


def test_waveforms_are_summarized_and_each_class_has_its_recall(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft, data = drafted(tmp_path, WAVEFORMS), shocks(tmp_path / "a.npz", 1)
    assert run("test", draft, "--data", data, "--backend", "numpy") == 0
    said = capsys.readouterr().out
    assert "recall after: good" in said
    assert "inner race" in said
    assert scores(said, "after")[0] > 0.9


def test_an_autoencoder_learns_without_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft, phase = drafted(tmp_path, IMAGES), np.random.default_rng(1).uniform(0, 6, (200, 1))
    np.savez(tmp_path / "a.npz", noise=np.sin(np.arange(16) / 2 + phase))
    assert run("test", draft, "--data", tmp_path / "a.npz", "--epochs", 60) == 0
    said = capsys.readouterr().out
    assert scores(said, "after")[0] < 0.5 * scores(said, "looks at no input")[0]


def test_a_split_by_group_needs_a_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("test", drafted(tmp_path, WINDOWED), "--data", wear(tmp_path / "a.csv", 1)) == 2
    assert "give --group COLUMN" in capsys.readouterr().err


def test_a_training_that_diverges_ends_with_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = MEAN_SQUARE.replace("learning_rate = 0.01", 'learning_rate = 1e9\noptimizer = "sgd"')
    with np.errstate(all="ignore"):
        assert run("test", drafted(tmp_path, text), "--data", pump(tmp_path / "a.csv", 1)) == 1
    assert "is inf" in (said := capsys.readouterr().err) or "nan" in said


def table_of(directory: Path, text: str, data: Path, group: str = "", time: str = "") -> Any:
    manifest = bundle_of(directory, text).manifest
    return manifest, read_table(data, manifest, group, time)


def test_no_row_is_in_a_training_window_and_in_a_held_out_one(tmp_path: Path) -> None:
    text = WINDOWED.replace('by = "group"', 'by = "time"')
    random = np.random.default_rng(1)
    data = write_csv(
        tmp_path / "a.csv", {"heat": random.random(300), "remaining": random.random(300)}
    )
    manifest, table = table_of(tmp_path, text, data)
    site = make_site(manifest, "a", make_examples(manifest, table), seed=5)
    rows = [
        {
            row
            for a, b in zip(side.first, side.last, strict=True)
            for row in range(int(a), int(b) + 1)
        }
        for side in (site.train, site.held_out)
    ]
    assert min(map(len, rows)) > 0
    assert rows[0].isdisjoint(rows[1])
    assert site.purged > 0


def test_rows_of_a_group_come_together_in_the_order_of_time(tmp_path: Path) -> None:
    data = write_csv(
        tmp_path / "a.csv",
        {
            "heat": [1, 2, 3, 4, 5, 6],
            "remaining": [10, 20, 30, 40, 50, 60],
            "machine": ["b", "a", "b", "a", "b", "a"],
            "hour": [2, 0, 1, 5, 0, 3],
        },
    )
    _, table = table_of(tmp_path, WINDOWED, data, "machine", "hour")
    assert table.group_names == ("b", "a")
    assert table.channels["heat"].tolist() == [5, 3, 1, 2, 6, 4]
    assert table.labels.tolist() == [50, 30, 10, 20, 60, 40]


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        (["2026-03-01T10:00:01", "2026-03-01 10:00:00"], [1772359200.0, 1772359201.0]),
        (["2026-03-01T10:00:01Z", "2026-03-01T11:00:00+01:00"], [1772359200.0, 1772359201.0]),
        (["20260302", "20260301"], [20260301.0, 20260302.0]),
        (["0.5", "-1e3"], [-1000.0, 0.5]),
    ],
)
def test_times_are_numbers_or_iso_8601(
    tmp_path: Path, times: list[str], seconds: list[float]
) -> None:
    columns: dict[str, Any] = {"fault": [0, 1], "flow": [1, 2], "pressure": [3, 4], "at": times}
    data = write_csv(tmp_path / "a.csv", columns)
    _, table = table_of(tmp_path, BINARY, data, time="at")
    assert table.times.tolist() == seconds
    assert table.channels["flow"].tolist() == [2, 1]


def test_regression_labels_are_clipped_and_scaled_and_are_those_of_the_last_row(
    tmp_path: Path,
) -> None:
    data = write_csv(
        tmp_path / "a.csv", {"heat": list(range(7)), "remaining": [0, 0, 0, 0, 30, 45, -5]}
    )
    manifest, table = table_of(tmp_path, WINDOWED, data)
    examples = make_examples(manifest, table)
    assert examples.x[:, 0].tolist() == [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [2, 3, 4, 5, 6]]
    assert examples.y.tolist() == [[1.0], [2.0], [-2.5]]  # 45 is clipped to 40, -5 is not


def examples_of(x: NDArray[np.float32], y: NDArray[Any]) -> Examples:
    times = np.arange(len(x), dtype=np.float64)
    return Examples(x, y, np.array([""] * len(x)), times, times)


def test_local_statistics_are_each_sites_own_and_federated_ones_are_everybodys(
    tmp_path: Path,
) -> None:
    bundle = bundle_of(tmp_path, BINARY)
    random = np.random.default_rng(1)
    sites = []
    for name, offset in (("a", 0.0), ("b", 10.0)):
        x = random.normal(offset, 1, (200, 2)).astype(np.float32)
        rows = examples_of(x, np.zeros((200, 1), np.float32))
        sites.append(Site(name, rows.where(rows.first < 150), rows.where(rows.first >= 150), 0))
    by = {
        name: standardised(msgspec.structs.replace(bundle.manifest, standardise=name), sites)
        for name in ("given", "local", "federated")
    }
    assert by["given"] == sites
    means = {name: [float(site.train.x.mean()) for site in found] for name, found in by.items()}
    assert means["local"] == pytest.approx([0, 0], abs=1e-3)
    assert means["federated"] == pytest.approx([-1, 1], abs=0.05)
    # What is held out has no say in the statistics.
    assert abs(float(by["local"][0].held_out.x.mean())) > 1e-3


def pump_site(directory: Path, seed: int = 1) -> tuple[Any, Site]:
    bundle = bundle_of(directory, BINARY)
    table = read_table(pump(directory / "a.csv", seed), bundle.manifest)
    return bundle, make_site(bundle.manifest, "a", make_examples(bundle.manifest, table), 0)


def test_early_stopping_never_looks_at_the_held_out_rows(tmp_path: Path) -> None:
    bundle, site = pump_site(tmp_path)
    manifest = msgspec.structs.replace(bundle.manifest, recipe=Recipe(epochs=6, patience=2))
    model = replace(prepare(bundle), manifest=manifest)
    nonsense = replace(site, held_out=replace(site.held_out, y=1 - site.held_out.y))
    learned = [
        learn_alone(model, bundle.weights, each, seed=0, epochs=None, on_step=nothing).params
        for each in (site, nonsense)
    ]
    for name, value in learned[0].items():
        assert np.array_equal(value, learned[1][name])


def test_averaging_over_one_site_is_that_sites_training(tmp_path: Path) -> None:
    bundle, site = pump_site(tmp_path)
    model = prepare(bundle)
    alone = learn_alone(model, bundle.weights, site, seed=0, epochs=3, on_step=nothing)
    together = learn_together(model, bundle.weights, [site], seed=0, epochs=3, rounds=1)
    for name, value in alone.params.items():
        assert np.allclose(value, together[name], rtol=1e-6)


def test_balanced_class_weights_give_every_class_the_same_say(tmp_path: Path) -> None:
    bundle, site = pump_site(tmp_path)
    manifest = msgspec.structs.replace(bundle.manifest, recipe=Recipe(class_weights="balanced"))
    weights = plan_of(manifest, site.train, 0, None).class_weights
    faults = float(site.train.y.sum())
    assert weights[1] * faults == pytest.approx(weights[0] * (len(site.train) - faults))
    one_class = examples_of(site.train.x, np.zeros_like(site.train.y))
    assert plan_of(manifest, one_class, 0, None).class_weights == (0.5, 1.0)


def test_scores_of_alarms_are_those_of_scikit_learn(tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    manifest = bundle_of(tmp_path, BINARY).manifest
    random = np.random.default_rng(1)
    y = (random.random((500, 1)) < 0.2).astype(np.float32)
    logits = (random.normal(0, 2, (500, 1)) + y).astype(np.float32)
    found = judge(manifest, logits, examples_of(logits, y)).scores
    alarm = 1 / (1 + np.exp(-logits)) >= manifest.threshold
    assert found["PR-AUC"] == pytest.approx(metrics.average_precision_score(y, logits))
    assert found["ROC-AUC"] == pytest.approx(metrics.roc_auc_score(y, logits))
    assert found["F1"] == pytest.approx(metrics.f1_score(y, alarm))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(y, alarm))


def test_a_score_without_meaning_is_no_number(tmp_path: Path) -> None:
    manifest = bundle_of(tmp_path, BINARY).manifest
    rows = examples_of(np.zeros((4, 2), np.float32), np.zeros((4, 1), np.float32))
    found = judge(manifest, np.full((4, 1), -5, np.float32), rows).scores
    assert found == {"PR-AUC": None, "ROC-AUC": None, "F1": None, "accuracy": 1.0}


def test_the_trivial_predictor_ranks_nothing_and_says_the_commonest_class(tmp_path: Path) -> None:
    manifest = bundle_of(tmp_path, WAVEFORMS).manifest
    train = examples_of(np.zeros((6, 4), np.float32), np.array([2, 2, 2, 0, 1, 2]))
    held_out = examples_of(np.zeros((4, 4), np.float32), np.array([2, 0, 1, 2]))
    quality = judge(manifest, trivial_output(manifest, train, held_out), held_out)
    assert quality.scores["accuracy"] == 0.5
    assert quality.recalls == {"good": 0.0, "inner race": 0.0, "outer race": 1.0}


# Files that can not be used


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("fault,flow\n0,1\n", "columns missing: pressure (it has: 'fault', 'flow')"),
        ("fault,flow,pressure\n0,1,2\n0,x1,2\n", "a.csv:3: column 'flow': 'x1', not a number"),
        ("fault,flow,pressure\n0,,2\n", "a.csv:2: column 'flow': empty, not a number"),
        ("fault,flow,pressure\n0,nan,2\n", "a.csv:2: column 'flow': nan, not a finite number"),
        ("fault,flow,pressure\n0,1,2\n0,1\n", "a.csv:3: 2 cells, the header names 3"),
        ("fault,flow,pressure\n", "a header and no rows"),
        ("", "columns missing: pressure, flow, fault"),
        ("fault,flow,flow,pressure\n0,1,1,2\n", "columns named twice: flow"),
        ('fault,flow,pressure\n0,"1,2\n', "not a CSV file"),
        ("fault,flow,pressure\n3,1,2\n", "column 'fault' holds 3, expected the number of a class"),
        ("fault,flow,pressure\n0.5,1,2\n", "column 'fault' holds 0.5"),
        ("fault,flow,pressure\n0,1,2\n", "can not hold out 25% by time"),
    ],
)
def test_a_csv_that_can_not_be_used_is_refused_with_line_and_column(
    tmp_path: Path, content: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text(content)
    assert run("test", drafted(tmp_path, BINARY), "--data", tmp_path / "a.csv") == 2
    said = capsys.readouterr().err
    assert reason in said
    assert "a.csv" in said
    assert said.count("\n") == 1


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


STATES = np.zeros(4, np.int64)
WAVES = np.zeros((4, 64))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not a zip", "not an npz file"),
        (npz(shock=WAVES), "arrays missing: state"),
        (npz(shock=WAVES[:, :32], state=STATES), "(4, 32), expected numbers (rows, 64)"),
        (npz(shock=WAVES, state=STATES[:3]), "different numbers of rows"),
        (npz(shock=WAVES[:0], state=STATES[:0]), "has no rows"),
        (npz(shock=WAVES + np.inf, state=STATES), "row 0 holds a value that is not finite"),
        (npz(shock=WAVES.astype(np.complex128), state=STATES), "expected numbers"),
        (npz(shock=np.array([{}] * 4), state=STATES), "not an npz file of plain arrays"),
        (npz(shock=WAVES, state=STATES)[:-40], "not an npz file"),
    ],
)
def test_an_npz_that_can_not_be_used_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(TableError) as caught:
        table_of(tmp_path, WAVEFORMS, tmp_path / "a.npz")
    assert reason in str(caught.value)


def test_an_npz_that_would_unpack_to_more_than_the_cap_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("shock.npy", bytes(1 << 20))
    monkeypatch.setattr(tables, "MAX_NPZ_BYTES", 1 << 19)
    with pytest.raises(TableError, match="over 1024 arrays or 524288 bytes unpacked"):
        table_of(tmp_path, WAVEFORMS, tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a.txt", "must end in .csv or .npz"), ("no.csv", "can not read: No such file")],
)
def test_a_file_of_another_kind_or_none_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(TableError, match=reason):
        table_of(tmp_path, BINARY, tmp_path / name)


def test_a_waveform_does_not_fit_a_csv_and_a_short_group_no_window(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("shock,state\n1,0\n")
    with pytest.raises(TableError, match=r"'shock' has shape \(64,\), which a CSV cell"):
        table_of(tmp_path, WAVEFORMS, tmp_path / "a.csv")
    data = write_csv(tmp_path / "b.csv", {"heat": [1, 2], "remaining": [2, 1]})
    manifest, table = table_of(tmp_path, WINDOWED, data)
    with pytest.raises(TableError, match="as long as a window, 5 rows"):
        make_examples(manifest, table)


def test_a_csv_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("fault,flow,pressure,Außen\n0,1,2,3\n".encode("latin-1"))
    with pytest.raises(TableError, match="not UTF-8 text"):
        table_of(tmp_path, BINARY, tmp_path / "a.csv")


def test_a_csv_may_have_a_byte_order_mark_other_columns_and_empty_lines(tmp_path: Path) -> None:
    text = "\ufefffault,note, flow ,pressure\r\n0,fine,1,2\r\n\r\n1,,3,4\r\n"
    (tmp_path / "a.csv").write_text(text, newline="")
    _, table = table_of(tmp_path, BINARY, tmp_path / "a.csv")
    assert table.channels["flow"].tolist() == [1, 3]
    assert table.labels.tolist() == [0, 1]


# Export


def test_trained_weights_are_exported_as_onnx_and_as_tflite(tmp_path: Path) -> None:
    draft, data = drafted(tmp_path, BINARY), pump(tmp_path / "a.csv", 1)
    weights = tmp_path / "w.safetensors"
    assert run("test", draft, "--data", data, "--epochs", 1, "--out", weights) == 0
    words = ("export", draft, "--weights", weights, "--format")
    assert run(*words, "onnx", "--out", tmp_path / "m.onnx") == 0
    assert run(*words, "tflite", "--out", tmp_path / "m.tflite") == 0
    assert run(*words, "tflite-int8", "--data", data, "--out", tmp_path / "i.tflite") == 0
    from agent.learning.graph import initial_params, read_graph  # noqa: PLC0415

    shapes = read_draft(draft.read_bytes())[0].manifest.shapes
    trained = read_params(weights.read_bytes(), shapes)
    exported = initial_params(read_graph((tmp_path / "m.onnx").read_bytes()))
    assert all(np.array_equal(exported[name], value) for name, value in trained.items())
    for name in ("m.tflite", "i.tflite"):
        assert (tmp_path / name).read_bytes()[4:8] == b"TFL3"


def test_weights_of_another_model_and_int8_without_rows_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft, out = drafted(tmp_path, BINARY), tmp_path / "m"
    (tmp_path / "w").write_bytes(write_safetensors({"w": np.zeros(3, np.float32)}))
    words = ("export", draft, "--out", out, "--format")
    assert run(*words, "onnx", "--weights", tmp_path / "w") == 2
    assert f"{tmp_path / 'w'}: weights" in capsys.readouterr().err
    assert run(*words, "tflite-int8") == 2
    assert "needs rows of the real signal" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    "words", [["verify", "none.jm", "--charter", "none.charter"], ["inspect", "none.jm"]]
)
def test_a_file_that_is_not_there_is_one_line(
    words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert "can not read: No such file or directory\n" in capsys.readouterr().err


def test_a_description_without_features_is_refused(tmp_path: Path) -> None:
    text = BINARY.partition("[[feature]]")[0]
    with pytest.raises(SettingsError, match=r"feature: this key is required"):
        settings_of(tmp_path, text)


def test_a_draft_with_other_features_is_refused_when_it_is_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_of(tmp_path, BINARY)
    fewer = msgspec.structs.replace(bundle.manifest, features=(Level(channel="flow"),))
    (tmp_path / "x.jm").write_bytes(write_draft(fewer, bundle.files))
    data = pump(tmp_path / "a.csv", 1)
    assert run("test", tmp_path / "x.jm", "--data", data) == 2
    assert "the 1 features make (1,)" in capsys.readouterr().err


def test_the_split_of_a_bundle_is_followed(tmp_path: Path) -> None:
    bundle, _ = pump_site(tmp_path)
    manifest: Manifest = msgspec.structs.replace(bundle.manifest, split=Split(share=0.5))
    rows = examples_of(np.zeros((100, 2), np.float32), np.zeros((100, 1), np.float32))
    site = make_site(manifest, "a", rows, 0)
    assert (len(site.train), len(site.held_out)) == (50, 50)
