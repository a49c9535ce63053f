"""What a newer charter changes for a model in use, and what it does not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.adoption import Adoption
from agent.models import Models
from tests.agent.federation import CHANNELS, FEDERATION, Federation, Publication, feed
from wire.bundle import write_bundle
from wire.charters import sign_charter
from wire.errors import MalformedError, ReplayError, SignatureError
from wire.messages import Safeguards
from wire.signing import PrivateKey, read_private_key
from wire.trust import Trust, read_charter

NEW = PrivateKey(bytes([41] * 32))


def newer(federation: Federation, epoch: int = 2, **changes: Any) -> Trust:
    """The federation's next charter."""
    charter = msgspec.structs.replace(federation.trust.charter, epoch=epoch, **changes)
    root = read_private_key(federation.keys / "root.key")
    return read_charter(sign_charter(charter, root), root.public)


def of_recovery(federation: Federation, sequence: int, recovery: int) -> Publication:
    made = federation.publish(sequence)
    head = msgspec.structs.replace(made.head, recovery=recovery)
    return replace(made, head=head, envelope=federation.seal_head(head))


def opened(path: Path, trust: Trust) -> Adoption:
    return Adoption(Models(path / "models.db"), trust, CHANNELS)


def sequence_in_use(adoption: Adoption) -> int:
    assert adoption.current is not None
    return adoption.current.head.sequence


def test_after_the_coordinators_key_is_replaced_the_old_one_says_nothing_any_more(
    tmp_path: Path, federation: Federation
) -> None:
    adoption = opened(tmp_path, federation.trust)
    feed(adoption, federation.publish(1))
    rotated = newer(federation, coordinator_key=NEW.public.raw)
    adoption.follow(rotated)
    with pytest.raises(SignatureError):
        adoption.on_head(federation.publish(99).envelope)
    feed(adoption, federation.publish(2, key=NEW))
    assert sequence_in_use(adoption) == 2


def test_what_runs_goes_on_after_a_restart_under_the_new_charter(
    tmp_path: Path, federation: Federation
) -> None:
    feed(opened(tmp_path, federation.trust), federation.publish(7))
    rotated = newer(federation, coordinator_key=NEW.public.raw, author_keys=(bytes([42] * 32),))
    adoption = opened(tmp_path, rotated)
    assert sequence_in_use(adoption) == 7
    with pytest.raises(ReplayError, match="head 6 is older"):
        adoption.on_head(federation.publish(6, key=NEW).envelope)


def test_a_removed_author_makes_no_new_bundle_and_the_one_in_use_goes_on(
    tmp_path: Path, federation: Federation
) -> None:
    feed(opened(tmp_path, federation.trust), federation.publish(1))
    removed = newer(federation, author_keys=(NEW.public.raw,))
    adoption = opened(tmp_path, removed)
    feed(adoption, federation.publish(2, version=1, train=federation.moved(0.5)))
    assert sequence_in_use(adoption) == 2
    bundle = federation.opened
    manifest = msgspec.structs.replace(bundle.manifest, revision=bundle.manifest.revision + 1)
    theirs = write_bundle(manifest, bundle.files, FEDERATION, federation.author)
    with pytest.raises(SignatureError, match="author keys signed it"):
        feed(adoption, federation.publish(3, bundle=theirs))
    assert sequence_in_use(adoption) == 2
    ours = write_bundle(manifest, bundle.files, FEDERATION, NEW)
    feed(adoption, federation.publish(4, bundle=ours))
    assert sequence_in_use(adoption) == 4


def test_a_gateway_that_never_had_the_removed_authors_bundle_does_not_take_it(
    tmp_path: Path, federation: Federation
) -> None:
    adoption = opened(tmp_path, newer(federation, author_keys=(NEW.public.raw,)))
    with pytest.raises(SignatureError, match="author keys signed it"):
        feed(adoption, federation.publish(1))
    assert adoption.current is None


def test_a_head_below_the_charters_floor_is_refused(tmp_path: Path, federation: Federation) -> None:
    adoption = opened(tmp_path, federation.trust)
    feed(adoption, federation.publish(1))
    adoption.follow(newer(federation, least=Safeguards(privacy="record", noise_multiplier=0.5)))
    with pytest.raises(MalformedError, match="head 2: privacy is none, and record is asked for"):
        adoption.on_head(federation.publish(2).envelope)
    assert sequence_in_use(adoption) == 1


def test_a_lower_head_is_newer_only_when_the_root_says_so(
    tmp_path: Path, federation: Federation
) -> None:
    adoption = opened(tmp_path, federation.trust)
    feed(adoption, federation.publish(40))
    with pytest.raises(ReplayError, match="head 12 is older"):
        adoption.on_head(federation.publish(12).envelope)
    with pytest.raises(MalformedError, match=r"is of recovery 1, charter 1 here of 0"):
        adoption.on_head(of_recovery(federation, 12, 1).envelope)
    recovered = newer(federation, recovery=1)
    adoption.follow(recovered)
    feed(adoption, of_recovery(federation, 12, 1))
    assert sequence_in_use(adoption) == 12
    with pytest.raises(ReplayError):
        adoption.on_head(federation.publish(41).envelope)
    again = opened(tmp_path, recovered)
    assert sequence_in_use(again) == 12
    with pytest.raises(ReplayError):
        again.on_head(federation.publish(41).envelope)


def test_a_gateway_without_any_head_takes_none_of_an_earlier_recovery(
    tmp_path: Path, federation: Federation
) -> None:
    adoption = opened(tmp_path, newer(federation, recovery=2))
    with pytest.raises(MalformedError, match=r"is of recovery 1, charter 2 here of 2"):
        adoption.on_head(of_recovery(federation, 50, 1).envelope)
