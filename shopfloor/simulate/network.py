"""The simulation's own model and training: a small network, many agents in one call.

A hidden layer of 64, ReLU, softmax; 2,762 parameters; minibatch gradient descent.  Trainings are
pure in their base weights, so those of several agents run together as stacked matrices: 0.2 ms for
60 rows twice, where one alone takes 0.5 ms, most of it numpy's calls.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from shopfloor.simulate.fleet import CLASSES, DIMENSIONS, Fleet

HIDDEN = 64
_SIZES = (DIMENSIONS * HIDDEN, HIDDEN, HIDDEN * CLASSES, CLASSES)
_CUTS = tuple(int(cut) for cut in np.cumsum((0, *_SIZES)))
PARAMETERS = _CUTS[-1]

Weights = NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """How an agent trains: plain minibatch gradient descent."""

    epochs: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True)
class Job:
    """One training: which agent's rows, from which weights, float32 (P,)."""

    agent: int
    base: Weights


def initial_weights(rng: np.random.Generator) -> Weights:
    """Random weights, float32 (P,), with outputs of variance about one."""
    weights = np.zeros(PARAMETERS, np.float32)
    first, second = _CUTS[1], _CUTS[2]
    weights[:first] = rng.normal(0.0, 1.0 / math.sqrt(DIMENSIONS), first)
    weights[second : _CUTS[3]] = rng.normal(0.0, 1.0 / math.sqrt(HIDDEN), HIDDEN * CLASSES)
    return weights


def accuracy(weights: Weights, fleet: Fleet) -> float:
    """Share of the test rows whose class is found."""
    into, bias, out, last = _layers(weights[np.newaxis])
    hidden = np.maximum(fleet.test_features @ into[0] + bias[0], 0.0)
    found = (hidden @ out[0] + last[0]).argmax(axis=1)
    return float((found == fleet.test_labels).mean())


def train(
    jobs: Sequence[Job], fleet: Fleet, recipe: Recipe, rng: np.random.Generator
) -> tuple[Weights, NDArray[np.float64]]:
    """Train every job from its own base.

    Args:
      jobs: B of them.
      fleet: whose rows.
      recipe: how.
      rng: shuffles the rows, each epoch anew.

    Returns:
      Deltas trained - base, float32 (B, P), and each one's mean loss in its first epoch,
      float64 (B,).
    """
    agents = np.array([job.agent for job in jobs])
    # Longest first: at each step those that have rows left are a prefix.
    order = np.argsort(-fleet.rows[agents], kind="stable")
    agents = agents[order]
    base = np.stack([jobs[place].base for place in order])
    weights = base.copy()
    losses = np.zeros(len(jobs))
    for epoch in range(recipe.epochs):
        lost = _epoch(weights, agents, fleet, recipe, rng)
        if epoch == 0:
            losses = lost
    deltas, unsorted = np.empty_like(weights), np.empty_like(losses)
    deltas[order] = weights - base
    unsorted[order] = losses / fleet.rows[agents]
    return deltas, unsorted


def _epoch(
    weights: Weights,
    agents: NDArray[np.int64],
    fleet: Fleet,
    recipe: Recipe,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """One pass, in place; returns the sum of each agent's losses, (B,)."""
    rows, size = fleet.rows[agents], recipe.batch_size
    longest = -(-int(rows[0]) // size) * size
    keys = rng.random((len(agents), longest), np.float32)
    keys[np.arange(longest) >= rows[:, np.newaxis]] = 2.0  # after all that exist
    shuffled = np.argsort(keys, axis=1)
    losses = np.zeros(len(agents))
    for start in range(0, longest, size):
        busy = int(np.count_nonzero(rows > start))
        present = np.minimum(rows[:busy] - start, size)
        places = shuffled[:busy, start : start + size]
        share = (np.arange(size) < present[:, np.newaxis]) / present[:, np.newaxis]
        taken = np.where(share > 0, fleet.starts[agents[:busy], np.newaxis] + places, 0)
        lost = _step(
            weights[:busy],
            fleet.features[taken],
            fleet.labels[taken],
            share.astype(np.float32),
            recipe.learning_rate,
        )
        losses[:busy] += lost * present
    return losses


def _step(
    weights: Weights,
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    share: NDArray[np.float32],
    learning_rate: float,
) -> NDArray[np.float64]:
    """One step of B agents, in place; returns each one's mean loss before it, (B,).

    Args:
      weights: float32 (B, P).
      features: float32 (B, M, 32).
      labels: int64 (B, M).
      share: float32 (B, M), 1 / rows of the minibatch, 0 where there is no row.
      learning_rate: of the step.
    """
    into, bias, out, last = _layers(weights)
    hidden = np.matmul(features, into)
    hidden += bias[:, np.newaxis]
    np.maximum(hidden, 0.0, out=hidden)
    error = np.matmul(hidden, out)
    error += last[:, np.newaxis]
    error -= error.max(axis=2, keepdims=True)
    np.exp(error, out=error)
    error /= error.sum(axis=2, keepdims=True)
    agents, columns = np.arange(len(labels))[:, np.newaxis], np.arange(labels.shape[1])
    right = error[agents, columns, labels]
    losses = -(np.log(np.maximum(right, 1e-12)) * share).sum(axis=1, dtype=np.float64)
    error[agents, columns, labels] -= 1.0
    error *= share[:, :, np.newaxis] * np.float32(learning_rate)
    back = np.matmul(error, out.transpose(0, 2, 1))
    back *= hidden > 0
    out -= np.matmul(hidden.transpose(0, 2, 1), error)
    last -= error.sum(axis=1)
    into -= np.matmul(features.transpose(0, 2, 1), back)
    bias -= back.sum(axis=1)
    return np.asarray(losses)


def _layers(weights: Weights) -> tuple[Weights, Weights, Weights, Weights]:
    """Views of (B, P): (B, 32, 64), (B, 64), (B, 64, 10), (B, 10)."""
    into, bias, out, last = (weights[:, low:high] for low, high in pairwise(_CUTS))
    return into.reshape(-1, DIMENSIONS, HIDDEN), bias, out.reshape(-1, HIDDEN, CLASSES), last
