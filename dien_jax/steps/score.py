"""Jitted functions that score batches."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from dien_jax.config.settings import Config
from dien_jax.data.schema import Schema
from dien_jax.data.tables import Batch, FeatureTables
from dien_jax.model.click_model import ClickModel
from dien_jax.model.family import cached_by_modules
from dien_jax.model.layers import LogitMap, click_probability
from dien_jax.model.tower import Part, of_part
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.rows import look_up
from dien_jax.steps.state import compiler_options


def make_predict_step(
    config: Config, schema: Schema, place: OneDevice | None = None, part: Part = "network"
) -> Callable[..., jax.Array]:
    """Return the jitted ``predict(params, batch_stats, features, batch)``: probabilities ``[B]``.

    Probabilities are those of the whole model or, for the part ``"tower"``, of the tower alone. Its
    argument ``logit_map`` calibrates them, see :meth:`TrainedModel.logit_map`.

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
    if place is None or place.axis is None:
        return _of_one_device(config, schema, part)
    return _predict_step(config, schema, place, part)


@cached_by_modules
def _of_one_device(config: Config, schema: Schema, part: Part) -> Callable[..., jax.Array]:
    return _predict_step(config, schema, OneDevice(schema), part)


def _predict_step(
    config: Config, schema: Schema, place: OneDevice, part: Part
) -> Callable[..., jax.Array]:
    model = ClickModel(config.model, schema, place.axis)

    def on_device(
        params: Any,
        batch_stats: Any,
        features: FeatureTables,
        batch: Batch,
        logit_map: LogitMap | None,
    ) -> jax.Array:
        read = of_part(params, "tower") if part == "tower" else params
        gather = place.gather(read)
        found = look_up(config.model, schema, gather, features, batch)
        variables = {"params": gather.compact(read, ())[0], "batch_stats": batch_stats}
        method = "tower_terms" if part == "tower" else None
        output: Any = model.apply(variables, found.batch, found.features, method=method)
        logits = output.sum(1) if part == "tower" else output.logits
        return click_probability(logits, logit_map)

    on_devices = place.mapped(on_device, ("state", "whole", "features", "batch", "whole"), "batch")

    @functools.partial(jax.jit, compiler_options=compiler_options(config))
    def predict(*arguments: Any, logit_map: LogitMap | None = None) -> jax.Array:
        return on_devices(*arguments, logit_map)

    return predict
