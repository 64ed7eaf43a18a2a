"""Progress of a training run, as checkpoints store it and as it is reported."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import msgspec

from dien_jax.errors import UserError
from dien_jax.model.tower import Part
from dien_jax.utils.json_values import Count, NotNegative, as_complete

EXAMPLES = "weight"
"""The training metric that counts the real rows of a batch; the others are means over them."""


@dataclass
class Progress:
    """The part of a checkpoint on the host; JSON restores its numbers exactly.

    Attributes:
      step: steps taken.
      evaluated_step, best_step: steps of the last and the best evaluation; 0 before the first.
      best_score: score of the best evaluation, higher is better; None before the first.
      valid_before: validation metrics before the first step of a warm start; else None.
      network_from: step after which the network is trained; None while the tower is trained.
      worse_evaluations: evaluations since the best one.
      totals: training metrics since the last evaluation, summed over examples.
      timed_examples, timed_seconds: examples and duration of the steps that were timed.
      wall_seconds: time since the start, over all processes of the run.
    """

    step: Count = 0
    evaluated_step: Count = 0
    best_step: Count = 0
    best_score: Annotated[float, msgspec.Meta(le=1)] | None = None
    valid_before: dict[str, float | None] | None = None
    network_from: Count | None = None
    worse_evaluations: Count = 0
    totals: dict[str, float] = field(default_factory=dict)
    timed_examples: NotNegative = 0.0
    timed_seconds: NotNegative = 0.0
    wall_seconds: NotNegative = 0.0

    @classmethod
    def restored(cls, values: dict[str, Any], step: int, source: str) -> "Progress":
        """Return the progress in the checkpoint of a step; ``source`` names it in errors."""
        progress = as_complete(values, cls, source)
        if not progress.best_step <= progress.evaluated_step <= progress.step == step:
            order = f"best_step <= evaluated_step <= step == {step}"
            steps = (progress.best_step, progress.evaluated_step, progress.step)
            raise UserError(f"{source}: expected {order}, found {steps}")
        if (progress.network_from or 0) > progress.evaluated_step:
            limit = f"network_from to be at most {progress.evaluated_step}"
            raise UserError(f"{source}: expected {limit}, found {progress.network_from}")
        if (progress.best_score is None) != (progress.best_step == 0):
            both = f"best_score {progress.best_score} and best_step {progress.best_step}"
            raise UserError(f"{source}: expected both of an evaluation or none, found {both}")
        if progress.totals and progress.totals.get(EXAMPLES, 0) <= 0:
            raise UserError(f"{source}: expected totals.{EXAMPLES} to be above 0")
        return progress

    @property
    def part(self) -> Part:
        """The part of the model that is being trained."""
        return "tower" if self.network_from is None else "network"

    def evaluated(self, score: float) -> bool:
        """Record the score of an evaluation at the current step; return whether it is the best."""
        is_best = self.best_score is None or score > self.best_score
        if is_best:
            self.best_step, self.best_score = self.step, score
        self.worse_evaluations = 0 if is_best else self.worse_evaluations + 1
        self.evaluated_step, self.totals = self.step, {}
        return is_best

    def begin_network(self) -> None:
        """Train the network from the current step on, and measure its speed alone."""
        self.network_from, self.worse_evaluations = self.step, 0
        self.timed_examples = self.timed_seconds = 0.0

    @property
    def examples_per_second(self) -> float | None:
        """Training speed; None before a step was timed."""
        return self.timed_examples / self.timed_seconds if self.timed_seconds else None


class StepReport(NamedTuple):
    """Progress between two evaluations; ``metrics`` are means since the last report."""

    step: int
    total_steps: int
    metrics: dict[str, float]
    examples_per_second: float | None
    learning_rate: float


def losses_in_words(metrics: Mapping[str, float]) -> list[str]:
    """Return the click loss and the unweighted auxiliary loss, if any.

    Their weighted sum says little: the auxiliary loss, with a weight of 8, hides the other.
    """
    names = [name for name in ("click_loss", "auxiliary_loss") if metrics.get(name)]
    return [f"{name.replace('_', ' ')} {metrics[name]:.4f}" for name in names]


def add_metrics(totals: dict[str, float], metrics: dict[str, float]) -> None:
    """Add the metrics of one batch to sums over examples."""
    for name, value in metrics.items():
        total = value if name == EXAMPLES else value * metrics[EXAMPLES]
        totals[name] = totals.get(name, 0.0) + total


def mean_metrics(totals: dict[str, float]) -> dict[str, float]:
    """Return means over examples from the sums of :func:`add_metrics`."""
    return {name: value / totals[EXAMPLES] for name, value in totals.items() if name != EXAMPLES}
