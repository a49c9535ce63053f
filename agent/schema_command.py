"""`journeyman-agent schema`: the JSON Schema of the agent's configuration, for editors.

`journeyman-agent schema > configs/schema/agent.schema.json` writes the file of this repository.
"""

import argparse
import sys
from typing import Final

from agent.config import AgentSettings
from wire.settings_schema import schema_text, settings_schema

TITLE: Final = "Configuration of journeyman-agent (agent.toml)"


def add_schema(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the agent's parser."""
    schema = commands.add_parser(
        "schema",
        help="print the JSON Schema of the configuration file, for editors",
        description="Prints the JSON Schema of agent.toml: an editor that knows it completes keys, "
        "explains them and marks mistakes. Write it to a file, and name the file in the first line "
        "of agent.toml: #:schema ./agent.schema.json",
    )
    schema.set_defaults(command=_print)


def agent_schema() -> str:
    """The text of `configs/schema/agent.schema.json`."""
    return schema_text(settings_schema(AgentSettings, TITLE))


def _print(_: argparse.Namespace) -> int:
    sys.stdout.write(agent_schema())
    return 0
