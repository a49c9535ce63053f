"""What the enrolment authority renewed, in `identity/` of the state directory.

    charter.jm, AGENT.credential, AGENT.crt

The files that the configuration names are somebody else's and may be read-only, so what comes over
the broker is kept here, and of two the newer one counts: a charter by its epoch, a credential by
its serial, a certificate by when it was made (`agent/own_certificate.py`).  So enrolling anew by
hand needs nothing to be deleted here.

What is kept is verified as if it had just come; what does not verify, or belongs to another key, is
ignored and said.
"""

import logging
from dataclasses import replace
from pathlib import Path

from agent.config import Identity
from wire.codec import MAX_BYTES
from wire.errors import MalformedError, SettingsError, WireError
from wire.files import read_small, replace_file
from wire.signing import PublicKey
from wire.trust import Trust, read_charter, read_credential

logger = logging.getLogger(__name__)

_FOLDER = "identity"
_CHARTER = "charter.jm"


def kept_certificate(state: Path, agent: str) -> Path:
    """Where the renewed certificate is, if there is one."""
    return state / _FOLDER / f"{agent}.crt"


def newest_identity(configured: Identity, root: PublicKey, state: Path) -> Identity:
    """Who the agent is by the newer of what is configured and what was renewed.

    Args:
      configured: verified.
      root: pinned.
      state: the agent's state directory.
    """
    folder = state / _FOLDER
    if not (folder / _CHARTER).exists():
        return configured
    try:
        trust = _kept_trust(folder / _CHARTER, configured.trust, root)
        data = read_small(
            folder / f"{configured.agent}.credential", MAX_BYTES["credential"], "a credential"
        )
        return _newer(configured, trust, data)
    except (SettingsError, WireError) as error:
        logger.warning("what was renewed is ignored: %s", error)
        return configured


def _kept_trust(path: Path, configured: Trust, root: PublicKey) -> Trust:
    """The newer charter."""
    kept = read_charter(read_small(path, MAX_BYTES["charter"], "a charter"), root)
    if kept.federation != configured.federation:
        raise MalformedError(f"{path} governs {kept.federation}, not {configured.federation}")
    return kept if kept.charter.epoch > configured.charter.epoch else configured


def _newer(configured: Identity, trust: Trust, data: bytes) -> Identity:
    kept = read_credential(data, trust)
    if (kept.agent, kept.public_key) != (configured.agent, configured.credential.public_key):
        raise MalformedError(f"its credential is for {kept.agent}, or for another key of it")
    if kept.serial >= configured.credential.serial:
        return replace(configured, trust=trust, credential=kept, credential_envelope=data)
    own = read_credential(configured.credential_envelope, trust)
    return replace(configured, trust=trust, credential=own)


def keep(state: Path, agent: str, charter: bytes, credential: bytes) -> None:
    """Make charter and credential durable; `SettingsError` when the disk does not take them."""
    folder = state / _FOLDER
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SettingsError(str(folder), None, None, f"can not make: {error.strerror}") from None
    replace_file(folder / f"{agent}.credential", credential)
    replace_file(folder / _CHARTER, charter)
