"""The federation: verified updates in, outcomes and new versions out.

    update ──► known? ──yes──► duplicate: its outcome again
                 │no
                 ▼
               valid? ──no───► refused(reason), recorded
                 │yes
                 ▼
               taken into the buffer (`coordinator/aggregation.py`), committed
                 │ buffer ready
                 ▼
               next version ─► average ─► head + 1          diverged ─► its members end `void`

Each call is one step of what is current (`coordinator/current.py`), and receipts go out afterwards.
What is served is decided in `coordinator/judging.py`.

No version has fewer distinct sites behind it than the charter's `k_min`, whatever the strategy.

No I/O but the store; the caller passes monotonic time and sends what is returned.
"""

import logging
import time
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coordinator.aggregate import Member, settled
from coordinator.aggregation import Diverged, advance, is_ready, take
from coordinator.audit_sums import note_opened
from coordinator.average import add_version
from coordinator.config import CoordinatorSettings, Identity
from coordinator.current import Current, Result
from coordinator.ingest import Update, receipt
from coordinator.judging import Judging
from coordinator.observing import Observing
from coordinator.publication import Named, is_signed_by, still_useful
from coordinator.secure.decryption import Decrypted, Endorsed, Refused
from coordinator.secure.encrypted import EncryptedSums
from coordinator.secure.figures import MaskedFigures
from coordinator.secure.rows import Sealed
from coordinator.secure.sums import Opened, Sums
from coordinator.secure.updates import HiddenUpdates, UpdateKey
from coordinator.secure.ways import ByEncryption, ByMasks, Way
from coordinator.store import Saved, Store
from coordinator.strategies.strategy import Offer, Rejected
from wire.chunks import sha256
from wire.errors import MalformedError
from wire.messages import (
    CONFLICT,
    Charter,
    Endorsement,
    Head,
    HelperKeys,
    Policy,
    Purpose,
    Receipt,
    Recipient,
    Report,
    UpdateHeader,
    Verdicts,
)
from wire.settings import settings_error
from wire.sparse import decode_sparse, kept_count, largest_sparse_bytes
from wire.tensors import read_integers, update_bytes
from wire.trust import unlisted

logger = logging.getLogger(__name__)


class Federation:
    """The current model of the federation and everything that may change it."""

    def __init__(
        self, store: Store, settings: CoordinatorSettings, identity: Identity, now_s: float
    ) -> None:
        self._store = store
        self._source, self._charter = identity.source, identity.trust.charter
        self._key = identity.key.public
        self._current = Current(store, settings, identity)
        self._judging = Judging(self._current, now_s)
        self._observing = Observing(store, settings, identity)
        self.sums = Sums(store.secure, identity.trust.charter, identity.key)
        self.encrypted: EncryptedSums | None = None
        self._hidden = HiddenUpdates(self._current, self._way(identity))
        self._figures = MaskedFigures(self._current, self.sums)
        self._buffer_since_s = now_s
        self._duplicates = 0
        self._follow_charter(identity.trust.charter)
        with self._current.step():
            self._free_sums(identity.trust.charter)
        self._publish_settings(now_s)

    def _follow_charter(self, charter: Charter) -> None:
        """Begin where the root says that we begin again; give up what it does not count."""
        current = self._current
        if charter.recovery > current.saved.recovery:
            self._judging.recover(charter.recovery)
        refused = [unlisted(site, charter) for site in current.model.buffer.sites]
        if any(refused):
            with current.step():
                current.settle(Result(), "void", next(filter(None, refused)), 0)
                current.empty_buffer()

    def _way(self, identity: Identity) -> Way:
        """How updates are hidden under the policy, where they are."""
        policy, parameters = self._policy, self._current.parameters
        charter = identity.trust.charter
        recipient, sealing = charter.recipient, identity.sealing
        if policy.protection != "encrypted" or recipient is None or sealing is None:
            return ByMasks(self.sums, policy, parameters)
        self.encrypted = EncryptedSums(self._store.secure, charter, identity.key, sealing)
        return ByEncryption(self.encrypted, policy, parameters, recipient.context)

    def _free_sums(self, charter: Charter) -> None:
        """Let go of what an older charter allowed and nobody will open under this one."""
        rows = self._store.secure
        if self._policy.protection == "masked":  # the recipient looks after its own
            rows.give_up_outdated(charter.epoch, charter.endorsements)
        purposes: tuple[Purpose, ...] = ("update", "evaluation", "statistics")
        free = [sealed for purpose in purposes for sealed in rows.free(purpose)]
        lost = [(each, reason) for each in free if (reason := unlisted(each.site, charter))]
        rows.forget([sealed.report for sealed, _ in lost])
        self._lose(Result(), "refused", lost)

    def _publish_settings(self, now_s: float) -> None:
        """Publish a head when the policy or the training switch is not what the last one says."""
        current = self._current
        if current.has_head:
            scale = current.head.policy.scale
            if scale != self._policy.scale and current.model.buffer.members:
                self._close_buffer(scale, now_s)
        if (
            not current.has_head
            or not is_signed_by(current.saved.head, self._charter.federation, self._key)
            or current.head.policy != current.policy
            or current.head.training != self._store.training
        ):
            with current.step():
                current.publish({})
        self.limit_chunks(current.chunk_bytes)

    def _close_buffer(self, scale: float, now_s: float) -> None:
        """Integers of two scales do not add: what the buffer holds becomes a version of its own."""
        buffer = self._current.model.buffer
        if len(buffer.sites) < self._current.usual_rules.k_min:
            reason = f"the buffer holds {len(buffer.members)} updates at scale {scale} and too few "
            reason += "sites to publish them; keep the old scale until they are folded"
            raise settings_error(self._source, "policy.scale", reason)
        with self._current.step():
            self._advance(Result(), now_s, scale)

    # What the caller reads

    @property
    def saved(self) -> Saved:
        """What the last decision made current."""
        return self._current.saved

    @property
    def head(self) -> Head:
        """The current head."""
        return self._current.head

    @property
    def head_envelope(self) -> bytes:
        """The current head, signed."""
        return self._current.saved.head

    @property
    def policy(self) -> Policy:
        """The head's policy."""
        return self._current.policy

    @property
    def site_alone(self) -> str:
        """The site that trains the first versions alone, while it does; else empty."""
        return self._current.site_alone

    def contents(self) -> list[Named]:
        """What the head names, each content once."""
        return self._current.contents()

    def limit_chunks(self, chunk_bytes: int) -> None:
        """See `Current.limit_chunks`."""
        self._current.limit_chunks(chunk_bytes)

    @property
    def update_bytes(self) -> int:
        """Largest size of a client update's content under the policy."""
        policy, parameters = self._policy, self._current.parameters
        if policy.protection != "none":
            return self._hidden.update_bytes
        if policy.kept_share < 1:
            return largest_sparse_bytes(policy.bits, parameters, self._most_kept)
        return update_bytes(policy.bits, parameters)

    @property
    def _policy(self) -> Policy:
        return self._current.usual_policy

    @property
    def _most_kept(self) -> int:
        return kept_count(self._policy.kept_share, self._current.parameters)

    # What may happen

    def commit(self, updates: list[Update], now_s: float) -> Result:
        """Take complete, verified updates in one transaction."""
        result = Result()
        with self._current.step():
            for update in updates:
                result.receipts.append((update.header.agent, self._take(update, now_s)))
                if self._is_ready(now_s):
                    self._advance(result, now_s, self._policy.scale)
            self._current.save_buffer()
            self._store.count_duplicates(self._duplicates)
        self._duplicates = 0
        return result

    def status_of(self, header: UpdateHeader) -> Receipt | None:
        """The receipt of an update that is already known, else None; counts the duplicate.

        An id that comes back with other content is refused and alarmed: the agent's state was
        cloned or restored from a backup.
        """
        known = self._store.known_update(header)
        if known is None:
            return None
        if known.digest != header.content.digest:
            reason = f"{CONFLICT}: this id was here before with another hash"
            self._store.raise_alarm(
                header.agent,
                "two contents",
                f"update {header.incarnation}/{header.sequence} came with another content than "
                "before: its card was cloned or restored from a backup",
            )
            logger.error("ALARM update %d of %s: %s", header.sequence, header.agent, reason)
            return receipt(header, "refused", reason=reason)
        self._duplicates += 1
        return receipt(header, known.status, reason=known.reason, version=known.version)

    def tick(self, now_s: float) -> Result:
        """Do what time alone asks for: deadlines, and the operator's switches."""
        result, current = Result(), self._current
        if self._duplicates:
            with self._store.soft_transaction():
                self._store.count_duplicates(self._duplicates)
            self._duplicates = 0
        if self._is_ready(now_s):
            with current.step():
                self._advance(result, now_s, self._policy.scale)
        if self._policy.protection != "none":
            with current.step():
                self._figures.propose(now_s)
                if not self._hidden.propose(now_s):
                    stranded = self._hidden.stranded(now_s)
                    self._store.secure.forget([sealed.report for sealed in stranded])
                    reason = "training is closed, and too few sites' updates wait for a sum"
                    self._lose(result, "void", [(sealed, reason) for sealed in stranded])
        if current.head.training != self._store.training:
            with current.step():
                current.publish({})
            result.head_moved = True
        self._judging.roll_back_on_request(result)
        self._judging.judge(result, now_s)
        return result

    def on_report(self, agent: str, site: str, report: Report, now_s: float) -> Result:
        """Take what a site says about the versions that the head names, and about itself.

        Raises:
          MalformedError: it says what can not be true of this bundle's models.
        """
        result, current = Result(), self._current
        if self._policy.protection == "masked":
            with current.step():
                for sealed in report.sealed:
                    self._figures.take(agent, site, sealed)
            return result
        self._observing.check(report, current.saved)
        with current.step():
            changes = self._observing.take(agent, site, report, current.saved, current.chunk_bytes)
            if changes:
                current.publish(changes)
                result.head_moved = True
        self._judging.judge(result, now_s)
        return result

    # Masked updates: what helpers say (`coordinator/secure/`)

    def on_verdicts(self, helper: str, verdicts: Verdicts) -> Result:
        """Take a helper's verdicts; `helper` is its signing key, hexadecimal."""
        result = Result()
        with self._current.step():
            self._lose(result, "refused", self.sums.take_verdicts(helper, verdicts.items))
        return result

    def on_endorsement(self, helper: str, endorsement: Endorsement, envelope: bytes) -> Result:
        """Take a helper's word about a manifest."""
        result = Result()
        with self._current.step():
            lost = self.sums.take_endorsement(helper, endorsement, envelope)
            self._lose(result, "void", lost)
        return result

    def on_masks(self, manifest: bytes, masks: list[bytes], now_s: float) -> Result:
        """Open a sum with the helpers' masks, and make of it what it is for.

        Raises:
          MalformedError: the masks do not fit the manifest.
        """
        result, current = Result(), self._current
        with current.step():
            note_opened(self._store.audit, self._store.secure, self.sums.helpers, manifest)
            opened = self.sums.open(manifest, masks)
            self._store.secure.forget([sealed.report for sealed in opened.members])
            if opened.manifest.purpose == "update":
                self._fold_opened(result, opened, now_s)
            else:
                changes = self._figures.opened(opened)
                if changes:
                    current.publish(dict(changes))
                    result.head_moved = True
        self._judging.judge(result, now_s)
        return result

    # Encrypted updates: what the recipient says

    def on_recipient(self, key: str, heard: Endorsed | Refused) -> Result:
        """Take the recipient's word about a manifest; `key` is its signing key, hexadecimal."""
        result, about = Result(), heard.endorsement
        if self.encrypted is None:
            return result
        with self._current.step():
            secure, is_accepted = self._store.secure, isinstance(heard, Endorsed)
            secure.endorse(about.manifest, key, heard.envelope, accepted=is_accepted)
            if not is_accepted:
                self._lose(result, "void", self.encrypted.refused(about))
        return result

    def on_decrypted(self, decrypted: Decrypted, now_s: float) -> Result:
        """Make a version of a sum that the recipient decrypted.

        Raises:
          MalformedError: it does not fit a manifest that waits.
        """
        result, digest = Result(), decrypted.manifest
        if self.encrypted is None:
            return result
        with self._current.step():
            note_opened(self._store.audit, self._store.secure, self._openers, digest)
            opened = self.encrypted.open(digest, decrypted.sums)
            self._store.secure.forget([sealed.report for sealed in opened.members])
            self._fold_opened(result, opened, now_s)
        self._judging.judge(result, now_s)
        return result

    def _fold_opened(self, result: Result, opened: Opened, now_s: float) -> None:
        current = self._current
        buffer, keys = self._hidden.buffer(opened)
        self._store.recount(keys, buffer.members)
        current.model = replace(current.model, buffer=buffer)
        self._advance(result, now_s, opened.manifest.scale, keys)
        late = self._hidden.late()
        self._store.secure.forget([sealed.report for sealed in late])
        self._lose(result, "refused", [(each, "late: its round is closed") for each in late])

    @property
    def _openers(self) -> dict[str, HelperKeys | Recipient]:
        """Who may open sums, by signing key, hexadecimal."""
        recipient = self._charter.recipient
        own = {recipient.signing.hex(): recipient} if recipient is not None else {}
        return {**self.sums.helpers, **own}

    def _lose(
        self,
        result: Result,
        status: Literal["refused", "void"],
        lost: list[tuple[Sealed, str]],
    ) -> None:
        """Give updates that will never be opened their outcome."""
        for sealed, reason in lost:
            if sealed.purpose == "update":
                key = (sealed.agent, sealed.incarnation, sealed.sequence)
                self._current.settle(result, status, reason, 0, [key])

    # Updates, inside the caller's step

    def _take(self, update: Update, now_s: float) -> Receipt:
        header = update.header
        known = self.status_of(header)
        if known is not None:
            return known
        if header.dropped:
            self._store.add_update(header, "dropped", header.dropped, None, time.time())
            return receipt(header, "dropped", reason=header.dropped)
        taken = self._fold(update)
        if isinstance(taken, Rejected):
            logger.warning(
                "refused update %d of %s: %s", header.sequence, header.agent, taken.reason
            )
            self._store.add_update(header, "refused", taken.reason, None, time.time())
            return receipt(header, "refused", reason=taken.reason)
        if len(self._current.model.buffer.members) == 1:
            self._buffer_since_s = now_s
        is_hidden = header.masked is not None or header.encrypted
        report = sha256(update.envelope) if is_hidden else b""
        self._store.add_update(header, "committed", "", taken, time.time(), report)
        return receipt(header, "committed")

    def _fold(self, update: Update) -> Member | Rejected:
        """Put a valid update into the buffer, or say why it does not count."""
        header, current = update.header, self._current
        refused = self.problem_with(header)
        if refused is not None:
            return refused
        if self._policy.protection != "none":
            return self._hidden.take(update, self._offer(header))
        try:
            delta = self._integers(update)
        except MalformedError as error:
            return Rejected(str(error))
        scale = self._policy.scale
        taken = take(current.rules, current.model, self._offer(header), delta, scale)
        if isinstance(taken, Rejected):
            return taken
        current.model = taken
        return taken.buffer.members[-1]

    def _integers(self, update: Update) -> NDArray[np.signedinteger]:
        header, data, parameters = update.header, update.content, self._current.parameters
        if len(data) != header.content.size:
            raise MalformedError(f"{len(data)} bytes came of {header.content.size}")
        if self._policy.kept_share < 1:
            return decode_sparse(data, header.bits, parameters, self._most_kept)
        return read_integers(data, header.bits, parameters)

    def problem_with(self, header: UpdateHeader) -> Rejected | None:
        """What the header alone decides, so that no chunk is taken in vain."""
        return self._uncounted(header) or self._unfit(header)

    def _uncounted(self, header: UpdateHeader) -> Rejected | None:
        sender = self._store.agent(header.agent)
        if sender is None:
            return None
        if self._store.revocations.covers(sender.agent, sender.serial):
            return Rejected(f"credential {sender.serial} of {sender.agent} was revoked")
        refused = unlisted(sender.site, self._charter)
        return Rejected(refused) if refused else None

    def _unfit(self, header: UpdateHeader) -> Rejected | None:
        policy, current = self._policy, self._current
        if header.lineage != current.saved.lineage:
            return Rejected(f"lineage {header.lineage} was abandoned")
        if self._store.version_digest(header.base_version) != header.base_digest:
            return Rejected(f"base version {header.base_version} is not one of ours")
        unfit = self._unfit_content(header)
        if unfit:
            return Rejected(unfit)
        if header.weight > min(policy.weight_cap, max(header.examples, 1)):
            return Rejected(f"weight {header.weight} exceeds examples or the policy's cap")
        model = current.model
        admitted = current.rules.strategy.admit(self._offer(header), model.buffer, model.version)
        return admitted if isinstance(admitted, Rejected) else None

    def _unfit_content(self, header: UpdateHeader) -> str:
        policy = self._policy
        if (header.scale, header.bits) != (policy.scale, policy.bits):
            return f"scale {header.scale} x {header.bits} bits is not the policy's"
        if policy.protection != "none":
            unfit = self._hidden.problem_with(header)
        else:
            is_hidden = header.masked is not None or header.encrypted
            unfit = "hidden, which the policy does not ask for" if is_hidden else ""
        size, is_sparse = header.content.size, policy.kept_share < 1
        fits = size <= self.update_bytes if is_sparse else size == self.update_bytes
        if not unfit and (not fits or header.kept > (self._most_kept if is_sparse else 0)):
            unfit = f"{size} bytes do not fit {self._current.parameters} parameters"
        return unfit

    def _offer(self, header: UpdateHeader) -> Offer:
        known = self._store.agent(header.agent)
        return Offer(
            header.agent, known.site if known else header.agent, header.weight, header.base_version
        )

    # Versions, inside the caller's step

    def _is_ready(self, now_s: float) -> bool:
        current = self._current
        return is_ready(current.rules, current.model, now_s - self._buffer_since_s)

    def _advance(
        self,
        result: Result,
        now_s: float,
        scale: float,
        keys: list[UpdateKey] | None = None,
    ) -> None:
        """Turn the buffer, whose steps have this scale, into a version and settle its members.

        Args:
          result: where receipts go.
          now_s: monotonic.
          scale: value of one integer step.
          keys: the members, where more was committed than them.
        """
        current, saved = self._current, self._current.saved
        members, version = current.model.buffer.members, current.model.version + 1
        try:
            model = advance(
                current.rules,
                replace(current.model, buffer=settled(current.model.buffer)),
                scale,
                population=self._store.population if current.usual_rules.strategy.memory else 0,
                base=self._base_of(members),
            )
        except Diverged as error:
            self._void_buffer(result, f"version {version} would have diverged: {error}", keys)
            return
        averaged, decay = saved.averaged + 1, current.settings.average.decay
        current.save_model(model, add_version(current.average, model.params, averaged, decay))
        train = current.keep_version(version, model.params)
        self._store.add_version(
            version, saved.lineage, train.content.digest, len(members), time.time()
        )
        current.settle(result, "folded", "", version, keys)
        logger.info("version %d from %s", version, ", ".join(member.agent for member in members))
        self._observing.account_for(version)
        candidate, ways = self._judging.open(version, now_s)
        ways.insert(0, current.way(saved.train.content.digest, train.content.digest))
        current.publish(
            {
                "version": version,
                "train": train,
                "averaged": averaged,
                "radius": model.radius,
                "deltas": still_useful(saved, ways),
                **candidate,
            }
        )
        result.head_moved = True

    def _base_of(self, members: tuple[Member, ...]) -> NDArray[np.float32] | None:
        """Weights that the oldest member was trained from, if the strategy needs and keeps them."""
        if not self._current.usual_rules.strategy.kept_bases:
            return None
        digest = self._store.version_digest(min(member.base_version for member in members))
        if digest is None or not self._store.has_content(digest):
            return None
        return self._current.weights_of(digest)

    def _void_buffer(self, result: Result, reason: str, keys: list[UpdateKey] | None) -> None:
        """Give up what would have made the model diverge."""
        logger.error("ALARM %s", reason)
        self._store.raise_alarm("coordinator", "diverged", reason)
        self._current.settle(result, "void", reason, 0, keys)
        self._current.empty_buffer()
