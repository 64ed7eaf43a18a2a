"""The logistic regression inside the model: terms of feature values and counts, fitted first.

Dimensions: B rows, F inputs of the counts, L terms: one for each feature, and one for the counts.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dien_jax.data.schema import FeatureValues, Schema
from dien_jax.model.embeddings import FeatureEmbeddings

WEIGHTS = "weights"
"""Ending of the names of the tables with a weight for each value: ``item_weights``."""
FITTED = {"logistic_regression", "statistics_network"}
"""Names of modules that are fitted before training; no gradient changes them."""


class LogisticRegression(nn.Module):
    """Terms of a logistic regression, whose sum is its logit.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax import Feature, Schema
    >>> from dien_jax.model import LogisticRegression
    >>> schema = Schema((Feature("item", "categorical", 9),), (Feature("user", "categorical", 3),))
    >>> item, user = {"item": jnp.zeros(2, jnp.int32)}, {"user": jnp.zeros(1, jnp.int32)}
    >>> inputs = item, user, jnp.ones((2, 5))
    >>> terms, _ = LogisticRegression(schema).init_with_output(jax.random.key(0), *inputs)
    >>> terms.shape
    (2, 3)

    Every value of a feature has a weight, of which multi-valued features take the mean; a number
    and each input of :func:`dien_jax.model.statistics.statistics_inputs` are multiplied by theirs.
    All weights are 0 until training fits them, before its first step, and no gradient changes them.
    """

    schema: Schema

    @nn.compact
    def __call__(
        self,
        item: dict[str, FeatureValues],
        user: dict[str, FeatureValues],
        statistics: Float[Array, "B F"],
        context: dict[str, FeatureValues] | None = None,
    ) -> Float[Array, "B L"]:
        """Return the terms: item, user and context features, then the counts with the intercept.

        ``user`` and ``context`` may have a single row for all items.
        """
        zeros, values = nn.initializers.zeros_init(), {"item": item, "user": user}
        if self.schema.context:
            values["context"] = context or {}
        parts = [
            FeatureEmbeddings(getattr(self.schema, group), 1, zeros, name=f"{group}_{WEIGHTS}")(of)
            for group, of in values.items()
        ]
        total = self.param("intercept", zeros, (1,))[None]
        inputs = (statistics.shape[1],)
        mean = self.param("statistics_mean", zeros, inputs)
        weights = self.param("statistics_weights", zeros, inputs)
        total = total + (statistics - mean[None]) @ weights[:, None]
        rows = parts[0].shape[0]
        parts = [jnp.broadcast_to(part, (rows, part.shape[1])) for part in (*parts, total)]
        return jax.lax.stop_gradient(jnp.concatenate(parts, axis=-1))


def alone(params: dict[str, Any]) -> dict[str, Any]:
    """Return parameters with which a model scores as its logistic regression does."""
    return _times(fitted_alone(params), "statistics_network", 0.0)


def fitted_alone(params: dict[str, Any]) -> dict[str, Any]:
    """Return parameters with which a model scores as what is fitted before training does."""
    return with_network_share(params, 0.0)


def with_network_share(params: dict[str, Any], share: float) -> dict[str, Any]:
    """Return parameters with which a share of the logit that training learns counts."""
    mlp = _times(params["mlp"], "logit", share)
    return _times({**params, "mlp": mlp}, "linear", share)


def _times(params: dict[str, Any], name: str, factor: float) -> dict[str, Any]:
    if name not in params or factor == 1:
        return params
    scaled = jax.tree.map(lambda leaf: leaf * np.float32(factor), params[name])
    return {**params, name: scaled}
