"""`journeyman-coordinator schema`: the JSON Schema of the coordinator's configuration, for editors.

`journeyman-coordinator schema > configs/schema/coordinator.schema.json` writes the file of this
repository.
"""

import argparse
import sys
from typing import Final

from coordinator.config import CoordinatorSettings
from wire.settings_schema import schema_text, settings_schema

TITLE: Final = "Configuration of journeyman-coordinator (coordinator.toml)"


def add_schema(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the coordinator's parser."""
    schema = commands.add_parser(
        "schema",
        help="print the JSON Schema of the configuration file, for editors",
        description="Prints the JSON Schema of coordinator.toml: an editor that knows it completes "
        "keys, explains them and marks mistakes. Write it to a file, and name the file in the "
        "first line of coordinator.toml: #:schema ./coordinator.schema.json",
    )
    schema.set_defaults(command=_print)


def coordinator_schema() -> str:
    """The text of `configs/schema/coordinator.schema.json`."""
    return schema_text(settings_schema(CoordinatorSettings, TITLE))


def _print(_: argparse.Namespace) -> None:
    sys.stdout.write(coordinator_schema())
