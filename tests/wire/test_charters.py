"""Which charter is the newest, for ever; and what no charter may say."""

import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from wire.charters import KeptCharter, changes, newest_trust, sign_charter
from wire.codec import seal
from wire.errors import MalformedError, ReplayError, SignatureError, WireError
from wire.messages import Charter, Credential, HelperKeys, Recipient, Safeguards
from wire.signing import PrivateKey
from wire.trust import ENROLMENT, Trust, problems, read_charter, read_credential, unlisted

ROOT = PrivateKey(bytes([1] * 32))
FIRST = Charter(
    federation="plant-net",
    epoch=1,
    enrolment_key=PrivateKey(bytes([2] * 32)).public.raw,
    coordinator_key=PrivateKey(bytes([3] * 32)).public.raw,
    author_keys=(PrivateKey(bytes([4] * 32)).public.raw,),
    k_min=2,
)
HELPERS = tuple(
    HelperKeys(name=name, signing=bytes([10 + at] * 32), sealing=bytes([20 + at] * 32))
    for at, name in enumerate(("notary", "union", "church"))
)


def charter(epoch: int, **fields: object) -> bytes:
    return sign_charter(msgspec.structs.replace(FIRST, epoch=epoch, **fields), ROOT)


def trust(epoch: int, **fields: object) -> Trust:
    return read_charter(charter(epoch, **fields), ROOT.public)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "identity" / "charter.jm"


def test_a_newer_charter_is_taken_from_anybody_and_kept_for_the_next_run(path: Path) -> None:
    kept = KeptCharter(path, ROOT.public, trust(1))
    assert not kept.take(charter(1))
    assert kept.take(charter(4, k_min=3))
    assert kept.trust.charter.k_min == 3
    assert not kept.take(charter(4, k_min=3))
    assert KeptCharter(path, ROOT.public, trust(1)).trust == kept.trust
    assert newest_trust(path, ROOT.public, trust(1)).charter.epoch == 4


def test_a_lower_epoch_is_refused_for_ever_also_when_the_administrators_file_is_older(
    path: Path,
) -> None:
    KeptCharter(path, ROOT.public, trust(5))  # was configured once, and seen
    kept = KeptCharter(path, ROOT.public, trust(2))
    assert kept.trust.charter.epoch == 5
    with pytest.raises(ReplayError, match="charter 4 is older than charter 5 in use"):
        kept.take(charter(4))
    assert KeptCharter(path, ROOT.public, trust(6)).trust.charter.epoch == 6
    assert KeptCharter(path, ROOT.public, trust(5)).trust.charter.epoch == 6


@pytest.mark.parametrize(
    ("offered", "reason"),
    [
        (lambda: sign_charter(msgspec.structs.replace(FIRST, epoch=9, federation="b"), ROOT), "b"),
        (lambda: charter(3, k_min=7), "two different charters 3"),
        (lambda: charter(9, recovery=0), "takes recovery 1 back to 0"),
        (
            lambda: sign_charter(
                msgspec.structs.replace(FIRST, epoch=9), PrivateKey(bytes([9] * 32))
            ),
            "does not verify",
        ),
        (lambda: charter(9)[:-1], "malformed"),
    ],
)
def test_what_the_root_can_not_have_meant_is_refused_and_nothing_changes(
    path: Path, offered: Callable[[], bytes], reason: str
) -> None:
    kept = KeptCharter(path, ROOT.public, trust(3, recovery=1))
    before = path.read_bytes()
    with pytest.raises(WireError, match=reason):
        kept.take(offered())
    assert (kept.trust, path.read_bytes()) == (trust(3, recovery=1), before)


def test_a_rotten_file_is_left_out_and_written_anew(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    KeptCharter(path, ROOT.public, trust(5))
    path.write_bytes(path.read_bytes()[:-2])
    assert KeptCharter(path, ROOT.public, trust(2)).trust.charter.epoch == 2
    assert "the kept charter is ignored" in caplog.text
    assert newest_trust(path, ROOT.public, trust(1)).charter.epoch == 2


def test_a_disk_that_takes_nothing_does_not_bring_old_keys_back(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.write_bytes(b"in the way of the folder")
    kept = KeptCharter(path, ROOT.public, trust(1))
    assert kept.take(charter(2))
    assert kept.trust.charter.epoch == 2
    assert "charter 2 is in use and not kept" in caplog.text
    path.parent.unlink()
    assert not kept.take(charter(2))  # said again, and kept now
    assert newest_trust(path, ROOT.public, trust(1)).charter.epoch == 2
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


COORDINATOR, AUTHOR = FIRST.coordinator_key, FIRST.author_keys[0]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"enrolment_key": COORDINATOR}, "enrolment and coordinator have the same signing key"),
        ({"author_keys": (AUTHOR, AUTHOR)}, "author 1 and author 2 have the same"),
        ({"coordinator_key": ROOT.public.raw}, "coordinator and root have the same"),
        ({"helpers": HELPERS[:2]}, "3 helpers of different names"),
        ({"helpers": (*HELPERS[:2], HELPERS[0])}, "3 helpers of different names"),
        (
            {
                "helpers": (
                    *HELPERS[:2],
                    msgspec.structs.replace(HELPERS[2], signing=HELPERS[0].signing),
                )
            },
            "helper notary and helper church have the same signing key",
        ),
        (
            {"helpers": HELPERS, "coordinator_sealing_key": HELPERS[1].sealing},
            "helper union and coordinator have the same sealing key",
        ),
        ({"coordinator_sealing_key": b"short"}, "cut short"),
        ({"sites": ("a", "b", "a")}, "listed twice"),
        ({"sites": ("a",)}, "1 sites can not be the 2 behind every sum"),
        ({"least": Safeguards(protection="masked")}, "masks and names no helpers"),
        ({"least": Safeguards(protection="encrypted")}, "encryption and names no recipient"),
        (
            {
                "least": Safeguards(protection="encrypted"),
                "recipient": Recipient(name="r", signing=bytes([70] * 32), context=bytes(32)),
            },
            "encryption and has no sealing key",
        ),
        ({"least": Safeguards(noise_multiplier=1.0)}, "noise and does not say"),
        (
            {"recipient": Recipient(name="r", signing=COORDINATOR, context=bytes(32))},
            "coordinator and recipient have the same",
        ),
    ],
)
def test_a_charter_that_contradicts_itself_is_neither_signed_nor_believed(
    fields: dict[str, object], reason: str
) -> None:
    odd = msgspec.structs.replace(FIRST, **fields)
    with pytest.raises(MalformedError, match=reason):
        sign_charter(odd, ROOT)
    careless = seal(odd, federation="plant-net", signer="root", counter=1, key=ROOT)
    with pytest.raises(MalformedError, match=reason):
        read_charter(careless, ROOT.public)


def test_a_charter_that_asks_for_all_at_once_does_not_contradict_itself() -> None:
    whole = msgspec.structs.replace(
        FIRST,
        helpers=HELPERS,
        sites=("a", "b"),
        coordinator_sealing_key=bytes([30] * 32),
        least=Safeguards(protection="masked", privacy="update", noise_multiplier=0.5),
    )
    assert list(problems(whole, ROOT.public)) == []
    assert read_charter(sign_charter(whole, ROOT), ROOT.public).charter == whole


def test_a_credential_for_a_site_that_is_not_listed_does_not_count() -> None:
    enrolment = PrivateKey(bytes([2] * 32))
    made = Credential(agent="press-1", site="c", public_key=bytes([5] * 32), serial=1)
    data = seal(made, federation="plant-net", signer=ENROLMENT, counter=1, key=enrolment)
    assert read_credential(data, trust(1)) == made
    with pytest.raises(MalformedError, match="site c is not one of the 2 that charter 2 lists"):
        read_credential(data, trust(2, sites=("a", "b")))
    assert unlisted("a", trust(2, sites=("a", "b")).charter) == ""


def test_a_credential_of_another_enrolment_key_does_not_count() -> None:
    made = Credential(agent="press-1", site="c", public_key=bytes([5] * 32), serial=1)
    old = PrivateKey(bytes([2] * 32))
    data = seal(made, federation="plant-net", signer=ENROLMENT, counter=1, key=old)
    with pytest.raises(SignatureError):
        read_credential(data, trust(2, enrolment_key=bytes([50] * 32)))


def test_what_changes_is_shown_line_by_line() -> None:
    after = msgspec.structs.replace(
        FIRST,
        epoch=2,
        author_keys=(bytes([60] * 32),),
        sites=("a", "b"),
        least=Safeguards(privacy="record"),
    )
    assert list(changes(FIRST, after)) == [
        "- epoch 1",
        "+ epoch 2",
        f"- author_keys {AUTHOR.hex()}",
        f"+ author_keys {'3c' * 32}",
        "+ sites a",
        "+ sites b",
        "- least protection none, privacy none, noise_multiplier 0.0",
        "+ least protection none, privacy record, noise_multiplier 0.0",
    ]
