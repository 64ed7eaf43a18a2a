"""Progress of a training run: what a checkpoint keeps of it, and what is reported of it."""

from dataclasses import dataclass, field
from typing import NamedTuple

EXAMPLES = "weight"
"""The training metric that counts the real rows of a batch; the others are means over them."""


@dataclass
class Progress:
    """The host's part of a checkpoint; JSON restores its numbers exactly.

    Attributes:
      step: steps taken.
      evaluated_step, best_step: steps of the last and the best evaluation; 0 before the first.
      best_score: score of the best evaluation, higher is better; None before the first.
      worse_evaluations: evaluations since the best one.
      totals: training metrics since the last evaluation, summed over examples.
      timed_examples, timed_seconds: examples and duration of the steps that were timed.
      wall_seconds: time since the start, over all processes of the run.
    """

    step: int = 0
    evaluated_step: int = 0
    best_step: int = 0
    best_score: float | None = None
    worse_evaluations: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    timed_examples: float = 0.0
    timed_seconds: float = 0.0
    wall_seconds: float = 0.0

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

    def __str__(self) -> str:
        parts = [f"step {self.step:,} of {self.total_steps:,}"]
        names = [name for name in ("loss", "auxiliary_loss") if name in self.metrics]
        parts += [f"{name.replace('_', ' ')} {self.metrics[name]:.4f}" for name in names]
        if self.examples_per_second is not None:
            parts.append(f"{self.examples_per_second:,.0f} examples/s")
        return ", ".join(parts)


def add_metrics(totals: dict[str, float], metrics: dict[str, float]) -> None:
    """Add the metrics of one batch to sums over examples."""
    for name, value in metrics.items():
        total = value if name == EXAMPLES else value * metrics[EXAMPLES]
        totals[name] = totals.get(name, 0.0) + total


def mean_metrics(totals: dict[str, float]) -> dict[str, float]:
    """Return means over examples of sums by :func:`add_metrics`."""
    return {name: value / totals[EXAMPLES] for name, value in totals.items() if name != EXAMPLES}
