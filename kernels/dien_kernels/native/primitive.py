"""Functions of the library as primitives of JAX."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir


def _no_derivative(*arguments: Any, **given: Any) -> None:
    """Refuse the derivative of a kernel, which is taken by another kernel and not of it."""
    raise NotImplementedError(
        "implementation='native' has first derivatives only; use implementation='reference' for "
        "derivatives of a gradient"
    )


def primitive(
    name: str, shapes: Callable, by_xla: Callable, attributes: Sequence[str] = ()
) -> Primitive:
    """Return a primitive that is the library's function of this name on the CPU.

    ``by_xla`` computes the same where the library is not there: in programs that are exported, and
    in those for other platforms. It and ``shapes`` take all parameters, the library's function
    those in ``attributes``.
    """
    made = Primitive(name)
    made.multiple_results = True
    made.def_abstract_eval(shapes)

    @functools.cache
    def compiled(parameters: tuple) -> Callable:
        return jax.jit(functools.partial(made.bind, **dict(parameters)))

    def run(*operands: Any, **given: Any) -> Any:
        with jax.disable_jit(False):  # only a compiled program can call the library
            return compiled(tuple(given.items()))(*operands)

    ad.primitive_jvps[made] = _no_derivative
    made.def_impl(run)
    call, other = jax.ffi.ffi_lowering(name), mlir.lower_fun(by_xla, multiple_results=True)

    def lower(context: Any, *operands: Any, **given: Any) -> Any:
        if context.module_context.lowering_parameters.for_export:
            return other(context, *operands, **given)
        return call(context, *operands, **{key: given[key] for key in attributes})

    mlir.register_lowering(made, other)
    mlir.register_lowering(made, lower, platform="cpu")
    return made
