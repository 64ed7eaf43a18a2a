"""Scores of rules without a model on the held-out examples that were just made.

A data set on which such a rule does well, or on which unknown items tell clicks from the rest, says
little about a model. Dimensions: n examples, V items with the unknown one.
"""

from collections.abc import Mapping

import numpy as np

from dien_jax.data.schema import UNKNOWN
from dien_jax.preparation.pipeline.target_negatives import EarlierItems

LARGE = 0.02  # difference of the unknown shares of positives and negatives that is worth a sentence
RETURNING = 0.55  # AUC of "the candidate is in the history" above which that is worth a sentence


class RuleCounts:
    """Examples of a split as rules without a model see them: counted by row and label.

    Args:
      items: V, the rows of items.
    """

    def __init__(self, items: int) -> None:
        self.items = items
        self._of_rows = np.zeros((2, items), np.int64)  # by label and row of the candidate
        self._repeated = np.zeros((2, 2), np.int64)  # by label, and whether the history has it

    def add(self, label: np.ndarray, row: np.ndarray, in_history: np.ndarray) -> None:
        """Count examples.

        Args:
          label: int ``[n]``.
          row: int32 ``[n]``, row of the item.
          in_history: bool ``[n]``, whether the history has the item.
        """
        for value in (0, 1):
            chosen = label == value
            self._of_rows[value] += np.bincount(row[chosen], minlength=self.items)
            self._repeated[value] += np.bincount(in_history[chosen], minlength=2)

    @property
    def count(self) -> int:
        return int(self._of_rows.sum())

    @property
    def positives(self) -> int:
        return int(self._of_rows[1].sum())

    @property
    def unknown(self) -> int:
        return int(self._of_rows[:, UNKNOWN].sum())

    def auc_of_repeats(self) -> float | None:
        """Return the AUC of the rule "the candidate is in the history"."""
        return auc_of_counts(np.arange(2), *self._repeated)

    def auc_of(self, scores: np.ndarray) -> float | None:
        """Return the AUC of scores by row, ``[V]``."""
        return auc_of_counts(scores, *self._of_rows)

    def unknown_by_label(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return how many candidates are unknown, and how many there are, by label."""
        (negatives, positives) = ((int(row[UNKNOWN]), int(row.sum())) for row in self._of_rows)
        return negatives, positives


def auc_of_counts(scores: np.ndarray, negatives: np.ndarray, positives: np.ndarray) -> float | None:
    """Return the AUC of scores ``[V]`` that many examples have; None without both labels.

    ``negatives`` and ``positives``, ``[V]``, count the examples of each score.

    >>> auc_of_counts(np.array([2, 1, 2]), np.array([0, 3, 1]), np.array([2, 1, 0]))
    0.7916666666666666
    """
    _, place = np.unique(scores, return_inverse=True)
    below, chosen = (np.bincount(place, weights) for weights in (negatives, positives))
    pairs = float(below.sum() * chosen.sum())
    if not pairs:
        return None
    wins = chosen * (np.cumsum(below) - below / 2)
    return float(wins.sum() / pairs)


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
    splits: Mapping[str, RuleCounts],
    popularity: np.ndarray,
    drawn: str = "",
    *,
    no_own_negatives: bool = False,
) -> list[str]:
    """Return lines about the AUC of simple rules, and about candidates that training lacks.

    Args:
      splits: the held-out splits by name. Those without an example are left out.
      popularity: int64 ``[V]``, training events of each item.
      drawn: how negatives were drawn, for example "in proportion to popularity"; empty where
        nothing was drawn.
      no_own_negatives: whether what a user had chosen before was never drawn.
    """
    splits = {name: counts for name, counts in splits.items() if counts.count}
    if not splits:
        return []
    repeated = {name: counts.auc_of_repeats() for name, counts in splits.items()}
    popular = {name: counts.auc_of(popularity) for name, counts in splits.items()}
    why = ""
    if drawn and any(area is not None and area < 0.5 for area in popular.values()):
        why = f"; under one half, as negatives are drawn {drawn} and positives are often rarer"
    returns = ""
    if no_own_negatives and any(area and area > RETURNING for area in repeated.values()):
        returns = (
            "; users return to items, and no negative is in the history, so a model learns to rank "
            "what is in it first; --allow-own-negatives draws negatives there too"
        )
    return [
        f'AUC of the rule "the candidate is in the history": {_by_split(repeated)}{returns}',
        f"AUC of popularity in training: {_by_split(popular)}{why}",
        *map(_describe_unknown, splits, splits.values()),
    ]


def _by_split(areas: Mapping[str, float | None]) -> str:
    """Return the areas in words."""
    shown = {name: "undefined" if area is None else f"{area:.4f}" for name, area in areas.items()}
    return ", ".join(f"{area} on {name}" for name, area in shown.items())


def _describe_unknown(name: str, examples: RuleCounts) -> str:
    """Return how many candidates are unknown, and what ranking by that alone would score."""
    negatives, positives = examples.unknown_by_label()
    counts = {"positives": positives, "negatives": negatives}
    shown = " and ".join(f"{few:,} of {all_:,} {kind}" for kind, (few, all_) in counts.items())
    shares = [few / max(all_, 1) for few, all_ in counts.values()]
    is_unknown = np.arange(examples.items) == UNKNOWN
    area = examples.auc_of(is_unknown)
    text = f"{name}: {shown} are unknown in training"
    if area is None or abs(shares[0] - shares[1]) < LARGE:
        return text
    where, area = ("first", area) if area > 0.5 else ("last", 1 - area)
    return f"{text}; ranking these {where} alone gives an AUC of {area:.4f}"
