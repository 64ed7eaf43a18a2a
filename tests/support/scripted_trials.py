"""A trainer whose AUC is a function of the learning rate, in place of training."""

import math

from dien_jax.errors import NotFiniteError
from dien_jax.training.progress import StepReport

RATE = {"optim.learning_rate": {"low": 0.001, "high": 0.1, "log": True}}
EPOCHS = 3


class Scripted:
    """A trainer whose AUC rises to what the learning rate is worth: most at its peak."""

    trained: list[float]
    peak = 0.01
    diverges_above = math.inf
    dies_at: int | None = None

    def __init__(self, run, dataset, checkpoints):
        assert checkpoints is None
        self._rate = run.config.optim.learning_rate
        self.finished = False

    def evaluations(self, listener):
        self.trained.append(self._rate)
        for epoch in range(1, EPOCHS + 1):
            if len(self.trained) == self.dies_at and epoch == 2:
                raise KeyboardInterrupt
            if epoch == 2 and self._rate > self.diverges_above:
                raise NotFiniteError("the loss is not finite")
            self.finished = epoch == EPOCHS
            listener(StepReport(epoch, EPOCHS, {"loss": 0.5}, 10.0, 0.1))
            value = 0.9 - 0.1 * abs(math.log10(self._rate / self.peak)) - 0.1 / epoch
            yield {"epoch": float(epoch), "valid": {"auc": value}}
