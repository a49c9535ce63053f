"""A helper's two keys, their files, and whether a charter names them.

    NAME.signing.key   Ed25519 (RFC 8032): signs the helper's verdicts and manifests
    NAME.sealing.key   X25519 (RFC 7748): opens what agents seal for this helper
    NAME.public        both public halves, for `journeyman keys federation --helper`

A private key file holds one line, a prefix that says which kind it is and 64 hexadecimal digits,
mode 0600.  It is never overwritten, and one that others can read is refused.  A helper whose store
was lost makes new keys: a key that comes back would let old masks be released twice.
"""

from dataclasses import dataclass
from pathlib import Path

from wire.errors import SettingsError
from wire.keys import write_helper
from wire.messages import Charter, HelperKeys
from wire.sealing_keys import SealingKey, read_sealing_key, write_sealing_key
from wire.signing import PrivateKey, read_private_key, write_private_key
from wire.topics import check_name


@dataclass(frozen=True)
class OwnKeys:
    """Both private keys of this helper, and their public halves with its name."""

    signing: PrivateKey
    sealing: SealingKey
    public: HelperKeys


def make_helper(directory: Path, name: str) -> HelperKeys:
    """Make both keys of a helper and its public file.

    Raises:
      MalformedError: the name is not a legal one.
      SettingsError: one of the files exists; then none is written.
    """
    check_name(name, "helper")
    directory.mkdir(parents=True, exist_ok=True)
    signing_file, sealing_file, public_file = _files(directory, name)
    for path in (signing_file, sealing_file, public_file):
        if path.exists():
            raise SettingsError(str(path), None, None, "this exists; keys are never overwritten")
    signing, sealing = PrivateKey.generate(), SealingKey.generate()
    write_private_key(signing_file, signing)
    write_sealing_key(sealing_file, sealing)
    keys = HelperKeys(name=name, signing=signing.public.raw, sealing=sealing.public)
    write_helper(public_file, keys)
    return keys


def own_keys(directory: Path) -> HelperKeys:
    """Public halves of the private keys in a directory that holds one helper's.

    Raises:
      SettingsError: none or several helpers' keys are there, or a file is not what it should be.
    """
    found = sorted(directory.glob("*.signing.key"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        reason = f"expected the keys of one helper, NAME.signing.key; found {names}"
        raise SettingsError(str(directory), None, None, reason)
    name = found[0].name.removesuffix(".signing.key")
    signing_file, sealing_file, _ = _files(directory, name)
    return read_keys(name, signing_file, sealing_file).public


def read_keys(name: str, signing_file: Path, sealing_file: Path) -> OwnKeys:
    """Read both private keys.

    Raises:
      SettingsError: one is missing, readable by others, or of another kind.
    """
    signing = read_private_key(signing_file)
    hint = "not a helper's sealing key; make one with: journeyman-helper keys NAME --out DIR"
    sealing = read_sealing_key(sealing_file, hint)
    public = HelperKeys(name=name, signing=signing.public.raw, sealing=sealing.public)
    return OwnKeys(signing, sealing, public)


def differences(charter: Charter, keys: HelperKeys) -> list[str]:
    """What keeps this helper from being the one that the charter names; empty when it is."""
    listed = [helper for helper in charter.helpers if helper.name == keys.name]
    if not listed:
        names = ", ".join(helper.name for helper in charter.helpers) or "none"
        return [f"the charter lists no helper {keys.name}; it lists {names}"]
    problems = []
    if len(listed) > 1:
        problems.append(f"the charter lists {keys.name} {len(listed)} times")
    for kind in ("signing", "sealing"):
        theirs, ours = getattr(listed[0], kind), getattr(keys, kind)
        if theirs != ours:
            problems.append(
                f"the charter's {kind} key is {theirs.hex()}, this helper's {ours.hex()}"
            )
    ours_too = {keys.signing, keys.sealing}
    problems += [
        f"{other.name} has a key of this helper: one party would count twice"
        for other in charter.helpers
        if other.name != keys.name and {other.signing, other.sealing} & ours_too
    ]
    return problems


def _files(directory: Path, name: str) -> tuple[Path, Path, Path]:
    return (
        directory / f"{name}.signing.key",
        directory / f"{name}.sealing.key",
        directory / f"{name}.public",
    )
