"""Jitted functions that score batches and summarise states."""

from collections.abc import Callable
from typing import Any

import jax

from dien_jax.config.settings import Config
from dien_jax.data.batch import Batch
from dien_jax.data.schema import Schema
from dien_jax.data.tables import FeatureTables
from dien_jax.model.interest import InterestModel
from dien_jax.model.logit_map import LogitMap, click_probability


def make_predict_step(config: Config, schema: Schema) -> Callable[..., jax.Array]:
    """Return the jitted ``predict(params, batch_stats, features, batch)``: probabilities ``[B]``.

    Its argument ``logit_map`` calibrates them, see :meth:`TrainedModel.logit_map`.

    >>> from dien_jax import load_run
    >>> from dien_jax.data import evaluation_loader
    >>> from dien_jax.steps import feature_tables, make_predict_step
    >>> model = load_run("runs/first")
    >>> config, dataset = model.run.config, model.dataset
    >>> predict = make_predict_step(config, dataset.schema)
    >>> batch = evaluation_loader(dataset, "test", config.train).batch(0, 0)
    >>> features = feature_tables(dataset, config.model)
    >>> scores = predict(model.params, model.batch_stats, features, batch)
    >>> bool((scores > 0).all() and (scores < 1).all())
    True
    """
    model = InterestModel(config.model, schema)

    def predict(
        params: Any,
        batch_stats: Any,
        features: FeatureTables,
        batch: Batch,
        logit_map: LogitMap | None = None,
    ) -> jax.Array:
        variables = {"params": params, "batch_stats": batch_stats}
        return probabilities_of(model, variables, batch, features, logit_map)

    return jax.jit(predict)


def probabilities_of(
    model: InterestModel,
    variables: Any,
    batch: Batch,
    features: FeatureTables,
    logit_map: LogitMap | None,
) -> jax.Array:
    """Return the click probabilities of a batch, ``[B]``."""
    output: Any = model.apply(variables, batch, features)
    return click_probability(output.logits, logit_map)


def make_summary_step(config: Config, schema: Schema) -> Callable[..., dict[str, jax.Array]]:
    """Return the jitted ``summarise(params, batch_stats, features, batch)``, for histograms.

    It gives what the model has of the states and attention of :class:`ModelOutput`.
    """
    model = InterestModel(config.model, schema)

    def summarise(params: Any, batch_stats: Any, features: FeatureTables, batch: Batch) -> dict:
        variables = {"params": params, "batch_stats": batch_stats}
        return summary_of(model, variables, batch, features)

    return jax.jit(summarise)


def summary_of(
    model: InterestModel, variables: Any, batch: Batch, features: FeatureTables
) -> dict[str, jax.Array]:
    """Return the summary of a batch."""
    output = model.apply(variables, batch, features)
    names = ("interest_states", "attention", "final_state")
    return {name: value for name in names if (value := getattr(output, name)) is not None}
