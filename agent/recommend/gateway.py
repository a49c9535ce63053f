"""A situation from a gateway's own state directory, beside a running agent and without one.

Copies the agent's databases into a temporary folder (SQLite's backup, which a writer does not
disturb) and opens the copies with the agent's own code: head, bundle and weights are verified as at
a start, and nothing in the state directory is changed.

The model is what the site serves, its own or the federation's.  Further versions at hand are the
other weights in the model slots: served, trained from, candidate, and the last one trained from.
"""

import shutil
import sqlite3
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from agent.adopted import Adopted
from agent.adoption import Adoption
from agent.config import AgentSettings, read_agent_settings
from agent.doctor.disk import open_for_reading
from agent.enrolled import read_enrolled
from agent.history import History
from agent.kept_identity import kept_charter
from agent.labels import Labels
from agent.learning.inside import TrainingThread
from agent.learning.personalise import GLOBAL
from agent.local_tensors import LocalTensors
from agent.model import local_of, with_local
from agent.models import Models
from agent.own_model import Serving
from agent.personal import Personal
from agent.recommend.situation import Situation, UnusableError, Values, surrogate_of
from agent.signals.rows import Rows, joined
from agent.trust_command import as_owner
from wire.charters import newest_trust
from wire.database import DiskError
from wire.errors import SettingsError, WireError
from wire.settings import resolve
from wire.signing import parse_public_key
from wire.tensors import Params, read_params
from wire.trust import Trust

_DATABASES = ("models.db", "history.db", "labels.db")
_FILES = ("personal.model", "local.tensors")


def read_gateway(config: Path) -> Situation:
    """Read everything that the gateway of a configuration file knows.

    Args:
      config: the agent's TOML file.

    Raises:
      SettingsError: the file, the enrolment or a database can not be read.
      UnusableError: there is no model in use yet, it lacks something, or there are no whole rows.
    """
    settings = read_agent_settings(config)
    trust, credential = read_enrolled(config, settings.trust)
    state = resolve(config, settings.agent.state_dir)
    root = parse_public_key(settings.trust.root)
    with as_owner(state) as inside, tempfile.TemporaryDirectory() as folder:
        copies = Path(folder)
        _copy(inside, copies)
        try:
            newest = newest_trust(kept_charter(inside), root, trust)
            return _situation(config, settings, newest, credential.agent, copies)
        except DiskError as error:
            raise SettingsError(str(state), None, None, error.reason) from None


def _copy(state: Path, folder: Path) -> None:
    """Copies of what the agent keeps; what is not there yet is left out."""
    for name in _DATABASES:
        if not (state / name).exists():
            continue
        try:
            with (
                closing(open_for_reading(state / name)) as source,
                closing(sqlite3.connect(folder / name)) as target,
            ):
                source.backup(target)
        except sqlite3.DatabaseError as error:
            reason = f"can not read: {error}; see journeyman-agent doctor"
            raise SettingsError(str(state / name), None, None, reason) from None
    for name in _FILES:
        if (state / name).exists():
            shutil.copyfile(state / name, folder / name)


def _situation(
    config: Path, settings: AgentSettings, trust: Trust, agent: str, folder: Path
) -> Situation:
    """What the copies say."""
    names = [channel.name for channel in settings.channels]
    with (
        closing(Models(folder / "models.db")) as models,
        closing(Labels(folder / "labels.db", settings.labels, names, config.parent)) as labels,
        closing(_history(settings, names, folder, labels)) as history,
    ):
        adoption = Adoption(
            models,
            trust,
            names,
            settings.training.scoring_backend,
            LocalTensors(folder),
            settings.cutting.shapes,
        )
        rows, held_out = history.read(held_out=False), history.read(held_out=True)
        adopted = _adopted(adoption, rows)
        nobody = TrainingThread(idle_s=1.0)  # never begun: nothing is trained here
        serving = Personal(
            adoption, history, nobody, agent, settings.personal, folder, bool
        ).serving(adopted)
        versions = _versions(folder / "models.db", models, adopted, serving)
    surrogate = surrogate_of(
        adopted.model,
        adopted.standard,
        versions,
        None if serving.kind == GLOBAL else serving.inputs,
    )
    head, manifest = adopted.head, adopted.model.manifest
    now, at = _present(adopted, joined([rows, held_out]))
    values, answers = _labelled(adopted, held_out)
    return Situation(
        manifest=manifest,
        surrogate=surrogate,
        values=values,
        labels=answers,
        now=now,
        model=f"{manifest.name}: version {head.serve.version}, served as {serving.kind}",
        at=at,
    )


def _history(settings: AgentSettings, names: list[str], folder: Path, labels: Labels) -> History:
    table = settings.history
    return History(
        folder / "history.db",
        names,
        table.capacity_rows,
        table.holdout_share,
        shapes=settings.cutting.shapes,
        capacity_bytes=table.capacity_bytes,
        holdout_stretch_s=table.holdout_stretch_s,
        relabel=labels.relabel,
    )


def _adopted(adoption: Adoption, rows: Rows) -> Adopted:
    """The head in use, standardized by this site's own rows where they decide.

    Raises:
      UnusableError: there is none, or it lacks something.
    """
    adopted = adoption.current
    if adopted is None:
        raise UnusableError("no model is in use yet: see journeyman-agent status")
    if adopted.model.manifest.standardise == "local":
        adoption.set_moments(adopted.moments(rows))
        adopted = adoption.current or adopted
    if adopted.unready:
        raise UnusableError(f"bundle {adopted.model.manifest.name}: {adopted.unready}")
    return adopted


def _versions(path: Path, models: Models, adopted: Adopted, serving: Serving) -> list[Params]:
    """What is served, and all other weights of this bundle in the model slots."""
    manifest = adopted.model.manifest
    with closing(sqlite3.connect(path)) as database:
        digests = {bytes(digest) for (digest,) in database.execute("SELECT digest FROM whole")}
    if serving.kind == GLOBAL:
        digests.discard(adopted.head.serve.content.digest)
    local = local_of(manifest, adopted.serve)
    found = [serving.params]
    for digest in sorted(digests):
        try:
            shared = read_params(models.read(digest) or b"", manifest.shared_shapes)
        except WireError:  # a bundle, statistics or a delta, or weights of another bundle
            continue
        found.append(with_local(manifest, shared, local))
    return found


def _labelled(adopted: Adopted, rows: Rows) -> tuple[Values, Values]:
    """Whole rows with a label: float64 (N, C) and (N,)."""
    values = rows.values[:, list(adopted.input_columns)]
    if adopted.label_column is None:
        return values[:0], np.empty(0)
    labels = rows.values[:, adopted.label_column]
    whole = np.isfinite(values).all(axis=1) & np.isfinite(labels)
    return values[whole], labels[whole]


def _present(adopted: Adopted, rows: Rows) -> tuple[Values, str]:
    """The newest whole row, float64 (C,), and when it was.

    Raises:
      UnusableError: there is none.
    """
    values = rows.values[:, list(adopted.input_columns)]
    whole = np.flatnonzero(np.isfinite(values).all(axis=1))
    if not len(whole):
        raise UnusableError("the history has no row with all channels of the model yet")
    newest = whole[rows.source_timestamp_us[whole].argmax()]
    time = datetime.fromtimestamp(rows.source_timestamp_us[newest] / 1e6, UTC)
    return values[newest], f"{time:%Y-%m-%dT%H:%M:%SZ}"
