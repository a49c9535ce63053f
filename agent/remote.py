"""Settings that the coordinator may change, where the site lets it, and how they come into force.

The agent's own file is never written.  What was ordered is `remote.toml` in the state directory:
keys that take the place of the file's, from a fixed list that has no path, address, command or
name in it.  New ones are on trial in `remote-trial.toml` first; a trial that the process does not
survive is over at its next start.

Invariant: both files were checked before they were written, and are replaced whole.
"""

import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from agent.config import AgentSettings, problems
from wire.errors import SettingsError
from wire.files import read_small, replace_file, sync_directory
from wire.messages import MAX_TABLES

IN_FORCE = "remote.toml"
ON_TRIAL = "remote-trial.toml"

CONFIGURABLE = {
    "training": ("pause_s", "memory_bytes", "idle_s", "budget"),
    "history": ("capacity_rows", "capacity_bytes"),
    "outbox": ("quota_bytes", "chunk_bytes"),
    "personal": ("rest_s", "min_rows", "min_judges"),
}
"""What may be changed: nothing that says what is read, who is believed, or where anything goes."""

_MAX_BYTES = 4 * MAX_TABLES + 100
_HEADER = "# order "
Which = Literal["in force", "on trial"]


class RemoteTables:
    """Owner of the two files.

    Args:
      state: the agent's state directory, locked by this process.
    """

    def __init__(self, state: Path) -> None:
        self._in_force, self._on_trial = state / IN_FORCE, state / ON_TRIAL

    def over(self, settings: AgentSettings, which: Which = "in force") -> AgentSettings:
        """The file's settings with these keys in their place.

        Raises:
          SettingsError: they do not go together with the file, or can not be read.
        """
        path = self._on_trial if which == "on trial" else self._in_force
        if not path.exists():
            return settings
        tables = read_small(path, _MAX_BYTES, "settings").decode(errors="replace")
        return overlaid(settings, tables, str(path))

    @property
    def order(self) -> int:
        """Number of the order that is in force; 0 when there is none."""
        if not self._in_force.exists():
            return 0
        first = read_small(self._in_force, _MAX_BYTES, "settings").partition(b"\n")[0]
        number = first.removeprefix(_HEADER.encode())
        return int(number) if number.isdigit() and len(number) < 20 else 0

    def begin(self, order: int, tables: str) -> None:
        """Write down what is on trial, before it is applied.

        Raises:
          SettingsError: the disk does not take it.
        """
        replace_file(self._on_trial, f"{_HEADER}{order}\n{tables}".encode())

    def keep(self) -> None:
        """What was on trial is in force."""
        self._on_trial.replace(self._in_force)
        sync_directory(self._in_force.parent)

    def end(self) -> None:
        """Go back: nothing is on trial any more.

        On a disk that can only be read the file stays, and counts for nothing: only `over` with
        "on trial" reads it, and `begin` replaces it.
        """
        if self._on_trial.exists():
            with suppress(OSError):
                self._on_trial.unlink()
                sync_directory(self._on_trial.parent)


def overlaid(settings: AgentSettings, tables: str, file: str) -> AgentSettings:
    """Settings in which some keys have other values.

    Args:
      settings: what the agent's file says.
      tables: TOML.
      file: what errors call it.

    Raises:
      SettingsError: not TOML, a key that may not be changed, or a value that can not be.
    """
    try:
        tree = tomllib.loads(tables)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(file, None, None, str(error)) from None
    replaced: dict[str, Any] = {}
    for name, keys in tree.items():
        _check_keys(file, name, keys)
        held = getattr(settings, name)
        whole = _merged(msgspec.to_builtins(held), keys)
        try:
            replaced[name] = msgspec.convert(whole, type(held))
        except msgspec.ValidationError as error:
            raise SettingsError(file, None, name, str(error)) from None
    found = msgspec.structs.replace(settings, **replaced)
    for key, reason in problems(found):
        raise SettingsError(file, None, key, reason)
    return found


def _check_keys(file: str, name: str, keys: object) -> None:
    """Refuse what is not in `CONFIGURABLE`."""
    given = list(keys) if isinstance(keys, dict) else [""]
    for key in given:
        if key not in CONFIGURABLE.get(name, ()):
            can = ", ".join(f"[{table}] {' '.join(found)}" for table, found in CONFIGURABLE.items())
            reason = f"the coordinator can not change this; it can: {can}"
            raise SettingsError(file, None, f"{name}.{key}".rstrip("."), reason)


def _merged(held: dict[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    """`held` with `keys` in their place; a table within keeps what is not named."""
    both = dict(held)
    for key, value in keys.items():
        inner = both.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            both[key] = _merged(inner, value)
        else:
            both[key] = value
    return both
