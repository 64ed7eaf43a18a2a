"""Results on standard output, messages and progress on standard error.

Nothing else in the package prints. Text may come from files, so control characters are escaped
here, and characters that a stream cannot encode are replaced.

Progress is one line: redrawn on a terminal, and printed every few seconds elsewhere.
"""

import contextlib
import io
import logging
import os
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from dien_jax.errors import UserError, printable_lines

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_UPDATES = 0.25  # minimum time between updates of a terminal
BAR_WIDTH = 20


_other_process: int | None = None  # number of this process, if another one of its run prints


def print_as_process(number: int) -> None:
    """Print as a process of a run from now on: all but 0 print only errors, with their number."""
    global _other_process
    _other_process = number or None


def say(line: str) -> None:
    """Print a message on standard error if possible, unless another process prints."""
    if _other_process is None:
        _print_message(line)


def say_error(line: str) -> None:
    """Print an error on standard error, in every process."""
    where = "" if _other_process is None else f"process {_other_process}: "
    _print_message(f"{where}{line}")


@contextlib.contextmanager
def saying_messages_of(logger_name: str) -> Iterator[None]:
    """Print log messages of a library by :func:`say`, without level and name."""
    logger, handler = logging.getLogger(logger_name), logging.Handler()
    handler.emit = lambda record: say(record.getMessage())  # type: ignore[method-assign]
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def print_result(text: str, out: Path | None = None) -> None:
    """Print lines of a result on standard output, unless another process of the run prints.

    If standard output is the file ``out`` of the command, they go to standard error as a message.
    Output that cannot be written is a ``UserError``, as the result would be lost; a pipe without a
    reader is a ``BrokenPipeError``. :func:`take_closed_streams` has refused a closed output.
    """
    with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or no file
        if out is not None and os.path.samestat(out.stat(), os.fstat(sys.stdout.fileno())):
            say(text)
            return
    if _other_process is None:
        try:
            _print(text, sys.stdout)
        except BrokenPipeError:
            raise
        except OSError as error:
            give_up(sys.stdout)
            problem = error.strerror or error
            raise UserError(f"standard output cannot be written: {problem}") from error


def listed(name: str, width: int, text: str) -> str:
    """Return an entry of a list of names, wrapped at the width of the terminal.

    >>> print(listed("train", 8, "Train a click model"))
      train     Train a click model
    """
    start = f"  {name:{width}}  "
    columns = max(shutil.get_terminal_size().columns, 2 * len(start))
    return textwrap.fill(text, columns, initial_indent=start, subsequent_indent=" " * len(start))


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Align columns: the first ``left`` flush left, the others flush right."""
    columns = []
    for number, column in enumerate(zip(*rows, strict=True)):
        width, adjust = max(map(len, column)), str.ljust if number < left else str.rjust
        columns.append([adjust(cell, width) for cell in column])
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


def _print_message(line: str) -> None:
    try:
        if sys.stderr is not None:  # print would use standard output instead
            _print(line, sys.stderr)
    except OSError:
        give_up(sys.stderr)


def give_up(stream: Any) -> None:
    """Send the buffer of a stream to the null device, so that it does not fail again at exit."""
    if stream in (sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _print(text: str, stream: Any) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = printable_lines(text).encode(encoding, "backslashreplace").decode(encoding)
    print(shown, file=stream, flush=True)


def replace_what_encodings_lack() -> None:
    """Make streams escape characters that their encodings lack, in help texts for example."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def take_closed_streams() -> None:
    """Prevent files that are opened later from becoming standard input, output or error.

    A library that prints would write into such a file. A closed standard output is a ``UserError``.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    if sys.stdout is None:  # Python sets this if the descriptor is closed
        raise UserError("standard output is closed; expected a file, a pipe or a terminal")


class ProgressLine:
    """One line that shows progress, until it is closed.

    ``live`` is true if the line is redrawn, on a terminal. Elsewhere, lines are printed at least
    ``SECONDS_BETWEEN_LINES`` apart.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, markup=False, emoji=False, highlight=False)
        self.live = self._console.is_terminal and not self._console.is_dumb_terminal
        ascii_only = self._console.options.ascii_only
        self._spinner = Spinner("line" if ascii_only else "dots")
        self._full, self._empty = "#-" if ascii_only else "━╌"
        self._redrawn: Live | None = None
        self._updated_at = float("-inf")

    def update(self, text: str, share: float | None = None) -> None:
        """Show a text and, if the line is redrawn, a bar for the completed share."""
        if _other_process is not None:
            return
        text = printable_lines(text)
        if self.live:
            done = round(BAR_WIDTH * min(share or 0.0, 1.0))
            bar = "" if share is None else f"{self._full * done}{self._empty * (BAR_WIDTH - done)} "
            line = Text(bar + text, no_wrap=False, overflow="fold")
            self._spinner.update(text=line)
            content = line if bar else self._spinner
            if self._redrawn is not None:
                self._redrawn.update(content)
                return
            options: Any = {"redirect_stdout": False, "transient": True}
            rate = 1 / SECONDS_BETWEEN_UPDATES
            self._redrawn = Live(content, console=self._console, refresh_per_second=rate, **options)
            self._redrawn.start()
            self._console.show_cursor(True)  # a process that is killed cannot restore it
            return
        now = time.monotonic()
        if now - self._updated_at >= SECONDS_BETWEEN_LINES:
            self._updated_at = now
            say(text)

    def say(self, line: str) -> None:
        """Print a line above the progress line."""
        if self._redrawn is None:
            say(line)
        else:
            self._console.print(printable_lines(line), soft_wrap=True)

    def close(self, line: str | None = None) -> None:
        """Remove the line, and print the given one in its place."""
        if self._redrawn is not None:
            self._redrawn.stop()
            self._redrawn = None
        if line is not None:
            say(line)


class Stage:
    """Work in progress: a note and the completed share (0 to 1) may change at any time."""

    def __init__(self, name: str) -> None:
        self.name, self.note = name, ""
        self.share: float | None = None  # None while it is unknown
        self._start = time.monotonic()  # as seconds() does
        self._first: tuple[float, float] | None = None  # seconds and share at the first progress

    def now(self, note: str) -> None:
        """Show the current step, whose progress is unknown."""
        self.note, self.share, self._first = note, None, None

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._start

    def left(self, seconds: float) -> str:
        """Return the time that is left after some seconds, as text; empty if unknown.

        The rate is measured from the first progress that this sees, which excludes compilation.
        """
        if not self.share:
            self._first = None
            return ""
        start, share = self._first = self._first or (seconds, self.share)
        if self.share <= share or seconds < SECONDS_BETWEEN_LINES:
            return ""
        left = (seconds - start) * (1 - self.share) / (self.share - share)
        return f", about {left:.0f} s left"

    def __str__(self) -> str:
        return f"{self.name}: {self.note}" if self.note else self.name


@contextlib.contextmanager
def stage(name: str) -> Iterator[Stage]:
    """Show the progress of a block and, when it ends, its duration."""
    current = Stage(name)
    done = threading.Event()
    line = ProgressLine()

    def watch() -> None:
        while not done.wait(SECONDS_BETWEEN_UPDATES if line.live else SECONDS_BETWEEN_LINES):
            passed = current.seconds()
            line.update(f"  {current}, {passed:.0f} s{current.left(passed)}", current.share)

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    end = None
    try:
        yield current
        end = f"  {current} ({current.seconds():.1f} s)"
    finally:
        done.set()
        watcher.join()
        line.close(end)
