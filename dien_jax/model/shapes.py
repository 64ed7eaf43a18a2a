"""Refusal of arrays for :class:`dien_jax.model.DIEN` whose shapes do not fit together."""

import jax
from dien_kernels.checks import check_shapes, refuse


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
