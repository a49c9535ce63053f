"""Whom to believe: the pinned root, its charter, and the credentials below it.

    root key (pinned, offline)
      └── charter (epoch grows)
            ├── coordinator key   heads, receipts, commands
            ├── author keys       bundles
            ├── helper keys       verdicts, manifests, masks (`wire/SECURE.md`)
            └── enrolment key     credentials ── agent key   births, updates
                                  list of revoked credentials

A charter that contradicts itself is refused whoever signed it (`problems`); which of several is the
newest is in `wire/charters.py`.  A credential counts only for a site that the charter lists, where
it lists any: an enrolment authority that colludes can not add sites of its own.

Pure: bytes in, verified values out, `WireError` otherwise.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from wire.codec import Opened, open_envelope, parse_body, unseal
from wire.errors import MalformedError, SignatureError
from wire.messages import HELPERS, Charter, Credential, RevocationList
from wire.signing import PublicKey
from wire.topics import check_name

ROOT = "root"
ENROLMENT = "enrolment"
COORDINATOR = "coordinator"
AUTHOR = "author"
_KEY_BYTES = 32


@dataclass(frozen=True)
class Trust:
    """A verified charter.

    Attributes:
      envelope: as the root signed it, to be handed on.
    """

    charter: Charter
    envelope: bytes = field(default=b"", compare=False, repr=False)

    @property
    def federation(self) -> str:
        """Name of the federation."""
        return self.charter.federation

    @property
    def coordinator(self) -> PublicKey:
        """Key of heads, receipts and commands."""
        return PublicKey(self.charter.coordinator_key)


def read_charter(data: bytes, root: PublicKey) -> Trust:
    """Verify a charter under the pinned root key."""
    opened = open_envelope(data, "charter")
    charter = parse_body(opened, Charter)  # names the federation that the signature covers
    opened.verify(charter.federation, root)
    if opened.signer != ROOT:
        reason = f"a charter is signed by {ROOT!r}, not {opened.signer!r}"
        raise MalformedError(reason)
    check_name(charter.federation, "federation")
    for problem in problems(charter, root):
        raise MalformedError(f"charter {charter.epoch} contradicts itself: {problem}")
    return Trust(charter, data)


def problems(charter: Charter, root: PublicKey | None = None) -> Iterator[str]:
    """What a charter says against itself: who holds two of these offices could cheat alone.

    Args:
      charter: verified or not.
      root: the key that signs it, where that is known.
    """
    yield from _about_keys(charter, root)
    names = [helper.name for helper in charter.helpers]
    if len(names) not in (0, HELPERS) or len(set(names)) != len(names):
        yield f"{', '.join(names)}: there are {HELPERS} helpers of different names, or none"
    if len(set(charter.sites)) != len(charter.sites):
        yield "a site is listed twice"
    if charter.sites and len(charter.sites) < charter.k_min:
        yield f"{len(charter.sites)} sites can not be the {charter.k_min} behind every sum"
    least = charter.least
    if least.protection == "masked" and not charter.helpers:
        yield "it demands masks and names no helpers"
    if least.protection == "encrypted" and charter.recipient is None:
        yield "it demands encryption and names no recipient"
    if least.protection == "encrypted" and not charter.coordinator_sealing_key:
        yield "it demands encryption and has no sealing key of the coordinator"
    if least.privacy == "none" and least.noise_multiplier > 0:
        yield "it demands noise and does not say whose presence it has to hide"


def _about_keys(charter: Charter, root: PublicKey | None) -> Iterator[str]:
    signing = {
        "enrolment": charter.enrolment_key,
        "coordinator": charter.coordinator_key,
        **{f"author {at}": key for at, key in enumerate(charter.author_keys, start=1)},
        **{f"helper {helper.name}": helper.signing for helper in charter.helpers},
    }
    if root is not None:
        signing["root"] = root.raw
    if charter.recipient is not None:
        signing["recipient"] = charter.recipient.signing
    sealing = {f"helper {helper.name}": helper.sealing for helper in charter.helpers}
    if charter.coordinator_sealing_key:
        sealing["coordinator"] = charter.coordinator_sealing_key
        if len(charter.coordinator_sealing_key) != _KEY_BYTES:
            yield "the coordinator's sealing key is cut short"
    for kind, keys in (("signing", signing), ("sealing", sealing)):
        for key, number in Counter(keys.values()).items():
            if number > 1:
                same = " and ".join(name for name, held in keys.items() if held == key)
                yield f"{same} have the same {kind} key"


def unlisted(site: str, charter: Charter) -> str:
    """Why the charter does not count this site; empty when it does."""
    if not charter.sites or site in charter.sites:
        return ""
    return f"site {site} is not one of the {len(charter.sites)} that charter {charter.epoch} lists"


def read_credential(data: bytes, trust: Trust) -> Credential:
    """Verify an agent's credential under the charter's enrolment key, for a site that counts."""
    credential, _ = unseal(
        data,
        Credential,
        federation=trust.federation,
        signer=ENROLMENT,
        key=PublicKey(trust.charter.enrolment_key),
    )
    check_name(credential.agent, "agent")
    check_name(credential.site, "site")
    if credential.agent == COORDINATOR:
        reason = f"no agent may be called {COORDINATOR!r}"
        raise MalformedError(reason)
    if refused := unlisted(credential.site, trust.charter):
        raise MalformedError(f"credential of {credential.agent}: {refused}")
    return credential


def read_revoked(data: bytes, trust: Trust) -> RevocationList:
    """Verify a list under the charter's enrolment key; `WireError` otherwise."""
    revoked, _ = unseal(
        data,
        RevocationList,
        federation=trust.federation,
        signer=ENROLMENT,
        key=PublicKey(trust.charter.enrolment_key),
    )
    return revoked


def highest_revoked(revoked: RevocationList, agent: str) -> int:
    """Highest revoked serial of the agent; 0 without one."""
    return max((entry.serial for entry in revoked.entries if entry.agent == agent), default=0)


def verify_author(opened: Opened, trust: Trust) -> None:
    """Raise `SignatureError` unless one of the charter's author keys signed the bundle."""
    if opened.signer != AUTHOR:
        reason = f"a bundle is signed by {AUTHOR!r}, not {opened.signer!r}"
        raise MalformedError(reason)
    for raw in trust.charter.author_keys:
        try:
            opened.verify(trust.federation, PublicKey(raw))
        except SignatureError:
            continue
        return
    reason = f"bundle: none of the charter's {len(trust.charter.author_keys)} author keys signed it"
    raise SignatureError(reason)
