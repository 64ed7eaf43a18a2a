"""The library of C++ kernels, loaded once per process, and its functions as JAX primitives."""

import ctypes
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from dien_kernels.native import build
from dien_kernels.native.build import BuildError

TARGETS = (
    "dien_kernels_forward", "dien_kernels_backward", "dien_kernels_auxiliary",
    "dien_kernels_attention", "dien_kernels_attention_backward",
    "dien_kernels_candidate_attention", "dien_kernels_last_states", "dien_kernels_adam",
)  # fmt: skip


class _Library(NamedTuple):
    instruction_set: str
    name: str  # of the file, with a digest of its content


_lock = threading.Lock()
_outcome: _Library | BuildError | None = None  # the loaded library, or why there is none


def instruction_set() -> str:
    """Return the instruction set of the native kernels; compile and load them if necessary.

    ``"avx512"``, ``"avx2"`` or ``"plain"``, the widest one of the processor.
    ``$DIEN_KERNELS_ISA``, set before the first call, lowers the choice.

    >>> from dien_kernels import instruction_set
    >>> instruction_set() in ("avx512", "avx2", "plain")
    True

    Raises:
      NotImplementedError: if they cannot be compiled or loaded, with the reason.
    """
    return _library().instruction_set


def identity() -> str:
    """Return a text that identifies all that decides results: instruction set and library.

    Raises:
      NotImplementedError: as :func:`instruction_set` does.
    """
    return ", ".join(_library())


def _library() -> _Library:
    global _outcome
    with _lock:
        if _outcome is None:
            try:
                _outcome = _load()
            except BuildError as error:
                _outcome = error
    if isinstance(_outcome, BuildError):
        raise _outcome
    return _outcome


def _load() -> _Library:
    try:
        with build.library() as file:
            library, name = ctypes.CDLL(str(file)), file.stem  # Python never unloads it
    except OSError as error:  # a folder without permission to execute, for example
        raise BuildError(f"the compiled library does not load: {error}") from error
    library.dien_kernels_instruction_set.restype = ctypes.c_char_p
    instructions = library.dien_kernels_instruction_set().decode()
    if not instructions:
        raise BuildError("the compiled library has no kernels for this processor")
    for target in TARGETS:
        try:
            capsule = jax.ffi.pycapsule(getattr(library, target))
            jax.ffi.register_ffi_target(target, capsule, platform="cpu")
        except Exception as error:  # from XLA: another version of its interface
            raise BuildError(f"JAX {jax.__version__} does not take the library: {error}") from error
    return _Library(instructions, name)


def primitive(
    name: str,
    shapes: Callable,
    by_xla: Callable,
    attributes: Sequence[str] = (),
    aliases: Callable[[int], dict[int, int]] | None = None,
) -> Callable:
    """Return a function that calls the library's function of this name on the CPU.

    Its arguments and results are trees, whose arrays the library takes one by one. ``by_xla``
    computes the same in programs without the library: those that are exported, and those for other
    platforms. ``shapes`` returns the types of the results for those of the arguments. Both take
    all parameters; the library's function takes those in ``attributes``. ``aliases`` returns, for a
    number of arrays, which of them may become which result. There is no rule for derivatives: a
    caller has another kernel for them, or none.
    """
    made = Primitive(name)
    made.multiple_results = True

    def of_leaves(function: Callable) -> Callable:
        def call(*leaves: Any, tree: Any, **given: Any) -> list[Any]:
            return jax.tree.leaves(function(*jax.tree.unflatten(tree, leaves), **given))

        return call

    @functools.cache
    def compiled(parameters: tuple) -> Callable:
        return jax.jit(functools.partial(made.bind, **dict(parameters)))

    def run(*operands: Any, **given: Any) -> Any:
        with jax.disable_jit(False):  # only a compiled program can call the library
            return compiled(tuple(given.items()))(*operands)

    def no_derivative(*_: Any, **given: Any) -> None:
        raise NotImplementedError(
            f"implementation='native' has no derivative of {name}; use implementation='reference'"
        )

    made.def_abstract_eval(of_leaves(shapes))
    made.def_impl(run)
    ad.primitive_jvps[made] = no_derivative
    other = mlir.lower_fun(of_leaves(by_xla), multiple_results=True)

    def lower(context: Any, *operands: Any, **given: Any) -> Any:
        if context.module_context.lowering_parameters.for_export:
            return other(context, *operands, **given)
        in_place = None if aliases is None else aliases(len(operands))
        library = jax.ffi.ffi_lowering(name, operand_output_aliases=in_place)
        return library(context, *operands, **{key: given[key] for key in attributes})

    mlir.register_lowering(made, other)
    mlir.register_lowering(made, lower, platform="cpu")

    def call(*arguments: Any, **given: Any) -> Any:
        operands, tree = jax.tree.flatten(arguments)
        results = made.bind(*operands, tree=tree, **given)
        types = shapes(*jax.tree.map(jax.typeof, arguments), **given)
        return jax.tree.unflatten(jax.tree.structure(types), results)

    return call
