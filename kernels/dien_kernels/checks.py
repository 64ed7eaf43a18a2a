"""Checks of arguments. An error names the argument, what was expected and what was found."""

import contextlib
import difflib
from collections.abc import Iterator
from typing import Any, NoReturn, get_args

import jax
import jax.numpy as jnp

from dien_kernels.options import Form, Precision
from dien_kernels.reference import Weights

OPTIONAL = "initial_state", "weights.recurrent_bias"
"""Arguments that may be None."""
# An array and its expected shape, by the argument's name.
Shapes = dict[str, tuple[Any, tuple[Any, ...]]]


def refuse(argument: str, expected: str, got: object) -> NoReturn:
    raise ValueError(f"{argument}: expected {expected}, got {got}")


def check_name(argument: str, name: str, names: Any) -> None:
    if name not in get_args(names):
        near = difflib.get_close_matches(str(name), get_args(names), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        refuse(argument, f"one of {get_args(names)}", f"{name!r}{hint}")


def precision_of(name: Precision) -> jax.lax.Precision:
    check_name("precision", name, Precision)
    return jax.lax.Precision[name.upper()]


def check_shapes(shapes: Shapes) -> None:
    for name, (array, shape) in shapes.items():
        if array is None and name in OPTIONAL:
            continue
        if not hasattr(array, "shape"):
            refuse(name, f"an array of shape {shape}", f"a {type(array).__name__}")
        if array.shape != shape:
            refuse(name, f"shape {shape}", array.shape)


def check_arrays(form: Form, weights: Weights, gates: int, depth: int, shapes: Shapes) -> None:
    """Check the shapes of weights, for inputs ``[.., depth]``, and of other arrays."""
    if (hidden := weights.recurrent.shape[0]) < 1:
        refuse("weights.recurrent", "shape [H, G, H] with H >= 1", weights.recurrent.shape)
    expected: Shapes = {
        "weights.input": (weights.input, (depth, gates, hidden)),
        "weights.recurrent": (weights.recurrent, (hidden, gates, hidden)),
        "weights.bias": (weights.bias, (gates, hidden)),
        "weights.recurrent_bias": (weights.recurrent_bias, (hidden,)),
        **shapes,
    }
    check_shapes(expected)
    if form == "authors" and weights.recurrent_bias is not None:
        refuse("weights.recurrent_bias", "None with form='authors'", "an array")


def integers(argument: str, array: Any) -> jax.Array:
    """Return lengths in int32: 8 bits do not count all steps, and NumPy's 64 bits would warn."""
    if not jnp.issubdtype(array.dtype, jnp.integer):
        refuse(argument, "integers", array.dtype)
    return jnp.asarray(array, jnp.int32)


@contextlib.contextmanager
def reverse_mode_only(implementation: str) -> Iterator[None]:
    """Point forward-mode derivatives to the oracle, the only implementation that has them."""
    try:
        yield
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise TypeError(
            f"implementation={implementation!r} has reverse-mode derivatives only; use "
            "implementation='reference' for forward-mode ones"
        ) from error
