"""Whom the agent trusts and who it is by the newest it has seen, in `identity/` of its state.

    charter.jm, AGENT.credential, AGENT.crt

The files that the configuration names are somebody else's and may be read-only, so what comes over
the broker is kept here, and of two the newer one counts: a charter by its epoch
(`wire/charters.py`), a credential by its serial, a certificate by when it was made
(`agent/own_certificate.py`).  So enrolling anew by hand needs nothing to be deleted here.

What is kept is verified as if it had just come; what does not verify, or belongs to another key, is
ignored and said.  An agent whose own credential a newer charter does not count goes on as it is:
scoring needs no credential, and its next one may be on its way.
"""

import logging
from dataclasses import replace
from pathlib import Path

from agent.config import Identity
from wire.charters import newest_trust
from wire.codec import MAX_BYTES
from wire.errors import MalformedError, SettingsError, WireError
from wire.files import read_small, replace_file
from wire.signing import PublicKey
from wire.trust import read_credential

logger = logging.getLogger(__name__)

_FOLDER = "identity"
_CHARTER = "charter.jm"


def kept_certificate(state: Path, agent: str) -> Path:
    """Where the renewed certificate is, if there is one."""
    return state / _FOLDER / f"{agent}.crt"


def kept_charter(state: Path) -> Path:
    """Where the newest charter is, if one was kept."""
    return state / _FOLDER / _CHARTER


def newest_identity(configured: Identity, root: PublicKey, state: Path) -> Identity:
    """Who the agent is by the newer of what is configured and what was renewed.

    Args:
      configured: verified.
      root: pinned.
      state: the agent's state directory.
    """
    trust = newest_trust(kept_charter(state), root, configured.trust)
    newest = replace(configured, trust=trust)
    path = state / _FOLDER / f"{configured.agent}.credential"
    if not path.exists():
        return newest
    try:
        data = read_small(path, MAX_BYTES["credential"], "a credential")
        kept = read_credential(data, trust)
        if (kept.agent, kept.public_key) != (configured.agent, configured.credential.public_key):
            raise MalformedError(f"it is for {kept.agent}, or for another key of it")
    except (SettingsError, WireError) as error:
        logger.warning("the kept credential is ignored: %s", error)
        return newest
    if kept.serial < configured.credential.serial:
        return newest
    return replace(newest, credential=kept, credential_envelope=data)


def uncounted(identity: Identity) -> str:
    """Why the charter does not count the agent's own credential; empty when it does."""
    try:
        read_credential(identity.credential_envelope, identity.trust)
    except WireError as error:
        return str(error)
    return ""


def keep(state: Path, agent: str, charter: bytes, credential: bytes) -> None:
    """Make charter and credential durable; `SettingsError` when the disk does not take them."""
    folder = state / _FOLDER
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SettingsError(str(folder), None, None, f"can not make: {error.strerror}") from None
    replace_file(folder / f"{agent}.credential", credential)
    replace_file(folder / _CHARTER, charter)
