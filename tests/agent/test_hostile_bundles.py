"""Hostile bundles: each is refused with a reason, in bounded memory, and nothing falls over."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from agent.authoring import build_bundle, read_bundle_settings
from wire.codec import seal
from wire.messages import Charter
from wire.signing import PrivateKey
from wire.trust import ROOT

PROJECT = Path(__file__).resolve().parents[2]
ROOT_KEY, AUTHOR_KEY = PrivateKey(bytes([1] * 32)), PrivateKey(bytes([4] * 32))
REFUSALS = 5_000

DENSE = """
name = "hostile-dense"
loss = "binary_cross_entropy"
label = { channel = "failed" }
family = { name = "mlp", hidden = [8, 4] }
channel = [{ name = "a", unit = "K" }, { name = "b", unit = "K" }]
feature = [
  { type = "level", channel = "a", mean = 0.0, std = 1.0 },
  { type = "product", a = "a", b = "b", mean = 0.0, std = 1.0 },
]
"""
WINDOWED = """
name = "hostile-windowed"
loss = "cross_entropy"
label = { channel = "state", classes = ["good", "worn", "broken"] }
window = { length = 16, stride = 1 }
family = { name = "cnn1d", widths = [4, 4] }
channel = [{ name = "a", unit = "g" }, { name = "b", unit = "g" }]
feature = [{ type = "level", channel = "a" }, { type = "level", channel = "b" }]
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("description", "seed"), [(DENSE, 1), (WINDOWED, 2)])
def test_ten_thousand_hostile_bundles_are_refused_within_300_mb(
    tmp_path: Path, description: str, seed: int
) -> None:
    settings = tmp_path / "bundle.toml"
    settings.write_text(description)
    good = build_bundle(settings, read_bundle_settings(settings), "plant-net", AUTHOR_KEY)
    charter = Charter(
        federation="plant-net",
        epoch=1,
        enrolment_key=bytes([1] * 32),
        coordinator_key=bytes([2] * 32),
        author_keys=(AUTHOR_KEY.public.raw,),
        agreement=bytes(32),
    )
    signed = seal(charter, federation="plant-net", signer=ROOT, counter=1, key=ROOT_KEY)
    done = subprocess.run(
        [sys.executable, "-m", "tests.agent.hostile_bundles", str(REFUSALS), str(seed)],
        input=msgspec.msgpack.encode([good, signed, ROOT_KEY.public.raw, AUTHOR_KEY.raw]),
        cwd=PROJECT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    found = json.loads(done.stdout)
    assert sum(found["refused"].values()) == REFUSALS
    # Every way of attack got through to refusals, by many different checks.
    assert min(found["refused"].get(kind, 0) for kind in ATTACKS) >= REFUSALS // 50
    assert found["reasons"] >= 100
    assert found["peak_mb"] < 300


ATTACKS = ("outside", "inside", "manifest", "graph", "golden", "zip")
