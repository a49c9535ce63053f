"""Less of asyncua in memory: a client without the server, and node ids in a compact table.

`import asyncua` loads a server and a publisher that most gateways never start, and two tables of
all node ids of the standard: some 9 of its 16 MB.  After `slim_down`

  - `asyncua.Server`, and the package `asyncua.server`, are imported when somebody asks for them;
  - `asyncua.ua.ObjectIds` and `ObjectIdNames` look their entries up in `compact_ids`.

Both change how modules are loaded, not what they say, so everything works as before, only later or
smaller.  Where asyncua is not built as this module knows it, or has been imported already, it is
left alone: a new version costs memory, never a connection.
"""

import ast
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

from agent.sensors.opcua.compact_ids import CompactIds, NotATableError, read_compact_ids

_PACKAGE: Final = "asyncua"
_SERVER: Final = "server"
_OBJECT_IDS: Final = "asyncua.ua.object_ids"

logger = logging.getLogger(__name__)


def slim_down() -> None:
    """Load what is imported of asyncua from now on the smaller way; once is enough."""
    if _PACKAGE not in sys.modules and not any(isinstance(at, _Finder) for at in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the same files as Python does, and loads two of them another way."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Python's own answer with another loader, or None for all other modules."""
        if fullname not in (_PACKAGE, _OBJECT_IDS):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            return None
        if fullname == _PACKAGE:
            spec.loader = _WithoutServer(spec.loader.name, spec.loader.path)
        else:
            spec.loader = _CompactObjectIds(spec.loader)
        return spec


class _WithoutServer(SourceFileLoader):
    """Runs asyncua's `__init__.py` without its line `from .server import ...`."""

    def get_code(self, fullname: str) -> CodeType | None:
        """The module's code, without that line if it has it."""
        self._put_off: frozenset[str] = frozenset()
        source = self.get_data(self.path)
        tree = ast.parse(source, self.path)
        kept = [line for line in tree.body if not _imports_server(line)]
        if len(kept) == len(tree.body):
            return super().get_code(fullname)
        self._put_off = frozenset(
            alias.name
            for line in tree.body
            if isinstance(line, ast.ImportFrom) and _imports_server(line)
            for alias in line.names
        )
        tree.body = kept
        return compile(tree, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        """Run it, and answer for the names of that line when they are asked for."""
        package, server = module.__name__, f"{module.__name__}.{_SERVER}"

        def later(name: str) -> object:
            if name != _SERVER and name not in self._put_off:
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            found = import_module(server)
            value: object = found if name == _SERVER else getattr(found, name)
            setattr(module, name, value)
            return value

        module.__dict__["__getattr__"] = later
        super().exec_module(module)


def _imports_server(line: ast.stmt) -> bool:
    """Whether a line is `from .server import A, B`, without `as` and `*`."""
    return (
        isinstance(line, ast.ImportFrom)
        and (line.module, line.level) == (_SERVER, 1)
        and all(alias.asname is None and alias.name != "*" for alias in line.names)
    )


class _CompactObjectIds(Loader):
    """Makes `asyncua.ua.object_ids` out of a compact table of its source."""

    def __init__(self, plain: SourceFileLoader) -> None:
        self._plain = plain

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module; run it as it is where its source is no such table."""
        try:
            table = read_compact_ids(Path(self._plain.path))
        except (NotATableError, OSError) as reason:
            logger.info("asyncua's node ids are loaded as they are: %s", reason)
            self._plain.exec_module(module)
            return
        module.__dict__["ObjectIds"] = _object_ids(table)
        module.__dict__["ObjectIdNames"] = table


def _object_ids(table: CompactIds) -> type:
    """A class that has the table's names as attributes."""

    class OfTheTable(type):
        def __getattr__(cls, name: str) -> int:
            number = table.number_of(name)
            if number is None:
                raise AttributeError(f"type object 'ObjectIds' has no attribute {name!r}")
            setattr(cls, name, number)  # looking up takes some 60 us
            return number

        def __dir__(cls) -> list[str]:
            return [*super().__dir__(), *table.names()]

    return OfTheTable("ObjectIds", (), {"__module__": _OBJECT_IDS})
