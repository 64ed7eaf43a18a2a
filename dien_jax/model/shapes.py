"""Checks of :class:`dien_jax.model.DIEN`: its arrays, its parts and their results."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dien_kernels.checks import refuse


def check_axes(name: str, array: Any, axes: dict[str, Any]) -> None:
    """Refuse an array with other axis sizes. A size of None fits any; an array of None passes.

    Sizes may be symbolic, as in an export.
    """
    if array is None:
        return
    if not hasattr(array, "shape"):
        refuse(name, "an array", f"{type(array).__name__} {array!r:.60}")
    sizes = list(axes.values())
    if len(array.shape) != len(sizes) or any(
        size is not None and size != found for size, found in zip(sizes, array.shape, strict=True)
    ):
        known = [f"{axis} = {size}" for axis, size in axes.items() if size is not None]
        shape = f"shape [{', '.join(axes)}]" + (f" with {', '.join(known)}" if known else "")
        refuse(name, shape, array.shape)


def check_inputs(
    history: jax.Array,
    lengths: jax.Array,
    candidate: jax.Array,
    negatives: jax.Array | None,
    is_negative: jax.Array | None,
    log_q: jax.Array | None,
    weights: jax.Array | None,
) -> None:
    """Refuse arrays that do not fit together, with a ValueError that names the argument."""
    check_axes("history", history, {"B": None, "T": None, "D": None})
    rows, steps, size = history.shape
    for name, array in {"lengths": lengths, "weights": weights}.items():
        check_axes(name, array, {"B": rows})
    check_axes("candidate", candidate, {"B": rows, "D": size})
    if negatives is not None:
        position = {"B": rows, "T - 1": steps - 1}
        check_axes("negatives", negatives, {"K": None, **position, "D": size})
        count = negatives.shape[0]
        check_axes("is_negative", is_negative, {"K": count, **position})
        check_axes("log_q", log_q, {"1 + K": 1 + count, **position})
        if is_negative is not None and is_negative.dtype != bool:
            refuse("is_negative", "booleans", is_negative.dtype)
    for name, array in {"history": history, "candidate": candidate}.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            refuse(name, "embeddings in floating point", array.dtype)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        refuse("lengths", "integers", lengths.dtype)


def check_parts(network: Any) -> None:
    """Refuse a part of a network that cannot be called, with a ValueError that names it."""
    examples = {"extractor": "GRU(36)", "attention": "MLPAttention()", "evolution": "AUGRU(36)"}
    for name, example in {**examples, "auxiliary": "BinaryAuxiliaryLoss()"}.items():
        part = getattr(network, name)
        if part is not None and (isinstance(part, type) or not callable(part)):
            refuse(name, f"a module such as {example}, or None", repr(part))


def checked_attention(attention: Any, weights: Any, states: jax.Array) -> jax.Array:
    """Return the result of an attention, which must have one weight for each state."""
    rows, steps = states.shape[:2]
    name = f"weights of the attention {type(attention).__name__}"
    check_axes(name, weights, {"B": rows, "T": steps})
    return weights


def checked_states(part: str, module: Any, result: Any, inputs: jax.Array) -> tuple[Any, Any]:
    """Return the result of a recurrence, which must be a pair of all states and last states."""
    rows, steps = inputs.shape[:2]
    is_pair = isinstance(result, tuple | list) and len(result) == 2
    # `np.shape`, because conversion to ONNX makes the result of `jnp.shape` a traced array.
    if is_pair and np.shape(result[1])[:-1] == (rows,):
        return result[0], result[1]
    expected = f"a pair of states [{rows}, {steps}, H] and the last ones [{rows}, H]"
    shapes = jax.tree.map(np.shape, result)
    refuse(f"{part} {type(module).__name__}", f"{expected} as its result", f"shapes {shapes}")
