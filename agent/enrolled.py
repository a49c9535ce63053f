"""Who this gateway is, read without its private key.

For commands at a terminal: the key is root's alone, or only in systemd's memory.
"""

from pathlib import Path

from agent.config import TrustTable
from wire.codec import MAX_BYTES
from wire.errors import WireError
from wire.files import read_small
from wire.messages import Credential
from wire.settings import resolve, settings_error
from wire.signing import parse_public_key
from wire.trust import Trust, read_charter, read_credential


def read_enrolled(config: Path, table: TrustTable) -> tuple[Trust, Credential]:
    """Read and verify charter and credential.

    Raises:
      SettingsError: names file, line and key; of the file that can not be read, the file itself.
    """
    cap = max(MAX_BYTES["charter"], MAX_BYTES["credential"])
    where = "root"
    try:
        root = parse_public_key(table.root)
        where = "charter"
        trust = read_charter(read_small(resolve(config, table.charter), cap, "a charter"), root)
        where = "credential"
        data = read_small(resolve(config, table.credential), cap, "a credential")
        return trust, read_credential(data, trust)
    except (ValueError, WireError) as error:
        raise settings_error(config, f"trust.{where}", str(error)) from None


def agent_id(config: Path, table: TrustTable) -> str:
    """The agent's id, which its OPC UA certificate holds.

    Raises:
      SettingsError: it is not enrolled yet, or a file is wrong.
    """
    return read_enrolled(config, table)[1].agent
