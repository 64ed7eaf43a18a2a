"""Accuracy of lists over all items, compared with simple rules, and their time.

    python -m benchmarks.recommend RUN [--targets N] [--of DATA] [--json FILE]
    python -m benchmarks.recommend --items N [--json FILE]

Targets are clicks of the test split on items that are new to their user, ranked among all items new
to that user. ``without weights`` gives the parts of a score equal weight, ``in the order of rank``
also omits the correction for how negatives were drawn. With ``--of``, targets are from another
dataset folder of the same log, whose earlier events trained the run. For RecBole's models run
``benchmarks/peers/recbole_lists.py``. With ``--items``, only times in stages are measured,
of random parameters and so many items.

``share_found`` is the mean share of the exact top ten that the stages find. Times are of lists of
ten, for one user with the stated number of events, and for many users with their own histories.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.report import make_parser, one_line_errors, parse, report
from benchmarks.common.timing import surroundings, timed_row
from benchmarks.ranking import random_run
from dien_jax import Ranker, load_run, open_dataset
from dien_jax.inference.list_metrics import (
    MOST_TARGETS,
    list_targets,
    measure_lists,
    report_lists,
    simple_rules,
    sorted_items,
)
from dien_jax.runs.trained import TrainedModel

TOP, PLAIN = 10, "without weights"
EVENTS, CALLS, USERS = (8, 20, 100), 10, 200
COLUMNS = ("case", "hr_10", "ndcg_10", "mrr", "coverage", "mean_popularity", "targets",
           "share_found", "median_ms", "users_per_second")  # fmt: skip


def accuracy(model: TrainedModel, most: int) -> list[dict[str, Any]]:
    """Return rows of metrics: the model with and without the correction, and each rule."""
    assert model.list_offsets is not None
    popularity = np.isfinite(model.list_offsets) * np.asarray(model.dataset.popularity)
    whole, zeros = model.run.preset, np.where(np.isfinite(model.list_offsets), 0, -np.inf)
    plain = model._replace(list_weights=None)
    raw = plain._replace(list_offsets=zeros.astype(np.float32))
    rows = {whole: measure_lists(model, "test", most, exact=False)}
    for name, other in ((PLAIN, plain), ("in the order of rank", raw)):
        rows[f"{whole}, {name}"] = measure_lists(other, "test", most, exact=False)
    targets = list_targets(model.dataset, "test", most)
    for name, score in simple_rules(model.dataset).items():
        lists = (sorted_items(target, score(target), popularity) for target in targets)
        rows[name.replace("_", " ")] = report_lists(targets, lists, popularity)[0]
    about = {"benchmark": "recommend", **surroundings()}
    return [about | {"case": name} | row for name, row in rows.items()]


def trained_on_all(model: TrainedModel, folder: Path, most: int) -> list[dict[str, Any]]:
    """Return rows of a run for the targets of another folder, with and without weights."""
    dataset = open_dataset(folder)
    names, groups = dataset.vocabulary("item"), dataset.groups()
    both = dict.fromkeys((*names, *model.dataset.vocabulary("item")))
    place = dict(zip(both, range(len(both)), strict=True))
    targets = list_targets(dataset, "test", most)
    histories = [[names[row] for row in target.history] for target in targets]
    users = [groups[target.group] for target in targets]
    rows, whole = [], f"{model.run.preset}, trained on all earlier events"
    for other, case in ((model, whole), (model._replace(list_weights=None), f"{whole}, {PLAIN}")):
        rankings = Ranker(other).recommend_many(histories, TOP, users=users)
        lists = [np.array([place[name] for name in ranking.ids]) for ranking in rankings]
        popularity = np.append(dataset.popularity, np.zeros(len(both) - len(names)))
        listed = np.unique(np.concatenate(lists))
        popularity[listed] = np.maximum(popularity[listed], 1)  # some have no training event there
        row = report_lists(targets, lists, popularity)[0] | {"case": case, "mrr": None}
        rows.append({"benchmark": "recommend", **surroundings(), **row})
    return rows


def times_of_one(model: TrainedModel, ranker: Ranker, stages: str) -> Iterator[dict[str, Any]]:
    """Yield rows of times of a list for one user, whose events are drawn at random."""
    random, names = np.random.default_rng(0), np.array(model.dataset.vocabulary("item"))
    context = dict.fromkeys(feature.name for feature in model.dataset.schema.request)
    for events in EVENTS:
        spent = []
        for call in range(CALLS + 1):
            history = names[random.integers(1, len(names), events)].tolist()
            start = time.perf_counter()
            ranker.recommend(history, TOP, request_features=context)
            spent += [1e3 * (time.perf_counter() - start)] if call else []
        yield timed_row("recommend", spent, case=f"{stages}, one user, {events} events")


def times(model: TrainedModel) -> Iterator[dict[str, Any]]:
    """Yield rows of times; that of many users in stages has ``share_found``."""
    names, targets = model.dataset.vocabulary("item"), list_targets(model.dataset, "test", USERS)
    histories = [[names[row] for row in target.history] for target in targets]
    exact, staged = Ranker(model, exact_items=len(names)), Ranker(model)
    context = dict.fromkeys(feature.name for feature in model.dataset.schema.request)
    contexts = [context] * len(histories)
    lists = []
    for stages, ranker in (("exact", exact), ("in stages", staged)):
        yield from times_of_one(model, ranker, stages)
        ranker.recommend_many(histories, TOP, request_features=contexts)
        start = time.perf_counter()
        lists.append(ranker.recommend_many(histories, TOP, request_features=contexts))
        seconds = time.perf_counter() - start
        row = timed_row("recommend", [1e3 * seconds], case=f"{stages}, {len(histories)} users")
        row["users_per_second"] = len(histories) / seconds
        if ranker is staged:
            pairs = zip(*lists, strict=True)
            row["share_found"] = np.mean([len({*a.ids} & {*b.ids}) / len(a.ids) for a, b in pairs])
        yield row


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Measure lists; print and write the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path, nargs="?", help="run folder")
    parser.add_argument("--targets", type=int, default=MOST_TARGETS, help="number of targets")
    parser.add_argument("--of", type=Path, help="dataset folder with other targets")
    parser.add_argument("--items", type=int, help="number of items of a run with random parameters")
    options = parse(parser, argv, targets=1, items=2)
    if (options.run is None) == (options.items is None):
        parser.error("name a run folder or --items")
    about, most, of = dict.fromkeys(COLUMNS, ""), options.targets, options.of
    if options.items:
        with tempfile.TemporaryDirectory() as folder:
            model = load_run(random_run(Path(folder), "wide_dien", options.items))
            rows = list(times_of_one(model, Ranker(model), "in stages"))
        about["data"] = f"{options.items:,} items"
    else:
        model = load_run(options.run)
        about["data"] = (of or model.dataset.path).name
        rows = trained_on_all(model, of, most) if of else [*accuracy(model, most), *times(model)]
    report(options, [about | row for row in rows], COLUMNS)


if __name__ == "__main__":
    main()
