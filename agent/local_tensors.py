"""The tensors of the model that this site keeps for itself, on the disk.

Responsible for the file `local.tensors` in the agent's state directory: 8 bytes of `_MAGIC`, the
SHA-256 of the rest, the bundle's SHA-256, and a safetensors file of the local tensors.  It is
replaced as a whole after each training.  A site trains its own head on top of shared layers, as in
FedPer (Arivazhagan et al., arXiv:1912.00818, section 3).

Refuses a file that is too large, damaged, of another bundle or of other tensors: the site begins
again from the bundle's own weights, with a log line.  Nothing is lost but what it had learned for
itself, and it learns that again.  While the disk takes nothing the tensors are held in memory.
"""

import hashlib
import logging
from pathlib import Path

import numpy as np

from agent.learning.checkpoint import CheckpointError, read_capped, write_durably
from agent.model import local_of
from wire.errors import MalformedError, WireError
from wire.manifest import Manifest
from wire.tensors import Params, read_params, write_params

logger = logging.getLogger(__name__)

LARGEST_FILE = 32 << 20
"""Bytes; all tensors of a graph have 16 MiB at most (`agent/learning/limits.py`)."""
_MAGIC = b"JMLOCAL\n"
_DIGEST = hashlib.sha256().digest_size
_HEADER = len(_MAGIC) + 2 * _DIGEST


class LocalTensors:
    """Owner of the file.

    Args:
      directory: the agent's state directory, locked by this process; None keeps them in memory.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._path = directory / "local.tensors" if directory is not None else None
        self._held: tuple[bytes, Params] | None = None
        self.problem = ""
        """What is wrong with the disk, since the last write; empty when nothing is."""

    def load(self, bundle: bytes, manifest: Manifest, initial: Params) -> Params:
        """Return this site's local tensors for a bundle.

        Args:
          bundle: SHA-256 of the bundle.
          manifest: the bundle's.
          initial: the bundle's own weights, from which a site begins.

        Returns:
          The local tensors alone, in the manifest's order; none when the manifest has none.
        """
        first = local_of(manifest, initial)
        if not first:
            return first
        if self._held is None or self._held[0] != bundle:
            self._held = (bundle, self._read(bundle, first))
        return self._held[1]

    def keep(self, bundle: bytes, manifest: Manifest, params: Params) -> None:
        """Keep what a training made of the local tensors; durable unless `problem` says why not.

        Args:
          bundle: SHA-256 of the bundle that was trained.
          manifest: the bundle's.
          params: the model's tensors, of which the local ones are kept.
        """
        local = local_of(manifest, params)
        if not local:
            return
        if not all(np.isfinite(value).all() for value in local.values()):
            logger.warning("local tensors that are not finite are not kept")
            return
        self._held = (bundle, local)
        if self._path is None:
            return
        body = bundle + write_params(local)
        try:
            write_durably(self._path, _MAGIC + hashlib.sha256(body).digest() + body)
        except OSError as error:
            if not self.problem:
                logger.warning("the local tensors are held in memory only: %s", error)
            self.problem = f"{self._path.name}: {error.strerror}"
        else:
            self.problem = ""

    def _read(self, bundle: bytes, first: Params) -> Params:
        """What the file holds for this bundle, else `first`."""
        if self._path is None:
            return first
        try:
            return _decoded(read_capped(self._path, LARGEST_FILE), bundle, first)
        except FileNotFoundError:
            return first
        except (OSError, CheckpointError, WireError) as error:
            logger.warning("local tensors begin from the bundle's weights: %s", error)
            return first


def _decoded(data: bytes, bundle: bytes, like: Params) -> Params:
    """The tensors in a file's bytes, of the names and shapes of `like`.

    Raises:
      MalformedError: damaged, of another bundle, or other tensors.
    """
    body = data[len(_MAGIC) + _DIGEST :]
    checksum = hashlib.sha256(body).digest()
    if len(data) < _HEADER or data[: len(data) - len(body)] != _MAGIC + checksum:
        raise MalformedError("the file was cut or changed: its SHA-256 differs")
    if body[:_DIGEST] != bundle:
        raise MalformedError(f"the file is of another bundle, {body[:_DIGEST].hex()}")
    return read_params(body[_DIGEST:], [(name, value.shape) for name, value in like.items()])
