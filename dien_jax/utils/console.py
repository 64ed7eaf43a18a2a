"""Telling on standard error what is being done; standard output is for results."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

SECONDS_BETWEEN_LINES = 5.0
BAR_WIDTH = 30
"""Characters."""


class Stage:
    """A piece of work under way.

    Attributes:
      note: how far it has come, shown with its name; may be changed at any time.
      share: the part that is done, from 0 to 1, where that is known: a bar on a terminal.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.note = ""
        self.share: float | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.note}" if self.note else self.name


def say(line: str) -> None:
    """One line on standard error."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def stage(name: str) -> Iterator[Stage]:
    """Shows that work goes on: a spinner on a terminal, else a line every few seconds.

    When the block ends, a line says what was done and how long it took.
    """
    current = Stage(name)
    start = time.monotonic()
    done = threading.Event()
    console = Console(stderr=True)

    def watch() -> None:
        if not console.is_terminal:
            while not done.wait(SECONDS_BETWEEN_LINES):
                say(f"  {current}, {time.monotonic() - start:.0f} s so far")
            return
        with console.status("") as status:
            while not done.wait(0.1):
                bar = "" if current.share is None else f"{_bar(current.share)} "
                status.update(Text(f"{bar}{current}, {time.monotonic() - start:.0f} s"))

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield current
    finally:
        done.set()
        watcher.join()
    say(f"  {current} ({time.monotonic() - start:.1f} s)")


def _bar(share: float) -> str:
    done = round(BAR_WIDTH * min(share, 1.0))
    return "━" * done + "╌" * (BAR_WIDTH - done)
