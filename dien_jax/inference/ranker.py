"""Ranking N candidates for one user; the interest extractor runs over a history once.

Scores are those of ``python -m dien_jax.evaluate``, to float32 rounding. Users whose histories are
remembered are bounded in number.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dien_jax.data.columns import padded_columns
from dien_jax.data.schema import UNKNOWN
from dien_jax.data.value_text import as_text
from dien_jax.data.vocabularies import SEPARATOR
from dien_jax.errors import UserError
from dien_jax.inference.bucketed_programs import (
    CANDIDATE_BUCKETS,
    BucketedPrograms,
    EncodedRequest,
    History,
    LoadedModel,
    RankRequest,
    load_model,
)
from dien_jax.runs.trained import TrainedModel

if TYPE_CHECKING:
    import pandas as pd


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

    def get(self, user: Any) -> History:
        """Return a user's history, and count the user as recently used."""
        return self.change(user, lambda history: history)

    def put(self, user: Any, history: History) -> None:
        """Remember a user, in place of an earlier history."""
        with self._lock:
            self._histories[str(user)] = history
            self._histories.move_to_end(str(user))
            if len(self._histories) > self._max_users:
                self._histories.popitem(last=False)

    def change(self, user: Any, change: Callable[[History], History]) -> History:
        """Replace a remembered user's history by ``change(history)`` in one step; return that."""
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


class Ranking(NamedTuple):
    """Candidates sorted by score, the highest first; equal scores keep the given order.

    >>> from dien_jax import Ranker
    >>> ranker = Ranker("runs/first")
    >>> context = {feature.name: None for feature in ranker.schema.context}
    >>> ids, scores, *counts = ranker.rank([], ["new 1", "new 2"], context=context)
    >>> ids, bool(scores[0] == scores[1]), counts  # training saw neither of the two
    (['new 1', 'new 2'], True, [0, 2, 0])

    Attributes:
      ids: raw ids.
      scores: float32 ``[N]``, click probabilities.
      unknown_history: number of kept behaviours that training did not see.
      unknown_candidates: number of candidates that training did not see; they score alike.
      unknown_context: number of context values that training did not see.
    """

    ids: list[str]
    scores: np.ndarray
    unknown_history: int
    unknown_candidates: int
    unknown_context: int

    def to_pandas(self) -> "pd.DataFrame":
        """Return the columns ``item`` and ``score``, the highest score first; needs pandas."""
        import pandas as pd

        return pd.DataFrame({"item": self.ids, "score": self.scores})


class Ranker:
    """Score and sort candidates with a trained model.

    >>> from dien_jax import Ranker
    >>> ranker = Ranker("runs/first")
    >>> context = {feature.name: None for feature in ranker.schema.context}
    >>> ranker.remember("Ann", ["item 1", "item 7"])
    >>> ranker.observe("Ann", "item 3")
    >>> sorted(ranker.rank(None, ["item 4", "item 5"], user="Ann", context=context).ids)
    ['item 4', 'item 5']

    Histories keep their latest ``max_history`` events. They and the candidates are padded; each
    pair of sizes is compiled when it first occurs, or by :meth:`warm_up`. Methods may be called
    from several threads.

    :meth:`observe` adds an event to a remembered history by one step of the recurrence. Once there
    are ``max_history`` events, each further one drops the oldest. A recurrence cannot forget its
    first event, so the history is read again when the user is next ranked for: a remembered user
    always scores as the same history given whole.

    Two choices of the authors' program make scores depend on more than user and candidate, as in
    ``evaluate``: ``model.follow_authors`` normalises over the candidates of a call and counts the
    padding of the history's bucket.

    Args:
      path: run folder (its best checkpoint is used), exported file, or a model that is already
        loaded, for example by :func:`dien_jax.load_run`.
      data: dataset folder of the run; None for the one that it was trained on.
      max_users: maximum number of remembered users; the least recently used are evicted.
      separator: separator between the values of a multi-valued context feature given as one text.

    Attributes:
      step: training step of the checkpoint.
      schema: features that the model was trained on.

    Raises:
      UserError: when the run, its checkpoint, its data or the file cannot be used, or ``data`` is
        given for a file.
      ValueError: for ``max_users`` below 1.
    """

    def __init__(
        self,
        path: str | Path | TrainedModel | LoadedModel,
        data: str | Path | None = None,
        *,
        max_users: int = 1000,
        separator: str = SEPARATOR,
    ) -> None:
        self._users = RememberedUsers(max_users)
        model = path if isinstance(path, LoadedModel) else load_model(path, data, separator)
        self.schema, self.step, self._max_history = model.schema, model.step, model.max_history
        self._vocabularies, self._programs = model.vocabularies, BucketedPrograms(model)

    def rank(
        self,
        history: Sequence[str | int] | None,
        candidates: Sequence[str | int],
        user: str | int | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Ranking:
        """Score candidates for a user and sort them.

        Ids and values are raw, as in the log. Numbers may stand for their text. Values that
        training did not see are unknown to the model, and counted.

        Args:
          history: behaviours, oldest first; may be empty. None for the remembered history of
            ``user``.
          candidates: items.
          user: None for an unknown user.
          context: value of every context feature by name; None for a missing value, a list or one
            text with separators for a multi-valued feature.

        Raises:
          UserError: for a context feature that is missing, does not exist or is not a number, for
            an id or a category that is not text, a whole number or a date, or for ``history=None``
            and a user who is not remembered.
        """
        (outcome,) = self.rank_many([RankRequest(history, candidates, user, context)])
        if isinstance(outcome, UserError):
            raise outcome
        return outcome

    def rank_many(self, requests: Sequence[RankRequest]) -> list[Ranking | UserError]:
        """Return the result of :meth:`rank` for each of several requests, to float32 rounding.

        Requests of the same padded sizes share calls of the programs. A request that cannot be
        ranked has its error in place of a ranking; the others do not depend on it.
        """
        outcomes = list(map(self._encoded_or_error, requests))
        encoded = [outcome for outcome in outcomes if isinstance(outcome, EncodedRequest)]
        missing = [request for request in encoded if request.history.interests is None]
        histories = self._programs.encode([request.history for request in missing])
        for request, history in zip(missing, histories, strict=True):
            self._users.swap(request.raw.user, request.history, history)
            request.history = history
        scores = iter(self._programs.score(encoded))
        return [
            outcome if isinstance(outcome, UserError) else _ranking(outcome, next(scores))
            for outcome in outcomes
        ]

    def remember(self, user: str | int, history: Sequence[str | int]) -> None:
        """Read a user's history, oldest event first, and keep it in place of an earlier one.

        Training need not have seen the user; the history may be empty.
        """
        name = _user_id(user)
        (encoded,) = self._programs.encode([self._history(history)])
        self._users.put(name, encoded)

    def observe(self, user: str | int, event: str | int) -> None:
        """Add an event to the end of a remembered history.

        Raises:
          UserError: when the user is not, or no longer, remembered.
        """
        name, (row,) = _user_id(user), self._item_rows("event", [event])

        def longer(history: History) -> History:
            rows, interests = np.append(history.rows, row), history.interests
            if len(rows) > self._max_history:
                return History(rows[1:])
            if interests is not None:
                interests = self._programs.extend(interests, int(row), len(history.rows))
            return History(rows, interests)

        self._users.change(name, longer)

    def __contains__(self, user: object) -> bool:
        return user in self._users

    @property
    def remembered_users(self) -> int:
        """Return the number of remembered users."""
        return len(self._users)

    def adopt(self, other: "Ranker") -> None:
        """Remember the users of another ranker instead, for a newer checkpoint of a run.

        Histories are copied as events, by their raw ids among those that the other model knows.
        Each is read by this model when its user is next ranked for.
        """
        ours, theirs = self._vocabularies, other._vocabularies
        same = ours.items == theirs.items

        def converted(history: History) -> History:
            rows = history.rows[max(len(history.rows) - self._max_history, 0) :]
            if not same:
                rows = ours.item_rows([theirs.items[row] if row else "" for row in rows])
            return History(rows)

        self._users.copy_from(other._users, converted)

    def warm_up(
        self,
        users: int = 1,
        candidates: int = CANDIDATE_BUCKETS[-1],
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        """Compile every program, so that no later call waits for compilation.

        This takes about half a second for each combination of padded sizes;
        :func:`dien_jax.utils.enable_compile_cache` keeps the programs on disk.

        Args:
          users: maximum number of requests of one :meth:`rank_many`; 8 covers any number.
          candidates: maximum number of candidates of a request; 512 covers any number.
          progress: called now and then with the share that is done, from 0 to 1.
        """
        context, _ = self._context(dict.fromkeys(feature.name for feature in self.schema.context))
        for share in self._programs.compile_all(context, users, candidates):
            progress(share)

    def _encoded_or_error(self, request: RankRequest) -> EncodedRequest | UserError:
        try:
            if not isinstance(request, RankRequest):
                raise UserError(f"expected a RankRequest, got {request!r:.60}")
            # A list: numbers index the values of a pandas series by its labels.
            request = request._replace(candidates=_as_list("candidates", request.candidates))
            events = request.history
            history = self._users.get(request.user) if events is None else self._history(events)
            context, unknown_context = self._context(request.context or {})
            candidates = self._item_rows("candidates", request.candidates)
            user = np.full(1, self._vocabularies.user_row(request.user), np.int32)
        except UserError as error:
            return error
        return EncodedRequest(request, history, candidates, user, context, unknown_context)

    def _context(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        columns, unknown = self._vocabularies.context_columns(values)
        return padded_columns(self.schema.context, columns, np.zeros(1, np.int64)), unknown

    def _history(self, events: Sequence[str | int]) -> History:
        ids = _as_list("history", events)
        kept = ids[max(len(ids) - self._max_history, 0) :]
        return History(self._item_rows("history", kept))

    def _item_rows(self, name: str, ids: Sequence[Any]) -> np.ndarray:
        texts = list(map(as_text, ids))
        for place, (raw, text) in enumerate(zip(ids, texts, strict=True), start=1):
            if not text and not isinstance(raw, str):  # an empty text is an unknown item
                raise UserError(f"{name}: id {place} of {len(ids)} is {raw!r}; expected an item")
        return self._vocabularies.item_rows(texts)


def _ranking(request: EncodedRequest, scores: np.ndarray) -> Ranking | UserError:
    if not np.isfinite(scores).all():
        place = int(np.flatnonzero(~np.isfinite(scores))[0])
        return UserError(
            f"the model's score of candidate {request.raw.candidates[place]!r} is {scores[place]}: "
            f"a parameter or a number of the context is too large"
        )
    order = np.argsort(-scores, kind="stable")
    ids = [str(request.raw.candidates[place]) for place in order]
    encoded = request.history.rows, request.candidates
    history, candidates = (int(np.count_nonzero(rows == UNKNOWN)) for rows in encoded)
    return Ranking(ids, scores[order], history, candidates, request.unknown_context)


def _as_list(name: str, ids: Any) -> list[Any]:
    """Return ids of a list, a tuple, an array or a series; ``UserError`` for what has no order."""
    unordered = isinstance(ids, str | bytes | bytearray | Mapping | Set)
    if unordered or not (hasattr(ids, "__len__") and hasattr(ids, "__getitem__")):
        kind = f"the text {ids[:40]!r}" if isinstance(ids, str) else f"{ids!r:.40}"
        raise UserError(f"{name} must be a list of ids, got {kind}")
    return list(ids)


def _user_id(user: Any) -> str:
    name = as_text(user)
    if not name:
        raise UserError("a user to remember must have an id, found none")
    return name
