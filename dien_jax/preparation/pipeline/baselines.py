"""Rules without a model, scored on the held-out examples that were just made.

A data set on which "the candidate is in the history" ranks well, or on which unknown items tell
clicks from the rest, says little about a model. Dimension: n examples.
"""

from collections.abc import Mapping

import numpy as np

from dien_jax.data.schema import UNKNOWN
from dien_jax.preparation.pipeline.target_negatives import EarlierItems

LARGE = 0.02  # difference of the unknown shares of positives and negatives that is worth a sentence
RETURNING = 0.55  # AUC of "the candidate is in the history" above which that is worth a sentence


class RuleCounts:
    """Counts of the examples of a split by label, int64 ``[2]`` each.

    Attributes:
      examples: all of them.
      repeated: those whose history has the candidate.
      unknown: those whose candidate is unknown in training.
    """

    def __init__(self) -> None:
        self.examples, self.repeated, self.unknown = np.zeros((3, 2), np.int64)

    def add(self, label: np.ndarray, row: np.ndarray, in_history: np.ndarray) -> None:
        """Count examples.

        Args:
          label: int ``[n]``.
          row: int32 ``[n]``, row of the item.
          in_history: bool ``[n]``, whether the history has the item.
        """
        self.examples += np.bincount(label, minlength=2)
        self.repeated += np.bincount(label[in_history], minlength=2)
        self.unknown += np.bincount(label[row == UNKNOWN], minlength=2)

    def auc(self, first: np.ndarray) -> float | None:
        """Return the AUC of ranking some examples first, whose counts by label are given.

        None without examples of both labels.

        >>> counts = RuleCounts()
        >>> counts.add(np.array([0, 0, 1, 1]), np.ones(4), np.array([False, False, False, True]))
        >>> counts.auc(counts.repeated)
        0.75
        """
        if not self.examples.all():
            return None
        negatives, positives = first / self.examples
        return float(1 + positives - negatives) / 2


def in_history(
    sequence: np.ndarray,
    end: np.ndarray,
    item: np.ndarray,
    event_item: np.ndarray,
    offsets: np.ndarray,
    chunk: int = 1 << 18,
) -> np.ndarray:
    """Tell for each example whether its history has its candidate: bool ``[n]``.

    ``sequence``, ``end`` and ``item``, ``[n]``, are the sequence of each example, the event before
    which its history ends, and its candidate. ``event_item`` and ``offsets`` hold the sequences.
    ``chunk`` examples are processed at a time.
    """
    num_items = 1 + int(max(item.max(initial=0), event_item.max(initial=0)))
    contained = np.zeros(len(item), bool)
    for start in range(0, len(item), chunk):
        part = slice(start, start + chunk)
        earlier = EarlierItems(sequence[part], event_item, offsets, num_items)
        contained[part] = earlier.contain(np.arange(len(item[part])), item[part], end[part])
    return contained


def describe_baselines(
    splits: Mapping[str, RuleCounts], *, no_own_negatives: bool = False
) -> list[str]:
    """Return lines about candidates that are in the history, and about those that training lacks.

    Args:
      splits: the held-out splits by name. Those without an example are left out.
      no_own_negatives: whether what a user had chosen before was never drawn.
    """
    splits = {name: counts for name, counts in splits.items() if counts.examples.any()}
    if not splits:
        return []
    areas = {name: counts.auc(counts.repeated) for name, counts in splits.items()}
    shown = {name: "undefined" if area is None else f"{area:.4f}" for name, area in areas.items()}
    by_split = ", ".join(f"{area} on {name}" for name, area in shown.items())
    returns = ""
    if no_own_negatives and any(area and area > RETURNING for area in areas.values()):
        returns = (
            "; users return to items, and no negative is in the history, so a model learns to rank "
            "what is in it first; --allow-own-negatives draws negatives there too"
        )
    return [
        f'AUC of the rule "the candidate is in the history": {by_split}{returns}',
        *map(_describe_unknown, splits, splits.values()),
    ]


def _describe_unknown(name: str, counts: RuleCounts) -> str:
    """Return how many candidates are unknown, and what ranking by that alone would score."""
    numbers = zip(("negatives", "positives"), counts.unknown, counts.examples, strict=True)
    negatives, positives = (f"{few:,} of {all_:,} {kind}" for kind, few, all_ in numbers)
    text = f"{name}: {positives} and {negatives} are unknown in training"
    area = counts.auc(counts.unknown)
    if area is None or abs(2 * area - 1) < LARGE:
        return text
    where, area = ("first", area) if area > 0.5 else ("last", 1 - area)
    return f"{text}; ranking these {where} alone gives an AUC of {area:.4f}"
