"""The training child for what can wait: a site's own models, made while the learner needs it not.

Responsible for giving way.  A training is asked at each of its checkpoints whether the learner
wants the child, stops there if so, and goes on from there afterwards; so what is interrupted is
this training and never the learner's.

Invariant: what is returned was computed by the model that was asked for.  The learner may prepare
another one in between, but only for another bundle, and that is in use by then; `Superseded` says
so.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.adopted import Adopted
from agent.adoption import Adoption
from agent.learning.personalise import CandidateFailed
from agent.learning.place import TrainingPlace
from agent.learning.plan import TrainingPlan
from agent.learning.rows import Labelled
from agent.learning.train import TrainingResult
from agent.learning.worker import TrainingFailed
from wire.tensors import Params

_CHECKPOINT_S = 0.5
_LOOK_S = 0.2


class Superseded(Exception):  # noqa: N818 - states what happened
    """Another bundle is in use than the one that was trained."""


@dataclass(frozen=True, eq=False)
class SpareTime:
    """A trainer of one head's model (`personalise.Trainer`) that lets the learner go first.

    Attributes:
      process: the child, shared with the learner.
      adopted: the head.
      adoption: says which head is in use.
      is_busy: whether the learner needs the child, or nothing is to be trained now.
    """

    process: TrainingPlace
    adopted: Adopted
    adoption: Adoption
    is_busy: Callable[[], bool]

    async def train(
        self,
        params: Params,
        x: NDArray[np.float32],
        y: NDArray[Any],
        plan: TrainingPlan,
        *,
        held_out: Labelled | None = None,
    ) -> TrainingResult:
        """Train, with as many interruptions as the learner needs.

        Raises:
          CandidateFailed: this training came to nothing, such as by diverging.
          Superseded: another bundle is in use.
          TrainingProcessDied: the child ended.
        """

        def give_way(_checkpoint: bytes) -> None:
            if self.is_busy():
                self.process.interrupt()

        checkpoint: bytes | None = None
        while True:
            await self._prepare()
            try:
                result = await self.process.train(
                    params,
                    x,
                    y,
                    plan,
                    held_out=held_out,
                    checkpoint=checkpoint,
                    checkpoint_s=_CHECKPOINT_S,
                    on_checkpoint=give_way,
                )
            except TrainingFailed as error:
                self._check()
                raise CandidateFailed(str(error)) from error
            self._check()
            if not result.stopped:
                return result
            if result.checkpoint is not None:
                checkpoint = result.checkpoint.to_bytes()

    async def infer(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the model on rows x.

        Raises:
          Superseded: another bundle is in use.
          TrainingFailed, TrainingProcessDied: the child can not, or ended.
        """
        await self._prepare()
        outputs = await self.process.infer(params, x)
        self._check()
        return outputs

    async def _prepare(self) -> None:
        while self.is_busy():  # noqa: ASYNC110  whoever is busy need not know that somebody waits
            await asyncio.sleep(_LOOK_S)
        self._check()
        model = self.adopted.model
        await self.process.prepare(model.graph, model.loss, model.golden)

    def _check(self) -> None:
        current = self.adoption.current
        if current is None or current.head.bundle.digest != self.adopted.head.bundle.digest:
            raise Superseded
