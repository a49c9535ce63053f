"""The fault shim from Python: compile it, put it under a process, change the faults while it runs.

`shim.c` says what the shim sees and what it does not.  Only Linux with glibc.  The shim ends a
process whose settings it cannot use, so a test never passes because a fault was not injected.
"""

import errno
import hashlib
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

_SOURCE = Path(__file__).with_name("shim.c")
_FLAGS = (
    "-std=c11",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-O2",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
)

_CONTROL_BYTES = 64
_OFFSET = struct.Struct("=q")  # at 0: wall clock, nanoseconds ahead of the true one
_ERRNO = struct.Struct("=i")  # at 8
_FAILED = struct.Struct("=Q")  # at 16


class ShimError(RuntimeError):
    """The shim cannot be compiled here; says why."""


def build(directory: Path) -> Path:
    """Compile the shim into a directory, once per version of its source.

    Returns:
      The library, for `environment`.

    Raises:
      ShimError: there is no C compiler, or it refuses the source.
    """
    source = _SOURCE.read_bytes()
    library = directory / f"faults-{hashlib.sha256(source).hexdigest()[:16]}.so"
    if library.exists():
        return library
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise ShimError("no C compiler (cc, gcc) in PATH; on Debian: apt install gcc libc6-dev")
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        made = Path(scratch) / library.name
        done = subprocess.run(
            [compiler, *_FLAGS, "-o", str(made), str(_SOURCE), "-ldl"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ShimError(f"{compiler} refuses {_SOURCE}:\n{done.stderr}")
        made.replace(library)  # whole, also when two processes build it at once
    return library


class Control:
    """The faults of the processes that run with this control file; they change at once.

    Args:
      path: a file made by `create`; any number of processes may share it.

    Raises:
      OSError: there is none.
      ValueError: it is shorter than 64 bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _CONTROL_BYTES)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make or reset the file: no faults."""
        path.write_bytes(bytes(_CONTROL_BYTES))
        return cls(path)

    def jump(self, offset_s: float) -> None:
        """Show a wall clock that is so many seconds ahead of the true one; 0: the true one.

        CLOCK_MONOTONIC stays as it is: it never jumps on a real machine either.
        """
        _OFFSET.pack_into(self._memory, 0, round(offset_s * 1e9))

    def fail(self, error: int) -> None:
        """Let every write below the directory fail: `errno.ENOSPC`, `EROFS`, `EIO`.

        Write, growth, new files, rename and fsync fail. With `EROFS` and `EIO` also deleting and
        shrinking; with `EROFS` also opening an existing file for writing.
        """
        if error <= 0 or error not in errno.errorcode:
            raise ValueError(f"{error} is no errno; `heal` ends the fault")
        _ERRNO.pack_into(self._memory, 8, error)

    def heal(self) -> None:
        """Let writes succeed again; the clock stays as it is."""
        _ERRNO.pack_into(self._memory, 8, 0)

    @property
    def failed(self) -> int:
        """How many operations failed because of this file so far."""
        return int(_FAILED.unpack_from(self._memory, 16)[0])

    def close(self) -> None:
        """Let go of the file; processes that run with it keep its last state."""
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def environment(
    shim: Path, control: Control | None, directory: Path, log: Path | None = None
) -> dict[str, str]:
    """Variables to add to a process's environment; the processes that it starts inherit them.

    Args:
      shim: the library, from `build`.
      control: the faults; None when only the log is wanted.
      directory: files at any depth below it are looked at; must exist.
      log: where to append every change of those files; not below `directory`.
    """
    preload = os.environ.get("LD_PRELOAD")
    variables = {
        "LD_PRELOAD": f"{shim.resolve()}:{preload}" if preload else str(shim.resolve()),
        "JM_FAULTS_DIR": str(directory.resolve()),
    }
    if control is not None:
        variables["JM_FAULTS"] = str(control.path.resolve())
    if log is not None:
        variables["JM_FAULTS_LOG"] = str(log.resolve())
    return variables
