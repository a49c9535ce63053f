"""The model bundle: one signed file that holds a model as data.

File format: an envelope of kind `bundle` (`wire/codec.py`) signed by one of the charter's authors,
whose body is the MessagePack map {manifest, files}.  `files` are `model.onnx` (the forward graph),
`weights.safetensors` (initial weights) and `golden.safetensors` (input, output, loss, gradient
norms); the manifest names each by SHA-256.  Nothing is compressed, so nothing can blow up, and
there are no paths, so nothing can escape.  No code travels: the agent derives the training graph.

A draft is the same file with signer `draft` and a signature of zeros.  `read_bundle`, which agents
and coordinators use, refuses it; `read_draft` is for the author's own tools alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec

from wire.chunks import sha256
from wire.codec import MAX_BYTES, open_envelope, parse_body, seal_bytes
from wire.errors import BundleError, TooLargeError
from wire.manifest import (
    Channel,
    Difference,
    Feature,
    Label,
    Level,
    Manifest,
    Product,
    Tensor,
    check_manifest,
)
from wire.messages import PROTOCOL_VERSION, Message
from wire.signing import PrivateKey
from wire.tensors import Params, read_params
from wire.trust import AUTHOR, Trust, verify_author

__all__ = [
    "DRAFT",
    "GOLDEN",
    "MODEL",
    "WEIGHTS",
    "Bundle",
    "Channel",
    "Difference",
    "Feature",
    "Label",
    "Level",
    "Manifest",
    "OnCheck",
    "Product",
    "Tensor",
    "read_bundle",
    "read_draft",
    "write_bundle",
    "write_draft",
]

MODEL = "model.onnx"
WEIGHTS = "weights.safetensors"
GOLDEN = "golden.safetensors"
DRAFT = "draft"
"""Signer of a bundle that nobody has signed."""
_NO_SIGNATURE = bytes(64)

OnCheck = Callable[[str], None]
"""Called with the words for each check that a bundle has passed."""


class _Body(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    manifest: Manifest
    files: Annotated[dict[str, bytes], msgspec.Meta(max_length=8)]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose parts agree; verified when `read_bundle` returned it."""

    manifest: Manifest
    files: dict[str, bytes]

    @property
    def weights(self) -> Params:
        """Initial weights."""
        return read_params(self.files[WEIGHTS], self.manifest.shapes)


def write_bundle(
    manifest: Manifest, files: dict[str, bytes], federation: str, author: PrivateKey
) -> bytes:
    """Sign manifest and files; the manifest's `files` are filled in here."""
    body = _encoded(manifest, files)
    return seal_bytes(
        "bundle", body, federation=federation, signer=AUTHOR, counter=manifest.revision, key=author
    )


def write_draft(manifest: Manifest, files: dict[str, bytes]) -> bytes:
    """Encode manifest and files without a signature; agents and coordinators refuse it.

    Raises:
      TooLargeError: over the cap of a bundle.
    """
    body = _encoded(manifest, files)
    data = msgspec.msgpack.encode(
        [PROTOCOL_VERSION, "bundle", DRAFT, manifest.revision, body, _NO_SIGNATURE]
    )
    if len(data) > MAX_BYTES["bundle"]:
        raise TooLargeError(f"bundle of {len(data)} bytes exceeds {MAX_BYTES['bundle']} bytes")
    return data


def nothing(words: str) -> None:
    """Do nothing after a check."""


def read_bundle(data: bytes, trust: Trust, on_check: OnCheck = nothing) -> Bundle:
    """Verify signature, hashes and the manifest's own logic.

    The graph is NOT read here: the agent validates it before it derives anything from it.

    Raises:
      WireError: with what is wrong.
    """
    opened = open_envelope(data, "bundle")
    if opened.signer == DRAFT:
        raise BundleError("this bundle is an unsigned draft; sign it: journeyman bundle sign")
    verify_author(opened, trust)
    on_check(f"signature of an author of {trust.federation}")
    bundle = _agreed(parse_body(opened, _Body), on_check)
    if bundle.manifest.agreement != trust.charter.agreement:
        raise BundleError(
            f"bundle {bundle.manifest.name}: made under another agreement than the charter's"
        )
    on_check("agreement is the charter's")
    return bundle


def read_draft(data: bytes, on_check: OnCheck = nothing) -> tuple[Bundle, bool]:
    """Read a bundle or a draft WITHOUT verifying any signature.

    For the author's own tools, which show and test what lies on their own disk.

    Returns:
      The bundle, and whether it claims to be signed.

    Raises:
      WireError: its parts do not agree with each other.
    """
    opened = open_envelope(data, "bundle")
    return _agreed(parse_body(opened, _Body), on_check), opened.signer != DRAFT


def _encoded(manifest: Manifest, files: dict[str, bytes]) -> bytes:
    named = msgspec.structs.replace(
        manifest, files={name: sha256(data) for name, data in files.items()}
    )
    return msgspec.msgpack.encode(_Body(manifest=named, files=files))


def _agreed(body: _Body, on_check: OnCheck) -> Bundle:
    """Check that the parts of a body agree with each other."""
    manifest = body.manifest
    if set(body.files) != {MODEL, WEIGHTS, GOLDEN}:
        found = str(sorted(body.files))[:300]
        reason = f"bundle {manifest.name}: files {found} are not the three expected"
        raise BundleError(reason)
    if {name: sha256(data) for name, data in body.files.items()} != manifest.files:
        reason = f"bundle {manifest.name}: a file does not have the manifest's SHA-256"
        raise BundleError(reason)
    on_check("every file has the manifest's SHA-256")
    check_manifest(manifest)
    on_check("channels, features, label and recipe agree")
    read_params(body.files[WEIGHTS], manifest.shapes)
    on_check("weights are the manifest's tensors")
    return Bundle(manifest, body.files)
