"""Errors that users can act on, and the checks and context managers that raise them."""

import contextlib
import difflib
import functools
import importlib
import itertools
import os
import sys
import threading
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path


class UserError(ValueError):
    """A mistake in a file, a flag or a setting, described in one message that a user can act on.

    The message names the file, line or flag, what was expected and what was found. Commands print
    it after ``error:`` on standard error and exit with status 2, without a traceback; library
    users catch it as a ``ValueError``.

    >>> from dien_jax import UserError, preset
    >>> try:
    ...     preset("autors")
    ... except UserError as error:
    ...     print(str(error)[:48])
    unknown preset 'autors'; did you mean 'authors'?
    """

    def __str__(self) -> str:
        return printable_lines(super().__str__())


class NotFiniteError(Exception):
    """Training diverged, or a model's score is not finite. The message says where."""


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """A signal of this number asked a run to stop; its state is saved."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name nearest to ``name``, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def require_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Refuse a value that is not one of the choices."""
    if value not in choices:
        near = suggestion(value, map(str, choices)) if isinstance(value, str) else ""
        known = ", ".join(map(str, choices)) or "none"
        raise UserError(f"{name} must be one of {known}, got {value!r}{near}")


def encodable(text: str) -> str:
    r"""Return text with lone surrogates, which UTF-8 cannot encode, escaped as ``\\udXXX``."""
    return text.encode(errors="backslashreplace").decode()


def printable(text: str) -> str:
    r"""Return text from a file on one line, with unprintable characters as ``\\uXXXX``.

    A terminal would act on control characters, and bidirectional marks hide what a text says.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def printable_lines(text: str) -> str:
    """Return lines of text with unprintable characters escaped, see :func:`printable`."""
    return "\n".join(map(printable, text.split("\n")))


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, shortened, or the name of its type."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return line if len(line) <= 300 else f"{line[:300]} ..."  # some list all options of a library


def described(error: BaseException) -> str:
    """Return an error's message for users; name the file of an ``OSError``, or lack of memory."""
    if isinstance(error, OSError):
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror or error}"
    return f"out of memory: {reason(error)}" if isinstance(error, MemoryError) else str(error)


@contextlib.contextmanager
def _naming(verb: str, path: Path, flag: str = "") -> Iterator[None]:
    """Turn an ``OSError`` of the block into a :class:`UserError`: "[FLAG] PATH cannot be VERB"."""
    try:
        yield
    except OSError as error:
        name = f"{flag} {path}" if flag else str(path)
        why = error.strerror or error
        if isinstance(error, FileExistsError):
            links = (p for p in (path, *path.parents) if p.is_symlink() and not p.exists())
            if link := next(links, None):
                why = f"{'it' if link == path else link} is a symbolic link that leads to nothing"
        raise UserError(f"{name} cannot be {verb}: {why}") from error


writing = functools.partial(_naming, "written")
reading = functools.partial(_naming, "read")


@contextlib.contextmanager
def failing(problem: str) -> Iterator[None]:
    """Turn an exception of the block, unless it is a UserError, into one: "PROBLEM: REASON"."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{problem}: {reason(error)}") from error


EXTRAS = {
    "baselines": ("lightgbm",),
    "data": ("ibis", "duckdb", "requests", "pyarrow"),
    "export": ("flatbuffers",),
    "mlflow": ("mlflow",),
    "onnx": ("jax2onnx", "onnxruntime"),
    "plot": ("matplotlib",),
    "spark": ("pyspark",),
    "serve": ("prometheus_client", "starlette", "uvicorn"),
    "wandb": ("wandb",),
}
"""Modules that each extra installs."""


def require(extra: str, work: str) -> None:
    """Check that extras, separated by commas, are installed; ``work`` is the error's subject."""
    for module in itertools.chain.from_iterable(EXTRAS[name] for name in extra.split(",")):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(
                f"{work} needs the extra{'s' * (',' in extra)} {extra!r} "
                f"({module} is not installed): pip install 'dien_jax[{extra}]'"
            ) from error


_forked_from: list[int] = []
"""Id of the parent process, if this process was forked after JAX had started."""


def _note_fork() -> None:
    bridge = sys.modules.get("jax._src.xla_bridge")
    if bridge is not None and bridge.backends_are_initialized():
        _forked_from[:] = [os.getppid()]


# Registered here, because importing the package always imports this module.
os.register_at_fork(after_in_child=_note_fork)
with contextlib.suppress(OSError):  # without /proc
    # JAX, once started, has threads that Python does not count. In a fork there are none.
    if len(os.listdir("/proc/self/task")) <= threading.active_count():  # noqa: PTH208
        _note_fork()


def require_unforked() -> None:
    """Raise if this process was forked after JAX had started: a call would hang."""
    if _forked_from:
        problem = f"process {os.getpid()} was forked from process {_forked_from[0]}, without the"
        raise UserError(f"{problem} threads of JAX that run there: start processes by spawn")
