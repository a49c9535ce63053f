"""`journeyman-helper schema`: the JSON Schema of the helper's configuration, for editors.

`journeyman-helper schema > configs/schema/helper.schema.json` writes the file of this repository.
"""

import argparse
import sys
from typing import Final

from coordinator.helper.config import HelperSettings
from wire.settings_schema import schema_text, settings_schema

TITLE: Final = "Configuration of journeyman-helper (helper.toml)"


def add_schema(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the helper's parser."""
    schema = commands.add_parser(
        "schema",
        help="print the JSON Schema of the configuration file, for editors",
        description="Prints the JSON Schema of helper.toml: an editor that knows it completes "
        "keys, explains them and marks mistakes. Write it to a file, and name the file in the "
        "first line of helper.toml: #:schema ./helper.schema.json",
    )
    schema.set_defaults(command=_print)


def helper_schema() -> str:
    """The text of `configs/schema/helper.schema.json`."""
    return schema_text(settings_schema(HelperSettings, TITLE))


def _print(_: argparse.Namespace) -> int:
    sys.stdout.write(helper_schema())
    return 0
