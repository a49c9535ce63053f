"""Rows out of gradients by optimisation: rows whose gradient points where the update points.

Starts from random rows and labels and follows, with Adam, the slope of the cosine distance between
their gradient and the observed step (Zhu, Liu and Han, "Deep Leakage from Gradients",
arXiv:1906.08935; cosine and Adam: Geiping et al., arXiv:2003.14053).  The network has one hidden
layer with ReLU and ends in softmax and cross entropy; the slope of its gradients with respect to
rows and labels is written out below, so that thousands of steps cost seconds.

The budget (rows, restarts, steps) is the attacker's, and the same whatever defends the update.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.attacks.victims import Matrix, Vector

Batch = NDArray[np.float64]
"""Float64 (T, n, ...): n rows in each of T restarts."""

_RATE = 0.1
_DECAYS = (0.9, 0.999)
_TINY = 1e-12


@dataclass(frozen=True)
class Budget:
    """What the attacker spends: rows sought, restarts, steps of Adam in each."""

    rows: int = 1
    restarts: int = 8
    steps: int = 400


@dataclass(frozen=True)
class Net:
    """Weights of the published base: (H, F), (H,), (C, H), (C,), float64."""

    first: Matrix
    first_bias: Vector
    last: Matrix
    last_bias: Vector

    @staticmethod
    def of(flat: Vector, inputs: int, hidden: int, classes: int) -> "Net":
        """Cut a flat vector (P,)."""
        sizes = np.cumsum([hidden * inputs, hidden, classes * hidden])
        first, first_bias, last, last_bias = np.split(flat.astype(np.float64), sizes)
        return Net(
            first.reshape(hidden, inputs), first_bias, last.reshape(classes, hidden), last_bias
        )


@dataclass
class _Adam:
    """Running means of a slope and of its square (Kingma and Ba, arXiv:1412.6980)."""

    first: Batch
    second: Batch

    def direction(self, slope: Batch, step: int) -> Batch:
        """What to subtract in a step, counted from 1, at rate 1."""
        self.first = _DECAYS[0] * self.first + (1 - _DECAYS[0]) * slope
        self.second = _DECAYS[1] * self.second + (1 - _DECAYS[1]) * slope**2
        mean = self.first / (1 - _DECAYS[0] ** step)
        return np.asarray(mean / (np.sqrt(self.second / (1 - _DECAYS[1] ** step)) + _TINY))


@dataclass(frozen=True)
class _Pass:
    """One way through the network and back: what reaches the neurons, and the flat gradients."""

    hidden: Batch
    is_active: Batch
    shares: Batch
    errors: Batch
    slopes: Batch
    gradients: Matrix


def matched(delta: Vector, net: Net, budget: Budget, rng: np.random.Generator) -> Matrix:
    """Rows whose mean gradient comes closest to the direction of -delta.

    Args:
      delta: trained - base, float64 (P,).
      net: the base.
      budget: how hard to try.
      rng: of the starts.

    Returns:
      float64 (budget.rows, F), of the restart that came closest.
    """
    wanted = -delta / max(float(np.linalg.norm(delta)), _TINY)
    classes, inputs = len(net.last), net.first.shape[1]
    x = rng.normal(size=(budget.restarts, budget.rows, inputs))
    labels = rng.normal(size=(budget.restarts, budget.rows, classes))
    adams = _Adam(np.zeros_like(x), np.zeros_like(x)), _Adam(labels * 0.0, labels * 0.0)
    for step in range(1, budget.steps + 1):
        _, slopes = distance(net, x, labels, wanted)
        rate = _RATE * (1.0 if 2 * step < budget.steps else 0.1)
        x = x - rate * adams[0].direction(slopes[0], step)
        labels = labels - rate * adams[1].direction(slopes[1], step)
    distances, _ = distance(net, x, labels, wanted)
    return np.asarray(x[int(np.argmin(distances))])


def distance(
    net: Net, x: Batch, labels: Batch, wanted: Vector
) -> tuple[Vector, tuple[Batch, Batch]]:
    """How far each restart's gradient points from the wanted direction.

    Args:
      net: the base.
      x: rows, (T, n, F).
      labels: logits of their labels, (T, n, C).
      wanted: float64 (P,), of length 1.

    Returns:
      1 - cosine, (T,), and its slopes by rows and by labels.
    """
    targets = _softmax(labels)
    there = _through(net, x, targets)
    lengths = np.linalg.norm(there.gradients, axis=1, keepdims=True) + _TINY
    directions = there.gradients / lengths
    cosines = directions @ wanted
    slope = (cosines[:, None] * directions - wanted) / lengths
    by_x, by_target = _back(net, x, there, slope)
    by_label = targets * (by_target - (targets * by_target).sum(axis=2, keepdims=True))
    return 1.0 - cosines, (by_x, by_label)


def _through(net: Net, x: Batch, targets: Batch) -> _Pass:
    sums = x @ net.first.T + net.first_bias
    is_active = (sums > 0).astype(np.float64)
    hidden = sums * is_active
    shares = _softmax(hidden @ net.last.T + net.last_bias)
    errors = (shares - targets) / x.shape[1]
    slopes = (errors @ net.last) * is_active
    parts = (
        np.einsum("tnh,tnf->thf", slopes, x),
        slopes.sum(axis=1),
        np.einsum("tnc,tnh->tch", errors, hidden),
        errors.sum(axis=1),
    )
    gradients = np.concatenate([part.reshape(len(x), -1) for part in parts], axis=1)
    return _Pass(hidden, is_active, shares, errors, slopes, gradients)


def _back(net: Net, x: Batch, there: _Pass, slope: Matrix) -> tuple[Batch, Batch]:
    """The slope by rows and by targets of whatever has this slope by the flat gradients."""
    neurons, inputs = net.first.shape
    sizes = np.cumsum([neurons * inputs, neurons, len(net.last) * neurons])
    first, first_bias, last, last_bias = np.split(slope, sizes, axis=1)
    first = first.reshape(-1, neurons, inputs)
    last = last.reshape(-1, len(net.last), neurons)
    by_slopes = (np.einsum("thf,tnf->tnh", first, x) + first_bias[:, None]) * there.is_active
    by_errors = by_slopes @ net.last.T + last_bias[:, None]
    by_errors += np.einsum("tch,tnh->tnc", last, there.hidden)
    by_errors /= x.shape[1]
    by_logits = there.shares * (by_errors - (there.shares * by_errors).sum(axis=2, keepdims=True))
    by_hidden = np.einsum("tch,tnc->tnh", last, there.errors) + by_logits @ net.last
    by_x = np.einsum("thf,tnh->tnf", first, there.slopes)
    by_x += (by_hidden * there.is_active) @ net.first
    return by_x, -by_errors


def _softmax(values: Batch) -> Batch:
    grown = np.exp(values - values.max(axis=2, keepdims=True))
    return np.asarray(grown / grown.sum(axis=2, keepdims=True))
