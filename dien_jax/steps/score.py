"""Jitted functions that score batches and summarise states"""

from collections.abc import Callable
from typing import Any, cast

import jax

from dien_jax.config.settings import Config
from dien_jax.data.batch import Batch
from dien_jax.data.schema import Schema
from dien_jax.model.interest import InterestModel, ModelOutput
from dien_jax.steps.state import Tables
from dien_jax.steps.train import Metrics


def _forward(config: Config, schema: Schema) -> Callable[..., ModelOutput]:
    model = InterestModel(config.model, schema)

    def forward(params: Any, batch_stats: Any, tables: Tables, batch: Batch) -> ModelOutput:
        variables = {"params": params, "batch_stats": batch_stats}
        return cast(ModelOutput, model.apply(variables, batch, tables.features))

    return forward


def make_predict_step(
    config: Config, schema: Schema
) -> Callable[[Any, Any, Tables, Batch], jax.Array]:
    """Jitted ``predict(params, batch_stats, tables, batch)``: click probabilities ``[B]``."""
    forward = _forward(config, schema)

    def predict(params: Any, batch_stats: Any, tables: Tables, batch: Batch) -> jax.Array:
        return jax.nn.sigmoid(forward(params, batch_stats, tables, batch).logits)

    return jax.jit(predict)


def make_summary_step(
    config: Config, schema: Schema
) -> Callable[[Any, Any, Tables, Batch], dict[str, jax.Array]]:
    """Jitted ``summarise(params, batch_stats, tables, batch)``: what histograms are drawn of.

    Gives ``interest_states`` ``[B, T, H]`` and, where the model has them, ``attention``
    ``[B, T]`` and ``final_state`` ``[B, H]``; entries past a row's length are not live.
    """
    forward = _forward(config, schema)

    def summarise(params: Any, batch_stats: Any, tables: Tables, batch: Batch) -> Metrics:
        output = forward(params, batch_stats, tables, batch)
        found = {
            "interest_states": output.interest_states,
            "attention": output.attention,
            "final_state": output.final_state,
        }
        return {name: value for name, value in found.items() if value is not None}

    return jax.jit(summarise)
