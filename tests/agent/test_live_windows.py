"""Windows and arrays on the live agent: the inputs that the author's own trial makes of a file."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.adopted import Adopted
from agent.adoption import Adoption
from agent.bundle.examples import make_examples
from agent.bundle.tables import Table
from agent.declared import Cnn1d
from agent.models import Models
from agent.signals.rows import Rows, joined, rows_of
from tests.agent.federation import Federation, feed
from wire.errors import BundleError
from wire.manifest import Channel, Label, Level, Rms, Std, Window

CHANNELS = ["current", "speed", "broken"]
LENGTH = 6
WINDOWED: dict[str, Any] = {
    "channel": (Channel(name="speed", unit="rpm"), Channel(name="current", unit="A")),
    "label": Label(channel="broken"),
    "window": Window(length=LENGTH, stride=2),
    "feature": (Level(channel="current", mean=1.0), Level(channel="speed", std=2.0)),
    "family": Cnn1d(widths=(4,), kernel=(3,), hidden=(4,)),
}
WAVES: dict[str, Any] = {
    "channel": (Channel(name="shock", unit="g", shape=(16,), rate_hz=1000.0),),
    "label": Label(channel="broken"),
    "window": None,
    "feature": (Rms(channel="shock"), Std(channel="shock")),
}


def adopted(federation: Federation, channels: list[str], **shapes: Any) -> Adopted:
    at = {channels.index(name): shape for name, shape in shapes.items()}
    adoption = Adoption(Models(":memory:"), federation.trust, channels, "numpy", shapes=at)
    feed(adoption, federation.publish(1))
    assert adoption.current is not None
    return adoption.current


@pytest.fixture(scope="module")
def windowed(federation: Federation) -> Adopted:
    return adopted(federation.learning(**WINDOWED), CHANNELS)


def lived(groups: NDArray[np.int64], seed: int = 1) -> Rows:
    """Rows of machines one after the other, as an agent's history gives them."""
    values = np.random.default_rng(seed).normal(size=(len(groups), 3))
    values[:, 2] = values[:, 2] > 0
    follows = np.append(False, groups[1:] == groups[:-1])
    return rows_of(values, follows=follows)


def as_file(rows: Rows, groups: NDArray[np.int64]) -> Table:
    current, speed, broken = rows.values.T
    return Table(
        "file",
        {"speed": speed, "current": current},
        broken,
        groups,
        tuple(str(at) for at in range(int(groups.max()) + 1)),
        np.arange(len(rows), dtype=np.float64),
    )


GROUPS = np.repeat([0, 1, 2], [20, LENGTH - 1, 9])


def test_training_examples_are_those_of_the_authors_trial(windowed: Adopted) -> None:
    rows = lived(GROUPS)
    expected = make_examples(windowed.model.manifest, as_file(rows, GROUPS))
    examples = windowed.examples(rows)
    assert examples.inputs.shape == (8 + 2, 2, LENGTH)
    assert np.array_equal(examples.inputs, expected.x)
    assert np.array_equal(examples.labels, expected.y)


def test_windows_whose_last_row_has_no_label_teach_nothing(windowed: Adopted) -> None:
    rows = lived(GROUPS)
    rows.values[LENGTH - 1, 2] = np.nan
    assert len(windowed.examples(rows)) == 8 + 2 - 1


def test_every_row_that_ends_a_whole_window_has_a_score(windowed: Adopted) -> None:
    rows = lived(GROUPS)
    scores = windowed.score(windowed.serve, rows)
    without = [*range(LENGTH - 1), *range(20, 25), *range(25, 25 + LENGTH - 1)]
    assert np.flatnonzero(np.isnan(scores)).tolist() == without


def test_a_live_score_does_not_depend_on_how_many_rows_came_before(windowed: Adopted) -> None:
    rows = lived(np.zeros(30, np.int64))
    whole = windowed.score(windowed.serve, rows)
    for end in (LENGTH, 17, 30):
        context = rows.take(np.arange(30) < end).newest(LENGTH)
        assert windowed.score(windowed.serve, context)[-1] == pytest.approx(whole[end - 1])


def test_rows_are_held_out_by_stretches_only_for_windows(
    windowed: Adopted, federation: Federation
) -> None:
    assert windowed.in_stretches
    assert windowed.rows_needed == LENGTH
    waves = adopted(federation.learning(**WAVES), ["shock", "broken"], shock=(16,))
    assert not waves.in_stretches
    assert waves.rows_needed == 1


def test_an_array_channel_is_trained_on_and_scored(federation: Federation) -> None:
    job = adopted(federation.learning(**WAVES), ["shock", "broken"], shock=(16,))
    shocks = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    values = np.column_stack([np.zeros(5), [0, 1, 0, 1, np.nan]])
    rows = rows_of(values, arrays={0: shocks})
    examples = job.examples(rows)
    rms = np.sqrt((shocks.astype(np.float64) ** 2).mean(axis=1))
    assert np.allclose(examples.inputs[:, 0], rms[:4], rtol=1e-6)
    assert np.isfinite(job.score(job.serve, rows)).all()


def test_a_channel_of_another_shape_is_refused_with_both_shapes(federation: Federation) -> None:
    wants = federation.learning(**WAVES)
    with pytest.raises(BundleError, match=r"'shock' of shape \[16\].*shape = \[8\]"):
        adopted(wants, ["shock", "broken"], shock=(8,))


def test_joined_rows_keep_runs_and_arrays() -> None:
    parts = [
        rows_of(np.full((2, 1), at), [at, at + 1], arrays={0: np.full((2, 3), at, np.float32)})
        for at in (0, 2)
    ]
    parts[1].follows[0] = False
    both = joined(parts)
    assert both.groups.tolist() == [0, 0, 1, 1]
    assert both.arrays[0][:, 0].tolist() == [0, 0, 2, 2]
    assert both.take(np.array([True, False, True, True])).groups.tolist() == [0, 1, 1]


def test_moments_are_those_of_the_windows_that_are_learned_from(windowed: Adopted) -> None:
    rows = lived(GROUPS)
    x = windowed.examples(rows).inputs.astype(np.float64)
    moments = windowed.moments(rows)
    assert moments.count == x.shape[0] * LENGTH
    assert np.allclose(moments.sums, x.sum(axis=(0, 2)))
