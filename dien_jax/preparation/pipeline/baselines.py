"""Scores of rules without a model on the held-out examples that were just made.

A data set on which such a rule does well, or on which unknown items tell clicks from the rest, says
little about a model. Dimensions: n examples, V items with the unknown one.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dien_jax.data.schema import UNKNOWN
from dien_jax.metrics import auc
from dien_jax.preparation.pipeline.target_negatives import EarlierItems

CHUNK_EXAMPLES = 1 << 18  # examples processed at a time
LARGE = 0.02  # difference of the unknown shares of positives and negatives that is worth a sentence


class Candidates(NamedTuple):
    """The candidates of a split, as rules without a model see them."""

    label: np.ndarray  # int [n]
    row: np.ndarray  # int32 [n], row of the item
    in_history: np.ndarray  # bool [n], whether the history has the item


def in_history(
    sequence: np.ndarray,
    end: np.ndarray,
    item: np.ndarray,
    event_item: np.ndarray,
    offsets: np.ndarray,
) -> np.ndarray:
    """Tell for each example whether its history has its candidate: bool ``[n]``.

    ``sequence``, ``end`` and ``item``, ``[n]``, are the sequence of each example, the event before
    which its history ends, and its candidate. ``event_item`` and ``offsets`` hold the sequences.
    """
    num_items = 1 + int(max(item.max(initial=0), event_item.max(initial=0)))
    contained = np.zeros(len(item), bool)
    for start in range(0, len(item), CHUNK_EXAMPLES):
        part = slice(start, start + CHUNK_EXAMPLES)
        earlier = EarlierItems(sequence[part], event_item, offsets, num_items)
        contained[part] = earlier.contain(np.arange(len(item[part])), item[part], end[part])
    return contained


def describe_baselines(
    splits: Mapping[str, Candidates], popularity: np.ndarray, drawn: str = ""
) -> list[str]:
    """Return lines about the AUC of simple rules, and about candidates that training lacks.

    Args:
      splits: the held-out splits by name. Those without an example are left out.
      popularity: int64 ``[V]``, training events of each item.
      drawn: how negatives were drawn, for example "in proportion to popularity"; empty where
        nothing was drawn.
    """
    splits = {name: rows for name, rows in splits.items() if len(rows.label)}
    if not splits:
        return []
    repeated = {name: auc(rows.label, rows.in_history) for name, rows in splits.items()}
    popular = {name: auc(rows.label, popularity[rows.row]) for name, rows in splits.items()}
    why = ""
    if drawn and any(area is not None and area < 0.5 for area in popular.values()):
        why = f"; under one half, as negatives are drawn {drawn} and positives are often rarer"
    return [
        f'AUC of the rule "the candidate is in the history": {_by_split(repeated)}',
        f"AUC of popularity in training: {_by_split(popular)}{why}",
        *map(_describe_unknown, splits, splits.values()),
    ]


def _by_split(areas: Mapping[str, float | None]) -> str:
    """Return the areas in words."""
    shown = {name: "undefined" if area is None else f"{area:.4f}" for name, area in areas.items()}
    return ", ".join(f"{area} on {name}" for name, area in shown.items())


def _describe_unknown(name: str, rows: Candidates) -> str:
    """Return how many candidates are unknown, and what ranking by that alone would score."""
    unknown = rows.row == UNKNOWN
    counts = {}
    for kind, label in (("positives", 1), ("negatives", 0)):
        chosen = rows.label == label
        counts[kind] = int(np.count_nonzero(unknown & chosen)), int(np.count_nonzero(chosen))
    shown = " and ".join(f"{few:,} of {all_:,} {kind}" for kind, (few, all_) in counts.items())
    shares = [few / max(all_, 1) for few, all_ in counts.values()]
    area = auc(rows.label, unknown)
    text = f"{name}: {shown} are unknown in training"
    if area is None or abs(shares[0] - shares[1]) < LARGE:
        return text
    where, area = ("first", area) if area > 0.5 else ("last", 1 - area)
    return f"{text}; ranking these {where} alone gives an AUC of {area:.4f}"
