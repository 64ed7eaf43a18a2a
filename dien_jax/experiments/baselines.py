"""Baselines: simple models on a dataset folder, trained, scored and stored for comparison.

OUT/<baseline>/    one folder each, see :mod:`dien_jax.runs.summary`

LightGBM is imported only to fit.
"""

import functools
import importlib.metadata
import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from dien_jax.config.settings import TrainConfig
from dien_jax.data.dataset import Dataset, data_digest, open_dataset
from dien_jax.errors import UserError, require, writing
from dien_jax.experiments.comparison import metric_headers
from dien_jax.experiments.logistic_regression import (
    LOGISTIC_REGRESSION,
    MAX_ROWS,
    Baseline,
    Inputs,
    RegressionInputs,
    fit_logistic,
    fit_single,
    selection,
)
from dien_jax.metrics.scores import METRICS
from dien_jax.model.statistics import MATCH
from dien_jax.runs.calibration import fit_calibration
from dien_jax.runs.folder import versions
from dien_jax.runs.summary import BaselineRun
from dien_jax.runs.trained import split_scores
from dien_jax.training.run import check_splits
from dien_jax.utils.console import Stage, aligned, say, stage
from dien_jax.utils.files import partial_folder

TREES = ((7, 15), (31, 255))  # leaves, and bins per column: few of both, or LightGBM's defaults
MOST_TREES = 2000
PATIENCE = 50  # trees without a better validation score before boosting stops
SEED = 0
HELD_OUT = ("valid", "test")
_PACKAGES = ("scipy", "lightgbm")
SINGLE = {
    "popularity": "item popularity",
    "attribute match": MATCH,
    "co-occurrence": "item recent_lift",
}
"""The column of each baseline that reads a single one."""
BOOSTED_TREES = "boosted trees"
BASELINES = (*SINGLE, LOGISTIC_REGRESSION, BOOSTED_TREES)  # in the order of tables


def fit_trees(inputs: RegressionInputs, train: Inputs, valid: Inputs, current: Stage) -> Baseline:
    """Fit boosted trees on all columns except ids, or except ids and counts.

    Columns, leaves and number of trees are chosen on validation. Counts exclude an example's own
    event, and trees could learn labels from that. Few bins, large leaves and the choice without
    counts prevent it.
    """
    import lightgbm

    least = min(500, max(1, len(train.labels) // 50))
    metric = "auc" if len(np.unique(valid.labels)) == 2 else "binary_logloss"
    fixed = {"objective": "binary", "metric": metric, "learning_rate": 0.1, "seed": SEED,
             "feature_fraction": 0.3, "min_data_in_leaf": least, "verbosity": -1,
             "deterministic": True, "force_row_wise": True}  # fmt: skip

    def matrix(used: list[int], rows: Inputs) -> sparse.csr_matrix:
        parts = sparse.csr_array(rows.dense[:, used]), rows.one_hot[:, : inputs.num_attributes]
        return sparse.csr_matrix(sparse.hstack(parts, format="csr"))

    def predict(booster: Any, used: list[int], rows: Inputs) -> np.ndarray:
        return np.asarray(booster.predict(matrix(used, rows)), np.float32)

    best = float("-inf")
    columns = {"all": list(range(len(inputs.names))), "no counts": inputs.uncounted}
    for (name, used), (leaves, bins) in itertools.product(columns.items(), TREES):
        current.note = f"columns {name}, {leaves} leaves"
        options = fixed | {"num_leaves": leaves, "max_bin": bins}
        rows = lightgbm.Dataset(matrix(used, train), train.labels, params=options)
        held_out = lightgbm.Dataset(matrix(used, valid), valid.labels, reference=rows)
        stop = lightgbm.early_stopping(PATIENCE, verbose=False)
        booster = lightgbm.train(options, rows, MOST_TREES, [held_out], callbacks=[stop])
        fitted = functools.partial(predict, booster, used)
        score = selection(fitted(valid), valid.labels)
        if score > best:
            size = {"trees": booster.best_iteration, "num_leaves": leaves, "max_bin": bins}
            best, chosen = score, Baseline(fitted, {"columns": name} | size)
    return chosen


class BaselineResult(NamedTuple):
    """A baseline and its metrics.

    Attributes:
      name: the baseline.
      settings: settings that were fitted, or chosen on validation, by name.
      valid, test: metrics by name; None if undefined.
      scores: calibrated scores of the examples of both splits, float32 ``[n]`` each, by split.
    """

    name: str
    settings: dict[str, Any]
    valid: dict[str, Any]
    test: dict[str, Any]
    scores: dict[str, np.ndarray]


def run_baselines(data: str | Path, out: str | Path | None = None) -> list[BaselineResult]:
    """Fit simple models on the training split, and score validation and test.

    Popularity, attribute match and co-occurrence rank by one column, with sign and scale from a
    logistic regression on training examples. A logistic regression and boosted trees read all
    columns of :class:`~dien_jax.experiments.logistic_regression.RegressionInputs`. Hyperparameters
    are chosen on the validation split. Probabilities are calibrated on it too, as those of a run,
    and the test split is scored once.

    Args:
      data: dataset folder.
      out: folder to create, with one folder per baseline, for :func:`compare_runs`.

    Raises:
      UserError: for data that models cannot be fitted on, an ``out`` that is not empty, or
        packages that are not installed.

    >>> from dien_jax.experiments import run_baselines
    >>> [result.name for result in run_baselines("data", out="baselines")][:2]
    ['popularity', 'attribute match']
    """
    require("baselines", "python -m dien_jax.baselines")
    dataset = open_dataset(data)
    check_splits(dataset)
    if out is None:
        return _run_baselines(dataset, None)
    out = Path(out)
    with writing(out, "--out"), partial_folder(out) as partial:
        if out.is_symlink() or (out.exists() and any(out.iterdir())):
            found = "a symbolic link" if out.is_symlink() else "not empty"
            raise UserError(f"--out {out} is {found}; choose another folder")
        results = _run_baselines(dataset, partial)
        partial.rename(out.absolute())
    return results


def _run_baselines(dataset: Dataset, out: Path | None) -> list[BaselineResult]:
    start = time.perf_counter()
    inputs = RegressionInputs(dataset, TrainConfig().max_history)
    models = _fit(inputs)
    sizes = {split: len(dataset.splits[split].label) for split in HELD_OUT}
    scores = {split: _scores(inputs, models, sizes[split], split) for split in HELD_OUT}
    results = []
    labels = np.asarray(dataset.splits["valid"].label)
    for name, model in models.items():
        calibration = fit_calibration(labels, scores["valid"][name], step=0)
        of_model = {split: calibration.apply(scores[split][name]) for split in HELD_OUT}
        metrics = {s: split_scores(dataset, s, of_model[s]).metrics() for s in HELD_OUT}
        settings = model.settings | {"calibration_slope": calibration.slope}
        results.append(BaselineResult(name, settings, **metrics, scores=of_model))
        if out is not None:
            packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
            data, digest = str(dataset.path.absolute()), data_digest(dataset)
            run = BaselineRun(name, SEED, data, digest, settings, versions() | packages)
            of_run = {"best_step": 0, "train_examples_per_second": None}
            run.save(out / folder_of(name), of_run | metrics, of_model)
    say(f"baselines took {time.perf_counter() - start:.0f} s")
    return results


def baseline_table(results: list[BaselineResult]) -> str:
    """Return results as a table: metrics of validation and test, and the chosen settings.

    >>> from dien_jax.experiments import baseline_table
    >>> baseline_table([]).split()[:2]
    ['validation', 'test']
    """
    rows = metric_headers("baseline", "chosen")
    for result in results:
        cells = [m.text(s) for s in (result.valid, result.test) for m in METRICS.values()]
        chosen = {n: v if isinstance(v, str) else f"{v:.4g}" for n, v in result.settings.items()}
        text = ", ".join(f"{name} {value}" for name, value in chosen.items())
        rows.append([result.name, text, *cells])
    return aligned(rows, left=2)


def _fit(inputs: RegressionInputs) -> dict[str, Baseline]:
    """Return the fitted baselines by name."""
    train, valid = (inputs.read(split, MAX_ROWS) for split in ("train", "valid"))
    models = {}
    for name, column in SINGLE.items():
        if column in inputs.names:
            models[name] = fit_single(inputs.names.index(column), train)
        else:
            say(f"no {name}: items have no categorical or multi-valued feature")
    with stage(LOGISTIC_REGRESSION) as current:
        models[LOGISTIC_REGRESSION] = fit_logistic(train, valid, current)
    with stage(BOOSTED_TREES) as current:
        models[BOOSTED_TREES] = fit_trees(inputs, train, valid, current)
    return models


def _scores(
    inputs: RegressionInputs, models: Mapping[str, Baseline], examples: int, split: str
) -> dict[str, np.ndarray]:
    """Return click probabilities of all examples of a split, float32 ``[n]``, by baseline."""
    scores = {name: np.empty(examples, np.float32) for name in models}
    done = 0
    with stage(f"scoring {examples:,} {split} examples") as current:
        for rows, part in inputs.stream(split):
            for name, model in models.items():
                scores[name][rows] = model.predict(part)
            done += len(rows)
            current.share = done / examples
    return scores


def folder_of(row: str) -> str:
    """Return the folder name of a row."""
    return row.translate(str.maketrans(" ", "-", ",()"))
