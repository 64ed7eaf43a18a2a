"""Progress of a training run: the part of a checkpoint that is not the train state."""

from dataclasses import dataclass, field

EXAMPLES = "weight"
"""The training metric that counts the real rows of a batch; the others are means over them."""


@dataclass
class Progress:
    """The host's part of a checkpoint; JSON restores its numbers exactly.

    Attributes:
      step: steps taken.
      evaluated_step: step of the last evaluation; 0 before the first.
      best_step: step of the best evaluation; 0 before the first.
      best_score: its score, higher is better; None before the first.
      worse_evaluations: evaluations since the best one.
      totals: training metrics since the last evaluation, summed over examples.
      timed_examples: examples of the steps that were timed.
      timed_seconds: duration of those steps.
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


def add_metrics(totals: dict[str, float], metrics: dict[str, float]) -> None:
    """Add the metrics of one batch to sums over examples."""
    for name, value in metrics.items():
        total = value if name == EXAMPLES else value * metrics[EXAMPLES]
        totals[name] = totals.get(name, 0.0) + total


def mean_metrics(totals: dict[str, float]) -> dict[str, float]:
    """Return means over examples of sums by :func:`add_metrics`."""
    return {name: value / totals[EXAMPLES] for name, value in totals.items() if name != EXAMPLES}
