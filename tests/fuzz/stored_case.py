"""What programs read back from their own disks: any bytes, with a right checksum where one is kept.

A disk is no stranger, but cards rot and are restored from half a backup, and an agent that dies of
a file at its start dies of it for ever.  So what cannot be read is dropped with a line in the log,
or is `WireError` for whoever asked; and what is read keeps the promises of its type.
"""

import asyncio
import hashlib
import random
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec
import numpy as np

from agent.asking import Shown
from agent.conditions import Conditions
from agent.feedback import Residual, read_residual
from agent.learning.frames import pack_array
from agent.learning.plan import TrainingPlan
from agent.local_tensors import LocalTensors
from agent.own_model import OwnModelFile
from agent.turn import Turn
from agent.unfinished import Job, Unfinished
from coordinator.contribution import Accounting, ContributionSettings, Observation, from_bytes
from tests.coordinator.small_federation import FEDERATION, MANIFEST
from tests.fuzz.decoders import WRONG_SHAPE
from tests.fuzz.mutating import changed_tree, json_leaf, messagepack, safetensors, scrambled
from tests.fuzz.people import AGENT, AGENT_KEY
from tests.fuzz.script import UnfitWordsError, watching
from tests.fuzz.seeds import standards
from wire.codec import open_envelope, parse_body, seal
from wire.errors import WireError
from wire.manifest import Tensor
from wire.messages import NOVELTY_BINS, Readiness
from wire.tensors import Params, write_params

BUNDLE = bytes(range(32))
PARAMETERS = 12
LOCAL: Params = {"w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)}
WITH_LOCAL = msgspec.structs.replace(
    MANIFEST, tensors=(Tensor(name="w", shape=(2, 3), local=True), Tensor(name="b", shape=(2,)))
)
LOCAL_MAGIC, OWN_MAGIC = b"JMLOCAL\n", b"JMPERS1\n"
SETTINGS = ContributionSettings(least_versions=3)
PLAN = TrainingPlan(epochs=2, batch_size=8, optimizer="adam", learning_rate=0.01)
JOB = Job(BUNDLE, 0, 3, BUNDLE, "0123456789abcdef", 4, PLAN)


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """One folder for all cases of this process, gone with it."""
    return tempfile.TemporaryDirectory()


def _on_disk(name: str, data: bytes) -> Path:
    """The folder of an agent that holds this file."""
    folder = Path(_scratch().name)
    (folder / name).write_bytes(data)
    return folder


def run(data: bytes) -> None:
    """One case: its first byte says which file it is."""
    read = tuple(READERS.values())[(data[0] if data else 0) % len(READERS)]
    with watching() as watch:
        read(data[1:])
    if watch.unfit:
        raise UnfitWordsError(watch.unfit)


def _residual(data: bytes) -> None:
    found = read_residual(data, PARAMETERS)
    again = read_residual(found.to_bytes(), PARAMETERS)
    is_same = np.array_equal(again.vector, found.vector) and found.vector.shape == (PARAMETERS,)
    if not is_same or not np.isfinite(found.vector).all():
        raise AssertionError(f"a residual of {found.vector}")


def _local(data: bytes) -> None:
    """Whatever the file holds, the agent has local tensors of its bundle's shapes."""
    folder = _on_disk("local.tensors", LOCAL_MAGIC + hashlib.sha256(data).digest() + data)
    initial = {**LOCAL, "b": np.zeros(2, np.float32)}
    found = LocalTensors(folder).load(BUNDLE, WITH_LOCAL, initial)
    _check_params(found)
    if {name: value.shape for name, value in found.items()} != {"w": (2, 3)}:
        raise AssertionError(f"local tensors {found}")


def _own(data: bytes) -> None:
    folder = _on_disk("personal.model", OWN_MAGIC + hashlib.sha256(data).digest() + data)
    chosen = OwnModelFile(folder).load()
    if chosen is None:
        return
    candidate = chosen.serving.candidate
    _check_params(candidate.params)
    if (candidate.standard is not None) != (candidate.kind.normalisation == "local"):
        raise AssertionError(f"{candidate.kind} with the standard {candidate.standard}")
    if candidate.standard is not None and not (candidate.standard.deviation > 0).all():
        raise AssertionError(f"standardised by {candidate.standard}")


def _check_params(params: Params) -> None:
    for name, value in params.items():
        if value.dtype != np.float32 or not np.isfinite(value).all():
            raise AssertionError(f"tensor {name!r} holds {value}")


def _novelty(data: bytes) -> None:
    """What is told of a histogram is a message that a coordinator takes."""
    turn = Turn(_on_disk("novelty.json", data), 0, asyncio.Event(), random.Random(0))
    turn.on_link(is_up=True, now_s=0.0)
    shown: Shown | None = vars(turn)["_shown"]
    bundle = shown.bundle if shown is not None else BUNDLE
    turn.wish(3, 300, bundle, lambda: np.zeros((300, 2), np.float32))
    asked = turn.next_ask(Conditions(), 1.0)
    if asked is None:
        raise AssertionError("nothing is asked though an ask is due")
    try:
        data = seal(asked, federation=FEDERATION, signer=AGENT, counter=1, key=AGENT_KEY)
        again = parse_body(open_envelope(data, "readiness"), Readiness)
    except WireError as error:
        raise AssertionError(f"asks what no coordinator takes: {error}") from error
    if again != asked:
        raise AssertionError(f"asks {asked}, is understood as {again}")


def _accounting(data: bytes) -> None:
    """Sums that are taken can be estimated from, added to, and kept."""
    taken = from_bytes(data, SETTINGS)
    seen = Observation(taken.version + 1, {"site-a": 0.5, "site-b": 0.5}, 0.1, 10)
    with np.errstate(all="ignore"):  # a warning is no finding
        for sums in (taken, taken.add(seen)):
            for each in sums.estimate():
                told = [number for number in (each.value, each.error) if number is not None]
                if not np.isfinite(told).all():
                    raise AssertionError(f"site {each.site!r} brings {told}")
    if from_bytes(taken.to_bytes(), SETTINGS).to_bytes() != taken.to_bytes():
        raise AssertionError("the sums changed by keeping them")


def _unfinished(data: bytes) -> None:
    folder = _on_disk("training.rows", data)
    (folder / "training.checkpoint").write_bytes(b"is read later")
    Unfinished(folder).load(JOB)


READERS: dict[str, Callable[[bytes], None]] = {
    "residual": _residual,
    "local": _local,
    "own": _own,
    "novelty": _novelty,
    "accounting": _accounting,
    "unfinished": _unfinished,
}


def accounting() -> bytes:
    """Sums of twelve versions of three sites."""
    dice, sums = random.Random(3), Accounting(SETTINGS)
    for version in range(1, 13):
        share = dice.uniform(0.1, 0.5)
        shares = {"site-a": share, f"site-{'bc'[version % 2]}": 1 - share}
        sums = sums.add(Observation(version, shares, dice.gauss(1 / version, 0.1), 100 + version))
    return sums.to_bytes()


def seeds() -> list[bytes]:
    """Of each file an honest one, and some that other versions might have left."""
    own = {
        "bundle": BUNDLE,
        "served": BUNDLE,
        "version": 3,
        "rows": 400,
        "model": "ditto",
        "normalisation": "local",
        "reason": "better",
        "weights": write_params(LOCAL),
        "standard": standards()[0],
    }
    plain = {**own, "model": "global", "normalisation": "shared", "weights": b"", "standard": b""}
    shown = Shown(BUNDLE, 400, 400, (0.125,) * NOVELTY_BINS)
    rows = {
        "job": JOB,
        "x": pack_array(np.ones((4, 3), np.float32)),
        "y": pack_array(np.zeros((4, 1), np.float32)),
    }
    vector = np.linspace(-1, 1, PARAMETERS, dtype=np.float32)
    files = {
        "residual": [Residual(vector, BUNDLE, 2).to_bytes()],
        "local": [BUNDLE + write_params(LOCAL)],
        "own": [msgspec.msgpack.encode(own), msgspec.msgpack.encode(plain)],
        "novelty": [msgspec.json.encode(shown)],
        "accounting": [accounting(), Accounting(SETTINGS).to_bytes()],
        "unfinished": [msgspec.msgpack.encode(rows)],
    }
    return [
        bytes([at]) + data for at, name in enumerate(READERS) for data in (*files[name], b"", b"x")
    ]


def mutate(data: bytes, dice: random.Random) -> bytes:
    """Change a file as what it is."""
    first, rest = data[:1] or b"\0", data[1:]
    name = tuple(READERS)[first[0] % len(READERS)]
    if name == "local":
        return first + rest[:32] + safetensors(rest[32:], dice)
    if name == "novelty":
        return first + _json(rest, dice)
    if name == "own" and dice.random() < 0.4:
        return first + _own_parts(rest, dice)
    if name == "accounting" and dice.random() < 0.5:
        return first + _numbers(rest, dice)
    return first + messagepack(rest, dice)


def _json(data: bytes, dice: random.Random) -> bytes:
    try:
        return msgspec.json.encode(changed_tree(msgspec.json.decode(data), dice, json_leaf))
    except (msgspec.MsgspecError, *WRONG_SHAPE):
        return scrambled(data, dice)


def _own_parts(data: bytes, dice: random.Random) -> bytes:
    """Change a weights file inside the file of a chosen model."""
    try:
        tree = msgspec.msgpack.decode(data)
        part = dice.choice(("weights", "standard"))
        return msgspec.msgpack.encode({**tree, part: safetensors(tree[part], dice)})
    except (msgspec.MsgspecError, *WRONG_SHAPE):
        return scrambled(data, dice)


def _numbers(data: bytes, dice: random.Random) -> bytes:
    """Put an edge in the place of one of the sums."""
    edges = (0.0, -0.0, 5e-324, -1.0, 1.0, 1e12, 1e155, 1e308, -1e308, float("nan"), float("inf"))
    try:
        tree = msgspec.msgpack.decode(data)
        part = dice.choice([name for name, value in tree.items() if isinstance(value, bytes)])
        values = np.frombuffer(tree[part], "<f8").copy()
        for _ in range(dice.choice((1, 1, 2, 4))):
            values[dice.randrange(len(values))] = dice.choice(edges)
        return msgspec.msgpack.encode({**tree, part: values.tobytes()})
    except (msgspec.MsgspecError, IndexError, *WRONG_SHAPE):
        return messagepack(data, dice)
