"""Metrics of a model's item lists for the users of a split.

A target is a click on an item that its user had not chosen before. Its list ranks all items that
the user had not chosen before and that have a training event.

Dimensions: I items.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dien_jax.data.dataset import Dataset
from dien_jax.data.schema import UNKNOWN
from dien_jax.inference.bucketed_programs import BucketedPrograms, EncodedRequest, encoded_requests
from dien_jax.inference.lists import EXACT_ITEMS, ItemLists, log_odds
from dien_jax.inference.loaded_model import LoadedModel
from dien_jax.inference.shortlist import stage_sizes
from dien_jax.metrics.lists import CUT, first_places, list_metrics
from dien_jax.model.statistics import RULE_EVENTS
from dien_jax.runs.calibration import negative_distribution
from dien_jax.runs.list_weights import PARTS, ListWeights, fit_list_weights
from dien_jax.runs.summary import save_lists
from dien_jax.runs.trained import TrainedModel, load_run
from dien_jax.utils.console import Stage, say, stage

MOST_TARGETS = 2000
"""Maximum number of targets of a split; more are sampled at random."""
TARGETS_AT_ONCE = 64
MOST_FITTED = 4000
"""Maximum number of clicks that weights of parts of a score are fitted on."""
TARGETS_OF_RUN, LEAST_TARGETS = 1000, 100
"""Maximum and minimum number of targets at the end of a run; fewer give uncertain rates."""
MOST_SCORES, MOST_ITEMS = 2_000_000, 100_000
"""Limits at the end of a run: scores of a model without a tower, for some ten seconds; items."""


Scored = tuple[int, dict[str, np.ndarray]]
"""The place of the clicked item among its candidates, and the parts of their scores."""


class Target(NamedTuple):
    """A click of a split: example number, user, item row, and rows of all earlier behaviours."""

    example: int
    group: int
    item: int
    history: np.ndarray


def list_targets(dataset: Dataset, split: str, most: int = MOST_TARGETS) -> list[Target]:
    """Return the targets of a split in random order, at most ``most``."""
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
    targets: list[Target], lists: Iterable[np.ndarray], popularity: np.ndarray
) -> tuple[dict[str, Any], dict[int, float]]:
    """Return :func:`dien_jax.metrics.list_metrics` of targets, and their ranks by example.

    ``lists`` has the item rows of each target's list, best first. ``popularity`` ``[I]`` is the
    number of training events of each item, 0 for items that may not be listed. Ranks begin at 1;
    that of a target that is not listed is infinity.
    """
    ranks, first = [], []
    for target, rows in zip(targets, lists, strict=True):
        place = np.flatnonzero(rows == target.item)
        ranks.append(1.0 + int(place[0]) if len(place) else np.inf)
        first.append(rows[:CUT])
    groups = np.array([target.group for target in targets], np.int64)
    metrics = list_metrics(np.array(ranks), groups, first, popularity)
    return metrics, {target.example: rank for target, rank in zip(targets, ranks, strict=True)}


def sorted_items(
    target: Target, scores: np.ndarray, popularity: np.ndarray, most: int | None = None
) -> np.ndarray:
    """Return at most ``most`` rows of items that may be listed, by scores ``[I]``, best first."""
    allowed = popularity > 0
    allowed[UNKNOWN] = allowed[target.history] = False
    rows = np.flatnonzero(allowed)
    return rows[first_places(scores[rows], len(rows) if most is None else most)]


def simple_rules(dataset: Dataset) -> dict[str, Callable[[Target], np.ndarray]]:
    """Return simple rules by name: functions that score all items ``[I]`` for a target.

    ``popularity`` counts training events. ``sequential_rules``, if the dataset has counts, is the
    sum over the last ``RULE_EVENTS`` events of the training users who chose an item after the
    event, over the root of the users of the event and its age, 1 for the last one; ties by
    popularity.

    Source: Ludewig and Jannach, UMUAI 2018 (arXiv:1803.09587).
    """
    popularity = np.asarray(dataset.popularity, np.float64)
    share = popularity / max(popularity.sum(), 1)  # below 1, for ties
    rules: dict[str, Callable[[Target], np.ndarray]] = {"popularity": lambda _: share}
    counts = dataset.statistics.values.get(dataset.schema.item[0].name)
    if counts is not None:

        def sequential_rules(target: Target) -> np.ndarray:
            scores = share * 1e-9
            for age, event in enumerate(target.history[: -RULE_EVENTS - 1 : -1], 1):
                pairs = slice(counts.offsets[event], counts.offsets[event + 1])
                after = counts.together[pairs] - counts.before[pairs]
                # The other items of an event are distinct.
                scores[counts.other[pairs]] += after / (np.sqrt(counts.count[event] + 1.0) * age)
            return scores

        rules["sequential_rules"] = sequential_rules
    return rules


def measure_lists(
    model: TrainedModel, split: str = "test", most: int = MOST_TARGETS, *, exact: bool = True
) -> dict[str, Any]:
    """Return the metrics of a model's lists by name, see :func:`dien_jax.metrics.list_metrics`.

    For comparison, ``hr_10_popularity`` and ``ndcg_10_popularity`` are those of the most popular
    items for every user, ``hr_10_sequential_rules`` and ``ndcg_10_sequential_rules``, if the
    dataset has counts, of the items that most users chose after the last events.

    >>> from dien_jax import load_run
    >>> from dien_jax.inference import measure_lists
    >>> metrics = measure_lists(load_run("runs/first"), "test")
    >>> 0 <= metrics["ndcg_10"] <= metrics["hr_10"] <= 1
    True

    Args:
      model: from :func:`dien_jax.load_run`.
      split: ``"train"``, ``"valid"`` or ``"test"``.
      most: maximum number of targets; more are sampled at random.
      exact: score all items with the whole model; else measure lists as ``recommend`` makes them.
        These end after the first items, so ``mrr`` is None.

    Raises:
      UserError: for a model without list offsets.
    """
    return lists_and_ranks(model, split, most, exact=exact)[0]


def lists_and_ranks(
    model: TrainedModel,
    split: str,
    most: int = MOST_TARGETS,
    *,
    exact: bool = True,
    watch: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], dict[int, float]]:
    """Return :func:`measure_lists`, and ranks by example; infinity for targets not listed."""
    dataset, loaded = model.dataset, LoadedModel.from_run(model)
    lists, targets = ItemLists(loaded, BucketedPrograms(loaded)), list_targets(dataset, split, most)
    options = lists.options(dataset.schema.num_items if exact else CUT)
    popularity = lists.listed * np.asarray(dataset.popularity)

    def made(current: Stage) -> Iterator[np.ndarray]:
        for start in range(0, len(targets), TARGETS_AT_ONCE):
            watch()
            current.share = start / len(targets)
            some = targets[start : start + TARGETS_AT_ONCE]
            examples = dataset.splits[split].take(np.array([target.example for target in some]))
            histories = [target.history for target in some]
            requests = encoded_requests(loaded, examples, histories, dataset.events)
            for rows, _ in lists.rows_of_requests(requests, histories, options):
                yield rows

    with stage(f"listing items for {len(targets):,} clicks of {dataset.path}") as current:
        metrics, ranks = report_lists(targets, made(current), popularity)
    dataset.check_files()
    metrics |= {} if exact else {"mrr": None, "mrr_interval": None}
    for name, score in simple_rules(dataset).items():
        simple = (sorted_items(target, score(target), popularity, CUT) for target in targets)
        found = report_lists(targets, simple, popularity)[0]
        metrics |= {f"{metric}_{name}": found[metric] for metric in ("hr_10", "ndcg_10")}
    return metrics, ranks


def fitted_weights(
    model: TrainedModel, most: int = MOST_FITTED, watch: Callable[[], None] = lambda: None
) -> ListWeights | None:
    """Return weights of the parts of a score in lists, fitted on clicks of the validation split.

    The candidates of each of ``most`` clicks are those that the stages leave, without weights; see
    :func:`dien_jax.runs.list_weights.fit_list_weights`. Clicks on other items do not count. Return
    None if fewer than ``LEAST_TARGETS`` remain.
    """
    loaded, dataset = LoadedModel.from_run(model._replace(list_weights=None)), model.dataset
    programs = BucketedPrograms(loaded)
    lists, targets = ItemLists(loaded, programs), list_targets(dataset, "valid", most)
    (variables, tables), offsets = loaded.arguments, loaded.list_offsets
    assert offsets is not None
    names = ["click_network", *["tower", "rules"] * ("tower" in model.params)]
    names += ["auxiliary_score"] * ("score_weight" in model.params)
    none: Any = dict.fromkeys(PARTS, 0.0)
    alone = {name: ListWeights(model.step, **none | {name: 1.0}).apply(variables) for name in names}
    alone = jax.device_put(alone)
    clicked: dict[int, int] = {}

    def parts(some: Sequence[EncodedRequest], together: bool) -> Iterator[Scored | None]:
        places = [np.flatnonzero(one.candidates == clicked[id(one)]) for one in some]
        used = list(compress(some, map(len, places)))
        columns: dict[str, Any] = {"offset": [offsets[one.candidates] for one in used]}
        for name, weighted in alone.items():
            of_tower = lists.has_tower and name in ("tower", "rules")
            for one in used:
                adds = lists.has_tower and not of_tower  # a tower's logit, in place of its own
                one.tower = np.zeros(len(one.candidates), np.float32) if adds else None
            how: Any = {"together": together, "arguments": (weighted, tables)}
            found = programs.tower(used, **how) if of_tower else programs.score(used, **how)
            columns[name] = found if of_tower else map(log_odds, found)
        rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        for place in places:
            yield (int(place[0]), next(rows)) if len(place) else None

    found: list[Scored] = []
    with stage(f"fitting the weights of lists to {len(targets):,} validation clicks") as current:
        for start in range(0, len(targets), TARGETS_AT_ONCE):
            watch()
            current.share = start / len(targets)
            some = targets[start : start + TARGETS_AT_ONCE]
            examples = dataset.splits["valid"].take(np.array([target.example for target in some]))
            histories = [target.history for target in some]
            requests = encoded_requests(loaded, examples, histories, dataset.events)
            clicked = {id(one): target.item for one, target in zip(requests, some, strict=True)}
            of_some = lists.of_shortened(requests, histories, lists.options(CUT), parts)
            found += [one for one in of_some if one is not None]
    dataset.check_files()
    if len(found) < LEAST_TARGETS:
        return None
    by_name = {name: [values[name] for _, values in found] for name in found[0][1]}
    weights: Any = fit_list_weights(by_name, [place for place, _ in found])
    fitted_on = {"split": "valid", "clicks": len(targets), "shortlisted": len(found)}
    return ListWeights(model.step, **weights, fitted_on=fitted_on)


def measure_finished(
    run_dir: Path,
    dataset: Dataset,
    least: int = LEAST_TARGETS,
    watch: Callable[[], None] = lambda: None,
) -> dict[str, Any] | None:
    """Fit a run's list weights, and measure lists as ``recommend`` makes them on clicks of test.

    Write ``list_weights.json`` and ``lists.json``, and return the metrics. Return None if negatives
    were shown instead of sampled, if there are fewer than ``least`` clicks, or if many items would
    make it slow. Lists end after the first items, so ``mrr`` is None. ``watch`` is called
    repeatedly, and may raise.
    """
    items = int(np.count_nonzero(dataset.popularity))
    if negative_distribution(dataset) == "shown" or items > MOST_ITEMS:
        return None
    if len(list_targets(dataset, "test", least)) < least:
        return None
    model = load_run(run_dir, dataset)
    most, size = TARGETS_OF_RUN, items if items <= EXACT_ITEMS else stage_sizes(CUT, items)[1]
    if not model.run.config.model.statistics:  # without a tower all items are scored
        most, size = min(most, MOST_SCORES // max(items, 1)), items
    if most < least:
        return None
    fitted = fitted_weights(model, min(max(MOST_SCORES // (2 * size), most), MOST_FITTED), watch)
    if fitted is not None:
        fitted.save(run_dir)
        say(str(fitted))
        model = model._replace(list_weights=fitted)
    metrics, ranks = lists_and_ranks(model, "test", most, exact=False, watch=watch)
    save_lists(run_dir, model.step, metrics, ranks)
    return metrics
