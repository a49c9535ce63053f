"""Where the status files are written: in memory where systemd gives a place, else in the state.

Twice a second a file is replaced: in a state directory on a card that is work without end.  With
`RuntimeDirectory=` in its unit the agent has a folder in /run, and the state directory holds links
to the files there, so whoever reads them finds them where they always were.  As the agent ends it
leaves them in the state directory, because systemd removes the folder.
"""

import os
from pathlib import Path

from agent.status import replace_file

VARIABLE = "RUNTIME_DIRECTORY"


def runtime_directory() -> Path | None:
    """The folder that systemd gives (systemd.exec(5)), or None."""
    first = os.environ.get(VARIABLE, "").partition(":")[0]
    return Path(first) if first and Path(first).is_dir() else None


class StatusFiles:
    """Writes them.

    Args:
      state: where they are looked for.
      runtime: where they are, or None: there, too.
    """

    def __init__(self, state: Path, runtime: Path | None) -> None:
        self._state, self._runtime = state, runtime

    def write(self, name: str, data: bytes) -> None:
        """Replace one, whole.

        Raises:
          OSError: it can not be written; the old one stays.
        """
        if self._runtime is None:
            replace_file(self._state / name, data)
            return
        replace_file(self._runtime / name, data)
        link, target = self._state / name, self._runtime / name
        if not link.is_symlink() or link.readlink() != target:
            temporary = link.with_name(f".{name}.new")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target)
            temporary.replace(link)

    def leave(self, name: str, data: bytes) -> None:
        """Write one for the time after this process.

        Raises:
          OSError: it can not be written; the old one stays.
        """
        replace_file(self._state / name, data)
