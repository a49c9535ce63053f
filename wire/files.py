"""Small files that matter: secrets that only their owner reads, and files replaced whole or not.

Refuses to overwrite a secret and to read one that others can read.  What these functions wrote is
on the disk when they return (fsync of file and directory).
"""

import os
import stat
import tempfile
from pathlib import Path

from wire.errors import SettingsError

PUBLIC_MODE = 0o644
SECRET_MODE = 0o600


def create_secret(path: Path, data: bytes) -> None:
    """Write a new file that is the owner's alone from the moment it exists.

    Raises:
      FileExistsError: a secret is never overwritten.
      SettingsError: it can not be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        sync_directory(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise _not_written(path, error) from None


def replace_file(path: Path, data: bytes, mode: int = PUBLIC_MODE) -> None:
    """Write a file so that a reader, or a power cut, sees the old one or the new one, whole.

    Raises:
      SettingsError: it can not be written; the old one is untouched.
    """
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise _not_written(path, error) from None


def read_small(path: Path, cap: int, what: str) -> bytes:
    """Read at most `cap` bytes; more, or a file that can not be read, is `SettingsError`."""
    try:
        with path.open("rb") as file:
            data = file.read(cap + 1)
    except OSError as error:
        reason = f"can not read {what}: {error.strerror}"
        raise SettingsError(str(path), None, None, reason) from None
    if len(data) > cap:
        reason = f"not {what}: larger than {cap} bytes"
        raise SettingsError(str(path), None, None, reason)
    return data


def read_secret_file(path: Path, cap: int, what: str) -> bytes:
    """Read a file of at most `cap` bytes that nobody but its owner can touch.

    Raises:
      SettingsError: missing, too large, or open to others.
    """
    data = read_small(path, cap, what)
    check_secret(path, what)
    return data


def is_open_to_others(path: Path) -> bool:
    """Whether anybody but its owner can touch a file.

    From systemd 254 on the copies that LoadCredential makes show group read, the mask of their
    access list (systemd issue 29096); the folder lets nobody in but the service's user.

    Raises:
      OSError: it is not there.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")
    is_credential = bool(credentials) and path.parent == Path(credentials)
    refused = 0o037 if is_credential else 0o077
    return bool(stat.S_IMODE(path.stat().st_mode) & refused)


def check_secret(path: Path, what: str) -> None:
    """Raise `SettingsError` when anybody but its owner can touch the file."""
    if is_open_to_others(path):
        reason = f"others can read {what}; run: chmod 600 {path}"
        raise SettingsError(str(path), None, None, reason)


def sync_directory(directory: Path) -> None:
    """Make a new name in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_written(path: Path, error: OSError) -> SettingsError:
    return SettingsError(str(path), None, None, f"can not write: {error.strerror}")
