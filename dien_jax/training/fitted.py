"""Fits before the first training step: the logistic regression, then the statistics network.

Networks learn what these fits leave. On small logs they learn noise too, and a part of their logit
ranks better than all of it. The share of it that counts is chosen at each evaluation, without
another forward pass, and belongs to the best checkpoint.

Dimensions: D dense columns, R examples.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit, logit

from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset
from dien_jax.data.digests import data_digest
from dien_jax.data.schema import Feature
from dien_jax.model.logistic_regression import FITTED, WEIGHTS, alone, fitted_alone
from dien_jax.model.statistics_network import LAYERS
from dien_jax.steps.state import TrainState
from dien_jax.training.logistic_regression import (
    LOGISTIC_REGRESSION,
    MAX_ROWS,
    FittedRegression,
    fit_logistic,
    selection,
)
from dien_jax.training.regression_inputs import Inputs, RegressionInputs
from dien_jax.training.statistics_network import Examples, fit_statistics_network
from dien_jax.utils.console import say, stage
from dien_jax.utils.processes import on_first

STATISTICS_NETWORK = "statistics network"
RARE = 0.001
"""Share of training examples with logits that unknown candidates must not exceed."""
WITHOUT_NETWORKS = "without the networks"
"""Name of all that is fitted first among simple models."""
SHARES = (1.0, 0.7, 0.4, 0.2, 0.1, 0.0)
"""Those that are tried; an earlier one is kept where a later one is no better."""


def with_fitted(
    state: TrainState,
    dataset: Dataset,
    config: Config,
    before_pass: Callable[[], None] = lambda: None,
    put: Callable[[Any, Any], Any] = lambda tree, _: jax.tree.map(jnp.array, tree),
) -> TrainState:
    """Return a fresh state with the parameters that are fitted to the training split first.

    Trials of a search share the fit. Training examples of one label leave them 0. ``before_pass``,
    called often, may raise to stop; ``put`` copies parameters from the host to the devices of those
    that they replace. With several processes only process 0 fits, and ``put`` gets None on the
    others.
    """
    if len(np.unique(dataset.splits["train"].label)) < 2:
        say(f"no {LOGISTIC_REGRESSION}: all training examples have the same label")
        return state
    fitted = on_first(lambda: _fitted(dataset, config, before_pass))
    current = {name: state.params[name] for name in FITTED}
    fitted = put(fitted, current)  # copies: the state is donated
    return state._replace(params={**state.params, **fitted})


def parts_alone(params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by name the parameters with which a model scores as a part that was fitted first."""
    return {LOGISTIC_REGRESSION: alone(params), WITHOUT_NETWORKS: fitted_alone(params)}


def _fitted(dataset: Dataset, config: Config, before_pass: Callable[[], None]) -> dict[str, Any]:
    """Return the fitted parameters of each module, on the host."""
    max_history = config.train.max_history
    key = (str(dataset.path.absolute()), data_digest(dataset), max_history)
    if key not in _latest:
        inputs = RegressionInputs(dataset, max_history)
        train, valid = (inputs.read(split, MAX_ROWS, before_pass) for split in ("train", "valid"))
        with stage(LOGISTIC_REGRESSION) as current:
            fitted = fit_logistic(train, valid, current, before_pass)
            current.note = f"C {fitted.strength:g}, validation score {fitted.score:.4f}"
        unknown = fitted.logits(inputs.unknown_candidates())
        level = _level_of_unknown(fitted.logits(train), unknown)
        found = {"logistic_regression": _of_regression(fitted, inputs, level)}
        first, second = (_examples(fitted, of, inputs.num_counts) for of in (train, valid))
        with stage(STATISTICS_NETWORK) as current:
            network = fit_statistics_network(first, second, LAYERS, current, before_pass)
        found["statistics_network"] = network
        _latest.clear()
        _latest[key] = found
    return _latest[key]


_latest: dict[tuple, dict[str, Any]] = {}
"""The last fit, by dataset and ``max_history``."""


def _examples(fitted: FittedRegression, inputs: Inputs, counts: int) -> Examples:
    return Examples(inputs.dense[:, :counts], fitted.logits(inputs), inputs.labels)


def _level_of_unknown(known: np.ndarray, unknown: np.ndarray) -> float:
    """Return the weight of the unknown item, so that it never scores beyond known candidates.

    Its counts are 0, which can be dozens of deviations from those of all training examples, as for
    categories. If its mean logit is therefore beyond nearly all logits of training, the weight
    moves it to their mean; otherwise the weight is 0.

    Args:
      known: logits of training examples.
      unknown: logits of some of them with the unknown item as candidate.
    """
    low, high = np.quantile(known, (RARE, 1 - RARE))
    inside = low <= unknown.mean() <= high
    return 0.0 if inside else float(known.mean() - unknown.mean())


def _of_regression(
    fitted: FittedRegression, inputs: RegressionInputs, unknown_item: float = 0.0
) -> dict[str, Any]:
    """Return a fit as the parameters of :class:`dien_jax.model.LogisticRegression`.

    ``unknown_item`` is the weight of the unknown item; other unknown values have 0.
    """
    schema, counts = inputs.schema, inputs.num_counts
    numbers = iter(range(counts, len(inputs.names)))
    intercept = fitted.intercept - float(fitted.mean[counts:] @ fitted.dense[counts:])
    result: dict[str, Any] = {"intercept": np.full(1, intercept, np.float32)}
    result["statistics_mean"] = fitted.mean[:counts]
    result[f"statistics_{WEIGHTS}"] = fitted.dense[:counts]

    def weights(feature: Feature, group: str) -> np.ndarray:
        if feature.size is None:
            return fitted.dense[next(numbers)].reshape(1, 1)
        start, width = inputs.one_hot_columns[feature, group]
        values = np.arange(feature.size - 1) % max(width, 1)
        is_item = (feature, group) == (schema.item[0], "item")
        unknown = np.full(1, unknown_item if is_item else 0, np.float32)
        return np.concatenate([unknown, fitted.one_hot[start + values]])[:, None]

    for group, features in vars(schema).items():
        if features:
            result[f"{group}_{WEIGHTS}"] = {f.name: weights(f, group) for f in features}
    return result


def best_share(scores: np.ndarray, fixed: np.ndarray, labels: np.ndarray) -> float:
    """Return the share with the best score, see :func:`selection`.

    ``scores`` and ``fixed``, float32 ``[R]``, are probabilities of the whole model and of what was
    fitted before training; ``labels`` are int8 ``[R]``.
    """
    return max(SHARES, key=lambda share: selection(with_share(scores, fixed, share), labels))


def with_share(scores: np.ndarray, fixed: np.ndarray, share: float) -> np.ndarray:
    """Return the probabilities with a share of the networks' logit, float32 ``[R]``."""
    if share == 1:
        return scores
    whole, part = (_logits(probabilities) for probabilities in (scores, fixed))
    return expit(part + share * (whole - part)).astype(np.float32)


def _logits(probabilities: np.ndarray) -> np.ndarray:
    edge = np.finfo(np.float32).epsneg
    return logit(np.clip(probabilities.astype(np.float64), edge, 1 - edge))
