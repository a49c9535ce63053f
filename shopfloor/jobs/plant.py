"""Lays out a job's run: rows by site, keys, bundle, one configuration for each program.

Responsible for the run directory and nothing that runs.

    RUN/  sites/NAME-1.npz          what each site's machines say; NAME-2.npz comes later, moved
          labels/NAME.csv           labels that come later than their rows, where the job has such
          keys/  bundle.jm  coordinator.toml  gateway-NAME.toml

Rows that judge are written nowhere.
"""

import csv
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.authoring import build_bundle, read_bundle_settings
from shopfloor.jobs.task import TIME, Columns, SiteRows, Task
from shopfloor.plant import FEDERATION
from shopfloor.ports import free_ports
from wire.bundle import read_draft
from wire.keys import AUTHOR_KEY, make_agent, make_federation
from wire.manifest import Manifest
from wire.signing import read_private_key

Floats = NDArray[np.float64]
SITES, LABELS = "sites", "labels"


@dataclass(frozen=True)
class JobOptions:
    """What a person may choose for a run.

    Attributes:
      data: what was named, or None to generate.
      versions: to learn for; None: what the job's [schedule] says.
      limit_s: of learning, whatever version is reached.
      newcomer: site that joins when training is over; "" for none.
      drift: whether the first site's data are moved after the training.
    """

    seed: int = 0
    data: Path | None = None
    broker: str = "auto"
    down_share: float = 0.3
    mean_down_s: float = 3.0
    versions: int | None = None
    limit_s: float = 1200.0
    newcomer: str = ""
    drift: bool = True


@dataclass(frozen=True)
class JobSite:
    """One site of the run."""

    rows: SiteRows
    agent: str
    link_port: int
    config: Path
    state: Path

    @property
    def name(self) -> str:
        """Of the site."""
        return self.rows.name


@dataclass(frozen=True)
class JobPlant:
    """Everything that a run needs, on disk and in memory."""

    directory: Path
    task: Task
    options: JobOptions
    manifest: Manifest
    sites: tuple[JobSite, ...]
    broker_port: int
    page_port: int
    root: str
    learning_rate: float
    """Of models of the sites' own; the federation's has fallen by the time they are made."""
    versions: int

    @property
    def members(self) -> tuple[JobSite, ...]:
        """The sites that train."""
        return tuple(site for site in self.sites if site.name != self.options.newcomer)

    @property
    def coordinator_config(self) -> Path:
        """Of the coordinator."""
        return self.directory / "coordinator.toml"

    @property
    def coordinator_state(self) -> Path:
        """Where the coordinator keeps everything."""
        return self.directory / "coordinator"


def lay_out(directory: Path, task: Task, rows: Sequence[SiteRows], options: JobOptions) -> JobPlant:
    """Write the run directory.

    Raises:
      OSError: it can not be written.
      SettingsError: the bundle's description or the coordinator's tables are wrong.
    """
    for folder in (SITES, LABELS):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    keys = directory / "keys"
    root = make_federation(keys, FEDERATION).raw.hex()
    author = read_private_key(keys / AUTHOR_KEY)
    described = read_bundle_settings(task.description)
    if described.family is not None:
        family = msgspec.structs.replace(described.family, seed=options.seed)
        described = msgspec.structs.replace(described, family=family)
    bundle = build_bundle(task.description, described, FEDERATION, author)
    (directory / "bundle.jm").write_bytes(bundle)
    manifest = read_draft(bundle)[0].manifest
    broker_port, page_port, *links = free_ports(2 + len(rows))
    sites = []
    for at, (site, port) in enumerate(zip(rows, links, strict=True)):
        agent = f"gateway-{site.name.lower()}"
        make_agent(keys, FEDERATION, agent, site.name, serial=at + 1)
        config, state = directory / f"{agent}.toml", directory / agent
        sites.append(JobSite(site, agent, port, config, state))
        write_rows(directory, task, manifest, site.name, site.train, part=1)
    tables = tomllib.loads(task.federation.read_text())
    versions = _fit(tables, len(rows) - bool(options.newcomer), options.versions)
    head = _coordinator_head(root, broker_port, page_port)
    (directory / "coordinator.toml").write_text(head + _toml(tables))
    plant = JobPlant(
        directory=directory,
        task=task,
        options=options,
        manifest=manifest,
        sites=tuple(sites),
        broker_port=broker_port,
        page_port=page_port,
        root=root,
        learning_rate=float(tables["policy"]["learning_rate"]),
        versions=versions,
    )
    for gateway in sites:
        write_agent(plant, gateway, is_choosing=False)
    return plant


def write_rows(
    directory: Path, task: Task, manifest: Manifest, name: str, columns: Columns, part: int
) -> None:
    """Write what a site's machines say, and its labels: in the same file, or in their own."""
    label = manifest.label.channel if manifest.label is not None else ""
    if task.late_labels:
        said = {key: values for key, values in columns.items() if key != label}
        _append_labels(directory / LABELS / f"{name}.csv", columns[TIME], label, columns[label])
    else:
        said = columns
    np.savez(directory / SITES / f"{name}-{part}.npz", **said)  # type: ignore[arg-type]


def _append_labels(path: Path, times: Floats, label: str, values: Floats) -> None:
    """Add labels of moments to a file that the agent takes again whenever it changes."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(["channel", "from", "until", "value"])
        for at, value in zip(times.tolist(), values.tolist(), strict=True):
            writer.writerow([label, repr(at), "", value])


def _fit(tables: dict[str, Any], sites: int, versions: int | None) -> int:
    """Fit a job's tables to so many sites and versions; how many versions there will be."""
    strategy, gate = tables.setdefault("strategy", {}), tables.setdefault("gate", {})
    if strategy.get("name", "fedbuff") == "fedbuff":
        strategy["goal"] = min(strategy.get("goal", 10), sites)
    gate["quorum"] = min(gate.get("quorum", 2), sites)
    schedule = tables.setdefault("schedule", {})
    planned = int(schedule.get("versions", 100))
    if versions is not None and versions < planned:
        schedule["versions"] = versions
        return versions
    return planned


def _coordinator_head(root: str, broker_port: int, page_port: int) -> str:
    return f"""\
[coordinator]
state_dir = "coordinator"
bundle = "bundle.jm"

[trust]
root = "{root}"
charter = "keys/charter.jm"
key = "keys/coordinator.key"

[broker]
port = {broker_port}
keepalive_s = 5

[web]
listen = "127.0.0.1:{page_port}"

"""


def _toml(tables: Mapping[str, Any]) -> str:
    """Tables of plain values as TOML; tables in tables come after the values of their own."""
    lines: list[str] = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        inner = {f"{name}.{key}": value for key, value in table.items() if isinstance(value, dict)}
        plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
        lines += [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in plain.items()]
        lines += ["", _toml(inner)]
    return "\n".join(lines)


def write_agent(plant: JobPlant, site: JobSite, *, is_choosing: bool) -> None:
    """Write a gateway's configuration; it begins to choose what it serves when training is over."""
    task, manifest = plant.task, plant.manifest
    label = manifest.label.channel if manifest.label is not None else ""
    channels = [(each.name, each.unit, each.shape) for each in manifest.channels]
    if label and not task.late_labels:
        channels.append((label, "", ()))
    if task.group:
        channels.append((task.group, "", ()))
    personal = task.personal if is_choosing else "enabled = false\n"
    if "learning_rate" not in personal:
        personal += f"learning_rate = {plant.learning_rate}\n"
    labels = ""
    if task.late_labels:
        said = f"{LABELS}/{site.name}.csv"
        labels = f'\n[[labels.channel]]\nname = "{label}"\nfile = "{said}"\n'
    site.config.write_text(f"""\
[agent]
state_dir = "{site.agent}"

[trust]
root = "{plant.root}"
charter = "keys/charter.jm"
credential = "keys/{site.agent}.credential"
key = "keys/{site.agent}.key"

[broker]
port = {site.link_port}
keepalive_s = 3
ack_timeout_s = 4

[history]
holdout_share = {task.holdout_share}
holdout_stretch_s = {task.holdout_stretch_s}

[training]
pause_s = 0.2
priority = "low"
scoring_backend = "auto"
budget.enabled = false

[personal]
rest_s = 5
{personal}
[rows]
trigger = "{channels[0][0]}"
group = "{task.group}"
{labels}
[[source.replay]]
file = "{SITES}/{site.name}-*.npz"
time_column = "{TIME}"
speed = 0.0
resume = true
""")
    with site.config.open("a") as file:
        for name, unit, shape in channels:
            extra = f"shape = {list(shape)}\n" if shape else ""
            file.write(
                f'\n[[source.replay.channel]]\nname = "{name}"\nunit = "{unit}"\n'
                f'column = "{name}"\n{extra}'
            )
