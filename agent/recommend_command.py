"""`journeyman recommend`: which set-points a learned surrogate would choose, for people.

Exit status: 0 a proposal, 1 there is none (the reason is printed), 2 a file, key or option is
wrong.  Writes to no machine, whatever its options: it has no connection to one.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wire.errors import SettingsError

if TYPE_CHECKING:
    from agent.recommend.recipe import Recipe
    from agent.recommend.situation import Situation


def add_recommend(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to a parser."""
    recommend = commands.add_parser(
        "recommend",
        help="propose set-points from a learned surrogate, within declared bounds",
        description="Proposes set-points for the present conditions, within the recipe's bounds "
        "and where the model has learned from rows, with intervals of stated coverage; or says why "
        "it proposes nothing. Nothing is ever written to a machine. docs/recommend.md explains.",
    )
    recommend.add_argument("recipe", type=Path, help="such as configs/recommend.toml")
    source = recommend.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--agent",
        metavar="CONFIG",
        type=Path,
        help="an agent's TOML file: what it serves, its held-out rows, its newest row",
    )
    source.add_argument("--bundle", metavar="FILE", type=Path, help="a bundle or a draft instead")
    recommend.add_argument(
        "--weights",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="safetensors; repeatable: the first counts, the others say how sure it is",
    )
    recommend.add_argument(
        "--rows", metavar="FILE", type=Path, help="this site's CSV or npz; the last row is now"
    )
    recommend.add_argument(
        "--other",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="further files that the weights were learned from; repeatable",
    )
    recommend.add_argument("--group", metavar="COLUMN", default="", help="as in bundle test")
    recommend.add_argument("--time", metavar="COLUMN", default="", help="as in bundle test")
    recommend.add_argument("--json", action="store_true", help="for programs")
    recommend.set_defaults(command=_recommend)


def _recommend(options: argparse.Namespace) -> int:
    from agent.bundle.tables import TableError  # noqa: PLC0415  --help should not wait for numpy
    from agent.recommend.recipe import read_recipe  # noqa: PLC0415
    from agent.recommend.situation import UnusableError, propose  # noqa: PLC0415
    from agent.recommend.words import as_json, in_lines  # noqa: PLC0415

    recipe = read_recipe(options.recipe)
    try:
        situation = _situation(options, recipe)
        proposal = propose(situation, recipe)
    except TableError as error:
        print(f"journeyman recommend: {error}", file=sys.stderr)
        return 2
    except UnusableError as error:
        print(f"journeyman recommend: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(as_json(situation, recipe, proposal).decode())
    else:
        for line in in_lines(situation, recipe, proposal):
            print(line)
    return 1 if proposal.reason else 0


def _situation(options: argparse.Namespace, recipe: "Recipe") -> "Situation":
    """Read what the options name; what does not fit the recipe is refused before work is done."""
    from agent.recommend.recipe import check_fits  # noqa: PLC0415

    if options.agent is not None:
        from agent.recommend.gateway import read_gateway  # noqa: PLC0415

        if options.rows or options.weights or options.other:
            raise SettingsError("--agent", None, None, "reads its own rows and weights")
        found = read_gateway(options.agent)
        check_fits(options.recipe, recipe, found.manifest)
        return found
    from agent.recommend.files import Files, manifest_of, read_files  # noqa: PLC0415

    if options.rows is None:
        raise SettingsError("--bundle", None, None, "needs --rows too")
    check_fits(options.recipe, recipe, manifest_of(options.bundle))
    files = Files(
        bundle=options.bundle,
        weights=options.weights,
        rows=options.rows,
        others=options.other,
        group=options.group,
        time=options.time,
    )
    return read_files(files)
