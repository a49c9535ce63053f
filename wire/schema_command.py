"""`journeyman-agent schema` and the like: a JSON Schema of the configuration file, for editors.

`journeyman-agent schema > configs/schema/agent.schema.json` writes the file of this repository.
"""

import argparse
import sys

from wire.settings import Settings
from wire.settings_schema import schema_text, settings_schema


def add_schema(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    program: str,
    settings: type[Settings],
) -> None:
    """Add the command to a program's parser.

    Args:
      commands: of the parser.
      program: as in `journeyman-PROGRAM` and PROGRAM.toml.
      settings: struct of the whole file.
    """
    schema = commands.add_parser(
        "schema",
        help="print the JSON Schema of the configuration file, for editors",
        description=f"Prints the JSON Schema of {program}.toml: an editor that knows it completes "
        "keys, explains them and marks mistakes. Write it to a file, and name the file in the "
        f"first line of {program}.toml: #:schema ./{program}.schema.json",
    )

    def write(_: argparse.Namespace) -> int:
        sys.stdout.write(program_schema(program, settings))
        return 0

    schema.set_defaults(command=write)


def program_schema(program: str, settings: type[Settings]) -> str:
    """The text of `configs/schema/PROGRAM.schema.json`."""
    title = f"Configuration of journeyman-{program} ({program}.toml)"
    return schema_text(settings_schema(settings, title))
