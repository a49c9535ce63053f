"""How to train: the numbers that decide a training, checked.

Pure. A plan refuses values out of range and combinations without a meaning; what depends on the
loss or the rows is checked where training begins (`train`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from agent.learning.optimizers import Optimizer, OptimizerName, optimizer_named
from wire.manifest import Symmetry


@dataclass(frozen=True)
class TrainingPlan:
    """How to train.

    Attributes:
      epochs: passes over the rows, at most.
      batch_size: rows in one step; an epoch's last batch may have fewer.
      optimizer: `sgd`, `momentum` (0.9) or `adam`.
      learning_rate: the optimizer's step size.
      class_weights: weight of the rows of each class, all 1 when empty. Binary cross-entropy:
        (of label 0, of label 1); a label between weighs in between. Cross-entropy: one per class.
        Other losses have no classes and refuse them.
      proximal: mu of FedProx (Li et al., arXiv:1812.06127): adds mu/2 |p - start|^2.
      seed: of the order of rows.
      average_tail: if positive, return the mean of the parameters over this last share of the
        planned steps (Polyak averaging) in place of the last step's.
      last_learning_rate: if positive, the step size goes linearly to this one, epoch by epoch.
      patience: if positive, training ends when the loss on held-out rows has not improved for
        this many epochs, and the best epoch's parameters are returned; the start takes part as
        epoch 0, so what is returned is never worse on held-out rows than the start. Refused
        together with `average_tail`: where the tail begins depends on where training ends.
      clip_norm: if positive, each step uses the sum of the examples' gradients, each clipped to
        this Euclidean norm, divided by `batch_size` (Abadi et al., arXiv:1607.00133, algorithm 1;
        always the planned size, so that one row's influence does not depend on the batch).
      noise_multiplier: standard deviation, in units of `clip_norm`, of the Gaussian noise added to
        each clipped sum. If positive, batches are not shuffled epochs: each is a Poisson sample of
        the rows, drawn in secret with the rate batch_size / rows, or all rows where `batch_size`
        holds them (then the sum is divided by their number); an epoch has as many steps as
        otherwise. Privacy accounting is the caller's (`agent/privacy`). Refused together with
        `patience`: which epoch is the best on held-out rows would be told without noise.
      symmetry: each step shows each image in one of these positions, drawn by seed, epoch and step;
        images that judge lie as they are.
    """

    epochs: int
    batch_size: int
    optimizer: OptimizerName
    learning_rate: float
    class_weights: tuple[float, ...] = ()
    proximal: float = 0.0
    seed: int = 0
    average_tail: float = 0.0
    last_learning_rate: float = 0.0
    patience: int = 0
    clip_norm: float = 0.0
    noise_multiplier: float = 0.0
    symmetry: Symmetry = "none"

    def __post_init__(self) -> None:
        """Check ranges and combinations.

        Raises:
          ValueError: a field is out of range, or two do not go together; names them.
        """
        checks = {
            "epochs": self.epochs >= 1,
            "batch_size": self.batch_size >= 1,
            "learning_rate": 0 < self.learning_rate < math.inf,
            "class_weights": all(0 < weight < math.inf for weight in self.class_weights),
            "proximal": 0 <= self.proximal < math.inf,
            "seed": self.seed >= 0,
            "average_tail": 0 <= self.average_tail <= 1,
            "last_learning_rate": 0 <= self.last_learning_rate < math.inf,
            "patience": self.patience >= 0,
            "clip_norm": 0 <= self.clip_norm < math.inf,
            "noise_multiplier": 0 <= self.noise_multiplier < math.inf,
        }
        wrong = [name for name, holds in checks.items() if not holds]
        if wrong:
            raise ValueError(f"training plan: {wrong[0]} = {getattr(self, wrong[0])} out of range")
        if self.patience and self.average_tail:
            raise ValueError("training plan: patience and average_tail exclude each other")
        if self.noise_multiplier and not self.clip_norm:
            raise ValueError("training plan: noise_multiplier needs a clip_norm")
        if self.noise_multiplier and self.patience:
            raise ValueError("training plan: noise_multiplier and patience exclude each other")

    def optimizer_of(self, epoch: int) -> Optimizer:
        """The optimizer with the step size of an epoch, 0 being the first."""
        rate = self.learning_rate
        if self.last_learning_rate and self.epochs > 1:
            rate += (self.last_learning_rate - rate) * epoch / (self.epochs - 1)
        return optimizer_named(self.optimizer, rate)
