"""The one way to start a command: memory and compile cache, errors and signals as exit status."""

import contextlib
import functools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TypeVar

from dien_jax.errors import Interrupted, NotFiniteError, UserError, reason
from dien_jax.utils.console import replace_what_encodings_lack, say
from dien_jax.utils.memory import keep_freed_memory

Options = TypeVar("Options")


def run_command(
    parse: Callable[[], Options],
    run: Callable[[Options], int | None],
    *,
    compiles: bool = True,
    when_interrupted: str = "",
) -> int:
    """Parse flags, run a command, and return its exit status.

    The status is 0 for success, 1 when training diverged, 2 for a mistake in flags, files or
    settings, or a file that the system refuses, and 128 + n when signal n stopped the command.

    Args:
      parse: returns the options; may raise :class:`UserError`.
      run: does the work; returns an exit status other than 0 if it has one.
      compiles: keep freed memory and enable the compile cache first, unless the options have a
        false ``keep_memory`` or ``compile_cache``.
      when_interrupted: printed when Ctrl-C ends the command.
    """
    replace_what_encodings_lack()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set while modules were imported
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        options = parse()
        if compiles and getattr(options, "keep_memory", True):
            keep_freed_memory()
        if compiles and getattr(options, "compile_cache", True):
            from dien_jax.utils.compile_cache import enable_compile_cache

            enable_compile_cache()
        return run(options) or 0
    except (UserError, NotFiniteError) as error:
        say(f"error: {error}")
        return 2 if isinstance(error, UserError) else 1
    except OSError as error:  # a disk that fails where no context names the file
        say(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}")
        return 2
    except MemoryError as error:
        say(f"error: out of memory: {reason(error)}")
        return 2
    except (Interrupted, KeyboardInterrupt) as stop:
        if when_interrupted:
            say(when_interrupted)
        return 128 + (stop.number if isinstance(stop, Interrupted) else signal.SIGINT)


def make_main(
    name: str,
    parse: Callable[..., Options],
    arguments: type[Options],
    run: Callable[[Options], int | None],
    when_interrupted: str = "",
) -> Callable[..., int]:
    """Return the ``main`` of a command: ``(argv=None)`` to its exit status, by :func:`run_command`.

    ``parse`` is ``tyro.cli``, which only commands import, and ``arguments`` its first argument.
    """

    def main(argv: Sequence[str] | None = None) -> int:
        prog = f"python -m dien_jax.{name}"
        flags = functools.partial(parse, arguments, args=argv, prog=prog)
        return run_command(flags, run, when_interrupted=when_interrupted)

    return main


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], int | None]]:
    """Yield a function that returns the number of the first SIGINT or SIGTERM; None before it.

    A second signal ends the process at once.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    stopped_by: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_DFL)
        stopped_by.append(number)
        os.write(2, b"\nstopping once the state is saved; again to stop at once\n")

    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: stopped_by[0] if stopped_by else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
