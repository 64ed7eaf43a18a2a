"""The tower: a click logit from counts, similarities and single values.

Training first fits the tower alone, in seconds. The network that reads the history then learns the
residual; the logit of a click model is the sum of both.

Dimensions: B rows, F inputs from counts, L terms: one for each feature, and one for the F inputs.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dien_jax.data.schema import GROUPS, FeatureValues, Schema
from dien_jax.model.embeddings import FeatureEmbeddings
from dien_jax.model.layers import Axis, BatchNorm, Dropout, rescaled

Part = Literal["tower", "network"]
"""The parts of a model that are trained one after the other: the tower, and everything else."""
WEIGHTS = "weights"
"""Suffix in names of tables that hold a weight for each value, such as ``item_weights``."""
LAYERS = (64, 32)
"""Sizes of the hidden layers."""
DROPOUT = 0.2
LIMIT = 10.0
"""Bound of standardised inputs: counts of 0, such as those of new items, may be outliers.

A lower bound would make the best items of a list equal: their inputs are the largest of all.
"""


class Tower(nn.Module):
    """Terms of a logit: a weight for each value, and a function of counts and similarities.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax import Feature, Schema
    >>> from dien_jax.model import Tower
    >>> schema = Schema((Feature("item", "categorical", 9),), (Feature("user", "categorical", 3),))
    >>> item, user = {"item": jnp.zeros(2, jnp.int32)}, {"user": jnp.zeros(1, jnp.int32)}
    >>> inputs = item, user, jnp.ones((2, 5)), {}, jnp.ones(2, bool)
    >>> run = jax.jit(Tower(schema).init_with_output, static_argnames="train")
    >>> run(jax.random.key(0), *inputs, train=False)[0].shape
    (2, 3)

    Every categorical value has a weight; a multi-valued feature takes the mean over its values. A
    number is multiplied by one weight, and a vector by one for each of its numbers. The inputs of
    :func:`dien_jax.model.statistics.statistics_inputs` are standardised, and their term is a linear
    function plus an MLP of two ReLU layers. Output layers and weights of values start at 0.
    ``axis`` is the mesh axis of the rows.

    Source: wide and deep parts as in Cheng et al., 2016 (arXiv:1606.07792).
    """

    schema: Schema
    axis: Axis = None

    @nn.compact
    def __call__(
        self,
        item: dict[str, FeatureValues],
        user: dict[str, FeatureValues],
        statistics: Float[Array, "B F"],
        columns: dict[str, FeatureValues],
        real: Bool[Array, " B"],
        *,
        train: bool,
    ) -> Float[Array, "B L"]:
        """Return the terms of the features of each group, and then that of ``statistics``.

        ``columns`` are the features that no table has; those of events have no term. ``user`` and
        the features of a request may have a single row for all items; ``real`` is False for filler
        rows. Training needs the random key of dropout.
        """
        zeros, terms = nn.initializers.zeros_init(), []
        for group, features in self.schema.groups():
            if features and GROUPS[group].axes == "B":
                name = f"{GROUPS[group].parameters}_{WEIGHTS}"
                weights = FeatureEmbeddings(features, 1, zeros, name=name)
                terms.append(weights({"item": item, "user": user}.get(group, columns)))
        norm = BatchNorm("running", self.axis, name="norm")
        inputs = rescaled(statistics, *norm(statistics, real, train=train))
        x = inputs = jnp.clip(inputs, -LIMIT, LIMIT)
        for index, size in enumerate(LAYERS):
            x = jax.nn.relu(nn.Dense(size, name=f"layer_{index}")(x))
            x = Dropout(DROPOUT, self.axis)(x, train=train)
        linear = nn.Dense(1, kernel_init=zeros, use_bias=False, name="linear")(inputs)
        terms.append(linear + nn.Dense(1, kernel_init=zeros, name="logit")(x))
        rows = statistics.shape[0]
        terms = [jnp.broadcast_to(term, (rows, term.shape[1])) for term in terms]
        return jnp.concatenate(terms, axis=-1)


def of_part(tree: dict[str, Any], part: Part) -> dict[str, Any]:
    """Return the entries of a part of a model, from its parameters or running statistics."""
    return {name: leaf for name, leaf in tree.items() if (name == "tower") == (part == "tower")}
