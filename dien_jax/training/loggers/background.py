"""Calls of a tracking server's client, made in the background."""

import contextlib
import queue
import re
import threading
from collections import deque
from collections.abc import Callable

from dien_jax.errors import reason

LONGEST_QUEUE = 1000
"""Calls that wait; further ones are left out."""

FINISH_SECONDS = 30.0
"""Longest wait for a server when a run finishes."""
CLOSE_SECONDS = 10.0
"""Longest wait for a server when a run ends without a result, or has finished."""

Call = Callable[[], object]


def without_password(text: str) -> str:
    """Return text without user names and passwords in addresses, ``//NAME:PASSWORD@HOST``."""
    return re.sub(r"//[^/@\s]*@", "//", text)


class Background:
    """A thread that makes calls one after the other, so that training never waits for them.

    A call that fails is left out, and the ones after it are made. The first one that fails, and
    the number of those that were left out in the end, become lines of ``problems``. The thread
    never keeps the process alive.

    Args:
      name: name of the logger in messages.
      problems: gets lines to be said.
    """

    def __init__(self, name: str, problems: deque[str]) -> None:
        self._name, self._problems = name, problems
        self._calls: queue.Queue[Call | None] = queue.Queue(LONGEST_QUEUE)
        self._missing = 0
        self._is_given_up = False
        threading.Thread(target=self._work, name=f"logger {name}", daemon=True).start()

    def do(self, call: Call) -> None:
        """Make a call later, after those before it."""
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._leave_out("it does not answer")

    def wait(self, seconds: float) -> None:
        """Wait until the calls so far are made, once: after a wait in vain there is no other."""
        if self._is_given_up:
            return
        is_done = threading.Event()
        try:
            self._calls.put(is_done.set, timeout=seconds)
        except queue.Full:
            self._is_given_up = True
        else:
            self._is_given_up = not is_done.wait(seconds)
        if self._is_given_up:
            self._missing += self._calls.qsize()
        if self._missing:
            count = f"{self._missing:,} report{'s' if self._missing > 1 else ''}"
            self._problems.append(f"warning: {self._name} lacks {count} of this run")
            self._missing = 0

    def end(self, seconds: float) -> None:
        """Wait as :meth:`wait`, and let the thread end."""
        self.wait(seconds)
        with contextlib.suppress(queue.Full):  # it is stuck
            self._calls.put_nowait(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # clients raise errors of every kind
                self._leave_out(without_password(reason(error)))

    def _leave_out(self, why: str) -> None:
        if not self._missing:
            self._problems.append(f"warning: {self._name}: {why}; training goes on without it")
        self._missing += 1
