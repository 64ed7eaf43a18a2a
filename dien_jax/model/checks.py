"""Checks of the arguments of networks: an error names the argument, what was expected and found."""

import jax
from dien_kernels.checks import check_shapes, refuse

from dien_jax.data.schema import Schema
from dien_jax.data.tables import Batch, FeatureTables


def check_inputs(
    history: jax.Array,
    lengths: jax.Array,
    candidate: jax.Array,
    negatives: jax.Array | None,
    is_negative: jax.Array | None,
    log_q: jax.Array | None,
    weights: jax.Array | None,
) -> None:
    """Refuse arrays whose shapes do not fit together, by a ValueError that names the argument."""
    if history.ndim != 3:
        refuse("history", "shape [B, T, D]", history.shape)
    rows, steps, size = history.shape
    check_shapes({"lengths": (lengths, (rows,)), "weights": (weights, (rows,))})
    check_shapes({"candidate": (candidate, (rows, size))})
    if negatives is not None:
        if negatives.ndim != 4:
            refuse("negatives", "shape [K, B, T - 1, D]", negatives.shape)
        count, position = negatives.shape[0], (rows, steps - 1)
        check_shapes({"negatives": (negatives, (count, *position, size))})
        check_shapes({"is_negative": (is_negative, (count, *position))})
        check_shapes({"log_q": (log_q, (1 + count, *position))})


def check_batch(
    schema: Schema, batch: Batch, tables: FeatureTables, negatives: jax.Array | None
) -> None:
    """Refuse wrong shapes and features without values, by a ValueError that names them."""
    if batch.history.ndim != 2:
        refuse("batch.history", "shape [B, T]", batch.history.shape)
    rows, steps = batch.history.shape
    names = ("lengths", "item", "user", "label", "weight")
    check_shapes({f"batch.{name}": (getattr(batch, name), (rows,)) for name in names})
    if negatives is not None:
        if negatives.ndim != 3:
            refuse("negatives", "shape [B, T - 1, K]", negatives.shape)
        check_shapes({"negatives": (negatives, (rows, steps - 1, negatives.shape[2]))})
    groups = {
        "tables.item": (schema.item[1:], tables.item),
        "tables.user": (schema.user[1:], tables.user),
        "batch.context": (schema.context, batch.context),
    }
    for name, (features, values) in groups.items():
        wanted = {feature.name for feature in features}
        if not wanted <= {*values}:
            found = ", ".join(sorted(values)) or "none"
            refuse(name, f"the features {', '.join(sorted(wanted))} of the schema", found)
