"""Metrics of the lists that a model makes for the users of a split.

A target is a click on an item that its user had not chosen before. Its list is over all items that
the user had not chosen before and that have a training event, without a shortlist.

Dimensions: I items.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from dien_jax.data.dataset import Dataset
from dien_jax.data.schema import UNKNOWN
from dien_jax.errors import UserError
from dien_jax.inference.bucketed_programs import BucketedPrograms, LoadedModel, encoded_requests
from dien_jax.inference.lists import first_places, log_odds
from dien_jax.metrics.lists import CUT, list_metrics, target_rank
from dien_jax.runs.trained import TrainedModel
from dien_jax.utils.console import Stage, stage

MOST_TARGETS = 2000
"""Targets that are drawn from a split with more."""
TARGETS_AT_ONCE = 64


class Target(NamedTuple):
    """A click of a split: its example, user, item, and all earlier behaviours as rows."""

    example: int
    group: int
    item: int
    history: np.ndarray


def list_targets(dataset: Dataset, split: str, most: int = MOST_TARGETS) -> list[Target]:
    """Return the targets of a split, at most so many, drawn at random."""
    examples, offsets = dataset.splits[split], np.asarray(dataset.event_offsets)
    clicks = np.flatnonzero(np.asarray(examples.label) == 1)
    targets: list[Target] = []
    for row in np.random.default_rng(0).permutation(clicks):
        history = dataset.event_item[offsets[examples.sequence[row]] : examples.history_end[row]]
        item = int(examples.item[row])
        if item == UNKNOWN or item not in history:
            targets.append(Target(int(row), int(examples.group[row]), item, np.asarray(history)))
        if len(targets) == most:
            break
    return targets


def report_lists(
    targets: list[Target], scores: Iterable[np.ndarray], popularity: np.ndarray
) -> dict[str, Any]:
    """Return :func:`dien_jax.metrics.list_metrics` of targets, given the scores ``[I]`` of each.

    Scores are changed here. Items without a training event, by ``popularity`` ``[I]``, are on no
    list.
    """
    ranks, lists = [], []
    for target, own in zip(targets, scores, strict=True):
        own[popularity == 0] = own[UNKNOWN] = -np.inf
        own[target.history] = -np.inf
        ranks.append(target_rank(own, target.item))
        first = first_places(own, CUT)
        lists.append(first[own[first] > -np.inf])
    groups = np.array([target.group for target in targets], np.int64)
    return list_metrics(np.array(ranks), groups, lists, popularity)


def measure_lists(
    model: TrainedModel, split: str = "test", most: int = MOST_TARGETS
) -> dict[str, Any]:
    """Return the metrics of a model's lists by name, see :func:`dien_jax.metrics.list_metrics`.

    ``hr_10_popularity`` is HR@10 of the most popular items for every user, to compare with.

    >>> from dien_jax import load_run
    >>> from dien_jax.inference import measure_lists
    >>> metrics = measure_lists(load_run("runs/first"), "test")
    >>> 0 <= metrics["ndcg_10"] <= metrics["hr_10"] <= 1
    True

    Args:
      model: of :func:`dien_jax.load_run`.
      split: ``"train"``, ``"valid"`` or ``"test"``.
      most: maximum number of targets; more are drawn at random.

    Raises:
      UserError: for a model without list offsets.
    """
    if model.list_offsets is None:
        raise UserError("the run has no list_offsets.npy, which lists need: train it again")
    dataset = model.dataset
    targets = list_targets(dataset, split, most)
    popularity = np.isfinite(model.list_offsets) * np.asarray(dataset.popularity)
    with stage(f"listing items for {len(targets):,} clicks of {dataset.path}") as current:
        metrics = report_lists(targets, _scores(model, split, targets, current), popularity)
    dataset.check_files()
    simple = (popularity.astype(np.float64) for _ in targets)
    return metrics | {"hr_10_popularity": report_lists(targets, simple, popularity)["hr_10"]}


def _scores(
    model: TrainedModel, split: str, targets: list[Target], current: Stage
) -> Iterator[np.ndarray]:
    """Yield the corrected log odds of all items for each target, float64 ``[I]``."""
    dataset, loaded = model.dataset, LoadedModel.from_run(model)
    programs, offsets = BucketedPrograms(loaded), model.list_offsets
    assert offsets is not None
    listed = np.flatnonzero(np.isfinite(offsets)).astype(np.int32)
    for start in range(0, len(targets), TARGETS_AT_ONCE):
        current.share = start / len(targets)
        some = targets[start : start + TARGETS_AT_ONCE]
        examples = dataset.splits[split].take(np.array([target.example for target in some]))
        requests = encoded_requests(loaded, examples, [target.history for target in some])
        for request in requests:
            request.candidates = listed
        for probabilities in programs.score(requests):
            scores = np.full(len(offsets), -np.inf)
            scores[listed] = log_odds(probabilities) + offsets[listed]
            yield scores
