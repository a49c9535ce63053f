"""From a signed head to weights in use, and back after a restart."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.adoption import Adoption
from agent.learning.golden import golden_tensors, read_golden
from agent.models import Models
from agent.signals.rows import rows_of
from tests.agent.federation import CHANNELS, FEDERATION, Federation, feed
from wire.bundle import GOLDEN, write_bundle, write_draft
from wire.errors import BundleError, MalformedError, ReplayError, SignatureError, WireError
from wire.signing import PrivateKey
from wire.tensors import Params, read_safetensors, write_params, write_safetensors

ROW = np.array([[299.0, 309.0, 1400.0, 45.0, 100.0, 1.0, 7.0]])


def adoption_at(path: Path, federation: Federation, channels: list[str] | None = None) -> Adoption:
    return Adoption(Models(path / "models.db"), federation.trust, channels or CHANNELS)


def in_use(adoption: Adoption) -> tuple[int, Params]:
    assert adoption.current is not None
    return adoption.current.head.sequence, adoption.current.train


def same(one: Params, other: Params) -> bool:
    return write_params(one) == write_params(other)


def with_golden(federation: Federation, loss_factor: float) -> bytes:
    """The bundle, signed by its author, but with a golden loss that nobody computes."""
    bundle = federation.opened
    golden = golden_tensors(read_golden(read_safetensors(bundle.files[GOLDEN])))
    golden["loss"] = np.array(golden["loss"] * loss_factor, np.float32)
    files = bundle.files | {GOLDEN: write_safetensors(golden)}
    return write_bundle(bundle.manifest, files, FEDERATION, federation.author)


def test_a_signed_head_is_adopted_when_its_last_chunk_arrived(
    tmp_path: Path, federation: Federation
) -> None:
    adoption = adoption_at(tmp_path, federation)
    publication = federation.publish(1)
    assert adoption.on_head(publication.envelope)
    assert adoption.wanted() == list(publication.chunks)  # bundle first; serve and train are one
    assert adoption.wanted(2) == list(publication.chunks)[:2]
    *early, last = publication.chunks.items()
    for topic, chunk in early:
        adoption.on_chunk(topic, chunk)
        assert adoption.current is None
    assert adoption.on_chunk(*last)
    assert in_use(adoption)[0] == 1
    assert adoption.wanted() == []
    assert adoption.changed.is_set()


def test_the_columns_are_found_by_name(tmp_path: Path, federation: Federation) -> None:
    usual = adoption_at(tmp_path, federation)
    feed(usual, federation.publish(1))
    turned_path = tmp_path / "turned"
    turned_path.mkdir()
    turned = adoption_at(turned_path, federation, CHANNELS[::-1])
    feed(turned, federation.publish(1))
    assert usual.current is not None
    assert turned.current is not None
    score = usual.current.score(federation.start, rows_of(ROW))
    assert score.shape == (1,)
    assert 0.0 < score[0] < 1.0
    assert np.array_equal(turned.current.score(federation.start, rows_of(ROW[:, ::-1])), score)
    assert usual.current.examples(rows_of(ROW)).labels.tolist() == [[1.0]]


def test_the_old_version_stays_in_use_until_the_new_one_is_whole(
    tmp_path: Path, federation: Federation
) -> None:
    adoption = adoption_at(tmp_path, federation)
    feed(adoption, federation.publish(1))
    second = federation.publish(2, version=1, train=federation.moved(0.5))
    adoption.on_head(second.envelope)
    assert in_use(adoption)[0] == 1
    feed(adoption, second)
    sequence, params = in_use(adoption)
    assert sequence == 2
    assert same(params, federation.moved(0.5))


def test_the_same_head_again_is_not_new(tmp_path: Path, federation: Federation) -> None:
    adoption = adoption_at(tmp_path, federation)
    publication = federation.publish(3)
    assert adoption.on_head(publication.envelope)
    assert not adoption.on_head(publication.envelope)


def test_an_older_head_is_a_replay_even_after_a_restart(
    tmp_path: Path, federation: Federation
) -> None:
    feed(adoption_at(tmp_path, federation), federation.publish(5))
    adoption = adoption_at(tmp_path, federation)
    with pytest.raises(ReplayError, match="head 4 is older than head 5"):
        adoption.on_head(federation.publish(4).envelope)
    assert in_use(adoption)[0] == 5


def test_a_head_that_another_key_signed_is_refused(tmp_path: Path, federation: Federation) -> None:
    adoption = adoption_at(tmp_path, federation)
    feed(adoption, federation.publish(1))
    for key in (PrivateKey.generate(), federation.author):
        with pytest.raises(SignatureError, match="head from coordinator"):
            adoption.on_head(federation.publish(2, key=key).envelope)
    assert in_use(adoption)[0] == 1


def test_a_head_with_any_flipped_byte_is_refused(tmp_path: Path, federation: Federation) -> None:
    adoption = adoption_at(tmp_path, federation)
    feed(adoption, federation.publish(1))
    envelope = federation.publish(2).envelope
    for at in range(0, len(envelope), 7):
        tampered = bytearray(envelope)
        tampered[at] ^= 1
        with pytest.raises(WireError):
            adoption.on_head(bytes(tampered))
    assert in_use(adoption)[0] == 1


def test_a_head_that_contradicts_itself_is_refused(tmp_path: Path, federation: Federation) -> None:
    adoption = adoption_at(tmp_path, federation)
    head = federation.publish(1).head
    wrong = msgspec.structs.replace(head.bundle, size=head.bundle.size + 10 * 2048)
    with pytest.raises(MalformedError, match="chunks"):
        adoption.on_head(federation.seal_head(msgspec.structs.replace(head, bundle=wrong)))
    assert adoption.wanted() == []


def test_a_tampered_chunk_is_refused_and_the_right_one_still_taken(
    tmp_path: Path, federation: Federation
) -> None:
    adoption = adoption_at(tmp_path, federation)
    publication = federation.publish(1)
    adoption.on_head(publication.envelope)
    adoption.wanted()
    for topic, chunk in publication.chunks.items():
        with pytest.raises(MalformedError, match="SHA-256"):
            adoption.on_chunk(topic, chunk[:-1] + bytes([chunk[-1] ^ 1]))
        adoption.on_chunk(topic, chunk)
    assert in_use(adoption)[0] == 1


def test_chunks_that_nobody_asked_for_are_ignored(tmp_path: Path, federation: Federation) -> None:
    adoption = adoption_at(tmp_path, federation)
    for topic in ("model/00/0", "model/00/x", "model/00/99999999", "nothing", "model/00/²"):
        assert not adoption.on_chunk(f"{federation.topics.base}/{topic}", b"x")


def refused_bundles(federation: Federation) -> dict[str, tuple[bytes, str]]:
    bundle = federation.opened
    stranger = write_bundle(bundle.manifest, bundle.files, FEDERATION, PrivateKey.generate())
    other = msgspec.structs.replace(bundle.manifest, agreement=bytes([1] * 32))
    return {
        "draft": (write_draft(bundle.manifest, bundle.files), "unsigned draft"),
        "stranger": (stranger, "none of the charter's 1 author keys"),
        "flipped": (
            federation.bundle[:-100]
            + bytes([federation.bundle[-100] ^ 1])
            + federation.bundle[-99:],
            "none of the charter's 1 author keys",
        ),
        "golden": (with_golden(federation, 1.5), "golden loss"),
        "agreement": (
            write_bundle(other, bundle.files, FEDERATION, federation.author),
            "another agreement",
        ),
    }


@pytest.mark.parametrize("case", ["draft", "stranger", "flipped", "golden", "agreement"])
def test_a_refused_bundle_leaves_the_model_in_use_also_after_a_restart(
    tmp_path: Path, federation: Federation, case: str
) -> None:
    data, reason = refused_bundles(federation)[case]
    adoption = adoption_at(tmp_path, federation)
    feed(adoption, federation.publish(1, train=federation.moved(0.25)))
    with pytest.raises(WireError, match=reason):
        feed(adoption, federation.publish(2, version=1, bundle=data))
    again = adoption_at(tmp_path, federation)
    for each in (adoption, again):
        sequence, params = in_use(each)
        assert sequence == 1
        assert same(params, federation.moved(0.25))
    with pytest.raises(ReplayError):
        again.on_head(federation.publish(1).envelope)
    feed(again, federation.publish(3, version=2))
    assert in_use(again)[0] == 3


def test_weights_that_do_not_fit_the_bundle_are_refused(
    tmp_path: Path, federation: Federation
) -> None:
    adoption = adoption_at(tmp_path, federation)
    feed(adoption, federation.publish(1))
    wrong = {name: value[..., :1].copy() for name, value in federation.start.items()}
    with pytest.raises(MalformedError, match="do not match the manifest"):
        feed(adoption, federation.publish(2, train=wrong))
    assert in_use(adoption)[0] == 1


def test_a_bundle_that_needs_an_unconfigured_channel_names_it(
    tmp_path: Path, federation: Federation
) -> None:
    fewer = [name for name in CHANNELS if name != "torque"]
    with pytest.raises(BundleError, match=r"'torque'.*configure a channel of that name"):
        feed(adoption_at(tmp_path, federation, fewer), federation.publish(1))
    assert adoption_at(tmp_path, federation, fewer).current is None
    configured = adoption_at(tmp_path, federation)
    assert in_use(configured)[0] == 1


def test_a_restart_comes_back_with_the_same_model(tmp_path: Path, federation: Federation) -> None:
    before = adoption_at(tmp_path, federation)
    feed(before, federation.publish(4, version=3, train=federation.moved(1.0)))
    after = adoption_at(tmp_path, federation)
    assert before.current is not None
    assert after.current is not None
    assert after.current.head == before.current.head
    assert same(after.current.train, before.current.train)
    assert after.wanted() == []
    assert np.array_equal(
        after.current.score(after.current.serve, rows_of(ROW)),
        before.current.score(before.current.serve, rows_of(ROW)),
    )


def test_a_restart_during_a_download_keeps_the_old_model_and_asks_for_the_rest(
    tmp_path: Path, federation: Federation
) -> None:
    before = adoption_at(tmp_path, federation)
    feed(before, federation.publish(1))
    second = federation.publish(2, version=1, train=federation.moved(0.5))
    before.on_head(second.envelope)
    after = adoption_at(tmp_path, federation)
    assert in_use(after)[0] == 1
    assert after.wanted() == [
        federation.topics.model(second.head.train.content.digest.hex(), chunk)
        for chunk in range(len(second.head.train.content.chunks))
    ]
    feed(after, federation.publish(3, version=1, train=federation.moved(0.5)))
    assert in_use(after)[0] == 3


def test_train_candidate_and_serve_are_kept_apart(tmp_path: Path, federation: Federation) -> None:
    adoption = adoption_at(tmp_path, federation)
    feed(
        adoption,
        federation.publish(
            1,
            version=5,
            train=federation.moved(0.1),
            candidate=federation.moved(0.2),
            serve=federation.moved(0.3),
        ),
    )
    current = adoption.current
    assert current is not None
    assert current.candidate is not None
    assert same(current.train, federation.moved(0.1))
    assert same(current.candidate, federation.moved(0.2))
    assert same(current.serve, federation.moved(0.3))


def test_contents_that_no_head_names_are_forgotten(tmp_path: Path, federation: Federation) -> None:
    models = Models(tmp_path / "models.db")
    adoption = Adoption(models, federation.trust, CHANNELS)
    digests = []
    for sequence in range(1, 5):
        publication = federation.publish(
            sequence, version=sequence, train=federation.moved(0.1 * sequence)
        )
        feed(adoption, publication)
        digests.append(publication.head.train.content.digest)
    assert [models.read(digest) is not None for digest in digests] == [False, False, True, True]


def test_a_head_of_a_coordinator_that_the_charter_does_not_name_any_more_is_put_aside(
    tmp_path: Path, federation: Federation
) -> None:
    models = Models(tmp_path / "models.db")
    foreign = federation.publish(9, key=PrivateKey.generate())
    models.accept_head(foreign.envelope, foreign.head, None)
    adoption = Adoption(models, federation.trust, CHANNELS)
    assert adoption.head is None
    feed(adoption, federation.publish(1))
    assert in_use(adoption)[0] == 1
