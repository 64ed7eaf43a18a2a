"""How far a training run is: what a checkpoint holds beside the train state."""

from dataclasses import dataclass, field

EXAMPLES = "weight"
"""The training metric that counts the real rows of a batch; the others are means over them."""


@dataclass
class Progress:
    """What a checkpoint holds beside the train state; numbers that JSON keeps exactly.

    Attributes:
      step: steps taken.
      evaluated_step: step of the last evaluation; 0 before the first.
      best_step: step of the best evaluation; 0 before the first.
      best_score: what that reached, higher is better; None before the first.
      worse_evaluations: evaluations since the best one.
      totals: training metrics since the last evaluation, summed over examples.
      timed_examples: examples of the steps that were timed.
      timed_seconds: how long those took.
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


def add(totals: dict[str, float], row: dict[str, float]) -> None:
    """Adds one batch's metrics to sums over examples."""
    for name, value in row.items():
        share = value if name == EXAMPLES else value * row[EXAMPLES]
        totals[name] = totals.get(name, 0.0) + share


def means(totals: dict[str, float]) -> dict[str, float]:
    """Means over examples, of sums by :func:`add`."""
    return {name: value / totals[EXAMPLES] for name, value in totals.items() if name != EXAMPLES}
