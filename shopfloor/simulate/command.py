"""`journeyman simulate`: what a coordinator's settings would do with a fleet that is not there yet.

Responsible for options, for the files of a run, and for saying how it went.  The runs themselves
are `engine.py`'s.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from shopfloor.simulate.scenario import MOST_AGENTS, OUTAGES, Limits, Scenario

if TYPE_CHECKING:  # numpy must not be loaded before `_use_one_thread`
    from shopfloor.simulate.outcome import Outcome
    from shopfloor.simulate.settings import Tables

Commands = argparse._SubParsersAction  # noqa: SLF001  argparse has no public name for it

STRATEGIES = ("fedbuff", "fedavg", "fedasync", "calibrated", "own")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_DESCRIPTION = """\
Simulates a federation on this computer: thousands of agents whose links come and go, whose gateways
are fast and slow, and whose data differ. Nothing is installed, no broker runs, and simulated hours
take seconds. Updates are folded, clipped, rounded to bytes, admitted and refused by the
coordinator's own code, with its own configuration file. Only the task is made up: ten classes, a
network of 2,762 parameters, trained by a few lines of numpy.

Use it to choose strategy, goal, concurrency and server optimizer before a fleet depends on them.
What carries over is which of two settings is better and by how much roughly, not the hours.
"""
_EXAMPLES = """\
examples:
  journeyman simulate                             500 agents, half of the time without a link
  journeyman simulate --compare --correlation .7  all strategies on the same fleet
  journeyman simulate --config coordinator.toml   with the settings of your own coordinator
  journeyman simulate --agents 10000 --hours 2    ten thousand agents; a minute or two
  journeyman simulate --outages weekly --offline .95 --hours 672
                                                  gateways that are connected eight hours a week

The same options and --seed give the same result to the last bit. docs/simulate.md says more.
"""


def add_simulate(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add `journeyman simulate`."""
    parser = commands.add_parser(
        "simulate",
        help="try a coordinator's settings on thousands of simulated agents",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_fleet(parser)
    _add_run(parser)
    parser.set_defaults(command=run)


def _add_fleet(parser: argparse.ArgumentParser) -> None:
    usual = Scenario()
    fleet = parser.add_argument_group("the fleet")
    fleet.add_argument(
        "--agents", type=_agents, default=usual.agents, help="how many (default: %(default)s)"
    )
    fleet.add_argument(
        "--offline",
        type=_share,
        default=usual.offline,
        help="share of the time without a link, 0 to 0.99 (default: %(default)s)",
    )
    fleet.add_argument(
        "--outages",
        choices=OUTAGES,
        default=usual.outages,
        help="markov: at random times (default); weekly: each agent is connected once a week; "
        "shift: a site is connected during its working hours",
    )
    fleet.add_argument(
        "--connected",
        type=_positive,
        default=usual.on_s,
        metavar="SECONDS",
        help="mean length of a connection under markov (default: %(default)s)",
    )
    fleet.add_argument(
        "--compute",
        type=_positive,
        default=usual.compute_s,
        metavar="SECONDS",
        help="median time of one training; the slowest take ten times as long (default: "
        "%(default)s)",
    )
    fleet.add_argument(
        "--correlation",
        type=_correlation,
        default=usual.correlation,
        help="of slowness with data, 0 to 1: near 1 the slow agents hold classes that the fast "
        "ones lack (default: %(default)s)",
    )
    fleet.add_argument(
        "--skew",
        type=_positive,
        default=usual.skew,
        help="alpha of the Dirichlet distribution of an agent's classes: 0.1 gives it one or two "
        "of ten, 100 gives all alike (default: %(default)s)",
    )
    fleet.add_argument(
        "--dropout",
        type=_share,
        default=usual.dropout,
        help="chance that a training has to begin again (default: %(default)s)",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    coordinator = parser.add_argument_group("the coordinator")
    coordinator.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="take [strategy], [server_optimizer], [robust], [selection] and [policy] from this "
        "coordinator.toml; other tables are not looked at",
    )
    coordinator.add_argument(
        "--strategy",
        choices=STRATEGIES,
        help="instead of the file's; without a file, with settings that suit the task (default: "
        "fedbuff)",
    )
    coordinator.add_argument(
        "--compare",
        action="store_true",
        help="run the other strategies on the same fleet too, with settings that suit the task",
    )
    how = parser.add_argument_group("the run")
    how.add_argument(
        "--hours", type=_positive, default=6.0, help="simulated hours (default: %(default)s)"
    )
    how.add_argument(
        "--target",
        type=_share,
        default=Limits().target,
        help="accuracy whose first time is told, in the mean of three evaluations (default: "
        "%(default)s)",
    )
    how.add_argument("--seed", type=int, default=0, help="decides all that is by chance")
    how.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where simulation.json and simulation.svg go (default: a new folder)",
    )


def run(options: argparse.Namespace) -> int:
    """Simulate as the options say; 0 unless a run diverged or a file could not be written."""
    _use_one_thread()
    from shopfloor.simulate.engine import simulate  # noqa: PLC0415
    from shopfloor.simulate.progress import shown  # noqa: PLC0415
    from shopfloor.simulate.words import remarks, table  # noqa: PLC0415

    scenario = scenario_of(options)
    limits = Limits(hours=options.hours, target=options.target)
    runs: list[tuple[str, Outcome]] = []
    for name, tables in _tables(options):
        with shown(name, options.hours) as progress:
            runs.append((name, simulate(scenario, tables, limits, progress=progress)))
    print(table(runs))
    for name, outcome in runs:
        for remark in remarks(name, outcome, options.target):
            print(remark)
    try:
        _write(options, scenario, runs)
    except OSError as error:
        print(f"journeyman simulate: {error}", file=sys.stderr)
        return 1
    return int(any(outcome.ended == "diverged" for _, outcome in runs))


def scenario_of(options: argparse.Namespace) -> Scenario:
    """The fleet that the options describe."""
    per_site = 10 if options.outages == "shift" else 1
    return Scenario(
        agents=options.agents,
        agents_per_site=per_site,
        seed=options.seed,
        skew=options.skew,
        compute_s=options.compute,
        correlation=options.correlation,
        outages=options.outages,
        offline=options.offline,
        on_s=options.connected,
        dropout=options.dropout,
    )


def _tables(options: argparse.Namespace) -> "Iterator[tuple[str, Tables]]":
    """The runs to make, by name.

    Raises:
      SettingsError: names file, line and key of what is wrong in --config.
    """
    from shopfloor.simulate.presets import PRESETS, preset  # noqa: PLC0415
    from shopfloor.simulate.settings import read_tables  # noqa: PLC0415

    if options.config is not None:
        tables = read_tables(options.config, options.strategy)
        name = tables.strategy.name
        yield (f"{name}, {options.config.name}" if options.compare else name), tables
    else:
        name = options.strategy or PRESETS[0]
        yield name, preset(name)
    if options.compare:
        for other in PRESETS:
            if options.config is not None or other != name:
                yield other, preset(other)


def _write(
    options: argparse.Namespace, scenario: Scenario, runs: "list[tuple[str, Outcome]]"
) -> None:
    """Write simulation.json, and simulation.svg where matplotlib is installed."""
    import msgspec  # noqa: PLC0415

    folder: Path = options.out or Path(tempfile.mkdtemp(prefix="journeyman-simulate-"))
    folder.mkdir(parents=True, exist_ok=True)
    record = {"scenario": scenario, "target": options.target, "runs": dict(runs)}
    file = folder / "simulation.json"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    print(f"Figures: {file}")
    try:
        from shopfloor.simulate.picture import draw  # noqa: PLC0415  it comes with the demo extra
    except ImportError:
        print("No picture: matplotlib is not installed; pip install journeyman[demo]")
        return
    title = f"{scenario.agents:,} agents, {scenario.offline:.0%} of the time without a link"
    draw(runs, options.target, title, folder / "simulation.svg")
    print(f"Picture: {folder / 'simulation.svg'}")


def _use_one_thread() -> None:
    """Matrices of 16 x 64 gain nothing from BLAS's threads, and each that spins costs a core."""
    for name in _THREADS:
        os.environ.setdefault(name, "1")


def _agents(text: str) -> int:
    value = int(text)
    if not 4 <= value <= MOST_AGENTS:
        raise argparse.ArgumentTypeError(f"{text} is not between 4 and {MOST_AGENTS:,}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 0.99:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 0.99")
    return value


def _correlation(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 1e-3 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.001 and 1000000")
    return value
