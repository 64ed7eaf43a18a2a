"""Histories of users that a ranker remembers; they are bounded in number."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from dien_jax.errors import UserError
from dien_jax.inference.bucketed_programs import History


class NotRememberedError(UserError):
    """The user is not, or no longer, remembered."""


class RememberedUsers:
    """Histories by raw user id, shared by threads; the least recently used are evicted."""

    def __init__(self, max_users: int) -> None:
        if max_users < 1:
            raise ValueError(f"max_users must be at least 1, got {max_users}")
        self._max_users = max_users
        self._histories: OrderedDict[str, History] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, user: object) -> bool:
        return str(user) in self._histories

    def __len__(self) -> int:
        return len(self._histories)

    def put(self, user: Any, history: History) -> None:
        """Remember a user, in place of an earlier history."""
        with self._lock:
            self._histories[str(user)] = history
            self._histories.move_to_end(str(user))
            if len(self._histories) > self._max_users:
                self._histories.popitem(last=False)

    def change(
        self, user: Any, change: Callable[[History], History] = lambda history: history
    ) -> History:
        """Replace a user's history by ``change(history)`` in one step, as last used; return it."""
        if user is None:
            raise NotRememberedError(
                "expected a history, or a user that is remembered, found neither"
            )
        with self._lock:
            history = self._histories.get(str(user))
            if history is None:
                raise NotRememberedError(
                    f"user {str(user)[:100]!r} is not remembered; give the history, or call "
                    f"remember (/v1/remember of the server) first; max_users limits how many users "
                    f"are kept"
                )
            self._histories[str(user)] = history = change(history)
            self._histories.move_to_end(str(user))
        return history

    def swap(self, user: Any, old: History, new: History) -> None:
        """Replace a user's history if it still is ``old``."""
        with self._lock:
            if self._histories.get(str(user)) is old:
                self._histories[str(user)] = new

    def copy_from(self, other: "RememberedUsers", convert: Callable[[History], History]) -> None:
        """Remember the users of another store instead, with ``convert(history)`` of each."""
        with other._lock:
            latest = list(other._histories.items())[-self._max_users :]
        copied = OrderedDict((user, convert(history)) for user, history in latest)
        with self._lock:
            self._histories = copied
