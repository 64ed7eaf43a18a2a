"""The library of C++ kernels, loaded and registered with JAX once in a process."""

import ctypes
import threading
from typing import NamedTuple

import jax

from dien_kernels.native import build
from dien_kernels.native.build import BuildError

TARGETS = (
    "dien_kernels_forward", "dien_kernels_backward", "dien_kernels_auxiliary",
    "dien_kernels_attention", "dien_kernels_attention_backward",
    "dien_kernels_candidate_attention", "dien_kernels_last_states",
)  # fmt: skip


class _Library(NamedTuple):
    instruction_set: str
    name: str  # of the file, with a digest of its content


_lock = threading.Lock()
_outcome: _Library | BuildError | None = None  # the one that is loaded, or why there is none
_loaded: list[ctypes.CDLL] = []  # never unloaded: programs hold pointers into it


def instruction_set() -> str:
    """Return the instruction set of the native kernels, compiled and loaded if they are not yet.

    ``"avx512"``, ``"avx2"`` or ``"plain"``, the widest one of the processor.
    ``$DIEN_KERNELS_ISA``, set before the first call, lowers the choice.

    >>> from dien_kernels import instruction_set
    >>> instruction_set() in ("avx512", "avx2", "plain")
    True

    Raises:
      NotImplementedError: where they cannot be compiled or loaded, with the reason.
    """
    return _library().instruction_set


def identity() -> str:
    """Return a text of everything that decides results: the instruction set and the library.

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
            library, name = ctypes.CDLL(str(file)), file.stem
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
        except Exception as error:  # of XLA: an interface of another version
            raise BuildError(f"JAX {jax.__version__} does not take the library: {error}") from error
    _loaded.append(library)
    return _Library(instructions, name)
