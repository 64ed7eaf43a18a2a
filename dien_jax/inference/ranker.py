"""Ranking of N candidates, or of all items, for one user; the history is encoded once.

Scores of candidates equal those of ``python -m dien_jax.evaluate`` to float32 rounding. The number
of users whose histories are remembered is bounded.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dien_jax.data.kinds import padded_columns
from dien_jax.data.value_text import SEPARATOR, as_list, as_text
from dien_jax.errors import UserError, require_unforked
from dien_jax.inference.bucketed_programs import (
    CANDIDATE_BUCKETS,
    BucketedPrograms,
    EncodedRequest,
    Event,
    History,
    RankRequest,
)
from dien_jax.inference.lists import EXACT_ITEMS, ItemLists, Ranking, item_rows, ranked
from dien_jax.inference.loaded_model import load_model
from dien_jax.runs.trained import TrainedModel
from dien_jax.utils.json_values import Positive, converted


class Ranker:
    """Score and sort candidates with a trained model.

    >>> from dien_jax import Ranker
    >>> ranker = Ranker("runs/first")
    >>> missing = {feature.name: None for feature in ranker.schema.request}
    >>> ranker.remember("Ann", ["item 1", "item 7"])
    >>> ranker.observe("Ann", "item 3")
    >>> sorted(ranker.rank(None, ["item 4", "item 5"], user="Ann", request_features=missing).ids)
    ['item 4', 'item 5']

    Histories keep their latest ``max_history`` events. A remembered history gives the same scores
    as one passed in the call. Each pair of padded sizes of histories and candidates is compiled
    when it first occurs, or by :meth:`warm_up`. Methods may be called from several threads. With
    ``model.follow_authors`` scores depend on the other candidates of a call and on padding, as in
    ``evaluate``.

    Args:
      path: run folder (its best checkpoint is used), exported file, or a model that is already
        loaded, for example by :func:`dien_jax.load_run`.
      data: dataset folder of the run; None for the run's own.
      max_users: maximum number of remembered users; the least recently used are evicted.
      separator: separator between the values of a multi-valued feature given as one text.
      exact_items: maximum number of items that :meth:`recommend` scores without a shortlist.

    Attributes:
      step: training step of the checkpoint.
      schema: features that the model was trained on.
      vocabularies: maps of raw ids and values to rows.

    Raises:
      UserError: if the run, its checkpoint, data or the file is unusable, or a file has ``data``.
      ValueError: for ``max_users`` below 1.
    """

    def __init__(
        self,
        path: str | Path | TrainedModel,
        data: str | Path | None = None,
        *,
        max_users: int = 1000,
        separator: str = SEPARATOR,
        exact_items: int = EXACT_ITEMS,
    ) -> None:
        self._users = RememberedUsers(max_users)
        model = load_model(path, data, separator)
        self.schema, self.step = model.schema, model.step
        self._max_history = model.history_buckets[-1]
        self.vocabularies, self._programs = model.vocabularies, BucketedPrograms(model)
        self._lists = ItemLists(model, self._programs, exact_items)

    def __repr__(self) -> str:
        return f"Ranker(checkpoint {self.step}, {self.schema.num_items - 1:,} items)"

    def rank(
        self,
        history: Sequence[Event] | None,
        candidates: Sequence[str | int],
        user: str | int | None = None,
        request_features: Mapping[str, Any] | None = None,
    ) -> Ranking:
        """Score candidates for a user and sort them.

        Scores are click probabilities of items that are shown to the user, under the conditions of
        training. Ids and values are raw, as in the log; numbers are converted to text. Values that
        training did not see are unknown to the model, and counted.

        Args:
          history: behaviours, oldest first; may be empty. None for the remembered history of
            ``user``. A behaviour is an item or, for a model with features of events, a mapping of
            its ``item`` and of features; those that it lacks are missing values.
          candidates: items.
          user: None for an unknown user.
          request_features: value of every feature of requests by name; None for a missing value, a
            list or one text with separators for a multi-valued feature, a list for a vector.

        Raises:
          UserError: for a feature that is missing, does not exist or is not a number, for an id or
            a category that is not text, a whole number or a date, or for ``history=None`` and a
            user who is not remembered.
        """
        (outcome,) = self.rank_many([RankRequest(history, candidates, user, request_features)])
        if isinstance(outcome, UserError):
            raise outcome
        return outcome

    def rank_many(self, requests: Sequence[RankRequest]) -> list[Ranking | UserError]:
        """Return the result of :meth:`rank` for each of several requests.

        A request that cannot be ranked has its error in place of a ranking, and does not affect the
        others.
        """
        outcomes = list(map(self._encoded_or_error, requests))
        encoded = [outcome for outcome in outcomes if isinstance(outcome, EncodedRequest)]
        scores = iter(self._programs.score(encoded))
        return [
            outcome if isinstance(outcome, UserError) else ranked(outcome, next(scores))
            for outcome in outcomes
        ]

    def recommend(
        self,
        history: Sequence[Event] | None = None,
        n: int = 10,
        *,
        user: str | int | None = None,
        request_features: Mapping[str, Any] | None = None,
        exclude_history: bool = True,
        candidates: Sequence[str | int] | None = None,
        exclude: Sequence[str | int] = (),
        at_most: Mapping[str, int] | None = None,
    ) -> Ranking:
        """Return the n items, out of all, that a user will most probably choose next.

        A score is the log odds of a click plus the log probability that training sampled the item
        as a negative (:func:`dien_jax.runs.calibration.list_offsets`), with weights of its parts
        (:class:`dien_jax.runs.list_weights.ListWeights`). Compare scores only within a list. Ties
        are in the order of the item vocabulary. Items without a training event are left out. If
        negatives were sampled by popularity, an empty history gives the most popular items, because
        every training example has a history. With more than ``exact_items`` items, a model with a
        tower ranks in stages: a rough estimate selects 384 items, the tower 128 of these for the
        whole model. Stages are larger for long lists and with more than 20,000 items. Exported
        models skip that of the tower.

        Args:
          history: see :meth:`rank`.
          n: length of the list; fewer items if no more are allowed.
          user: see :meth:`rank`.
          request_features: see :meth:`rank`.
          exclude_history: leave out the items of the history. Of a remembered user, only the kept
            events are known.
          candidates: items that may be listed; None for all.
          exclude: items that may not be listed.
          at_most: maximum number of items with the same value of a categorical item feature, by
            feature, such as ``{"category": 2}``; items whose value is unknown are not limited.

        Raises:
          UserError: as :meth:`rank`; also for ``n`` or ``at_most`` below 1, a feature that is not a
            categorical item feature, or a model without offsets.

        >>> from dien_jax import Ranker
        >>> ranker = Ranker("runs/first")
        >>> missing = {feature.name: None for feature in ranker.schema.request}
        >>> len(ranker.recommend(["item 1"], 3, request_features=missing).ids)
        3
        """
        filters: Any = {"exclude_history": exclude_history, "candidates": candidates}
        filters |= {"exclude": exclude, "at_most": at_most}
        of_user: Any = {"users": [user], "request_features": [request_features]}
        return self.recommend_many([history], n, **of_user, **filters)[0]

    def recommend_many(
        self,
        histories: Sequence[Sequence[Event] | None],
        n: int = 10,
        *,
        users: Sequence[str | int | None] | None = None,
        request_features: Sequence[Mapping[str, Any] | None] | None = None,
        exclude_history: bool = True,
        candidates: Sequence[str | int] | None = None,
        exclude: Sequence[str | int] = (),
        at_most: Mapping[str, int] | None = None,
    ) -> list[Ranking]:
        """Return the result of :meth:`recommend` for each of several histories, up to rounding.

        ``users`` and ``request_features`` have one entry per history, unknown by default. The other
        arguments apply to all histories.

        Raises:
          UserError: as :meth:`recommend`, with the number of the history; also for ``users`` or
            ``request_features`` of another length.
        """
        filters: Any = {"candidates": candidates, "exclude": exclude, "at_most": at_most}
        options = self._lists.options(n, exclude_history=exclude_history, **filters)
        count = len(histories := list(histories))  # a sparse matrix has no len
        columns: Any = {"users": users, "request_features": request_features}
        for name, values in columns.items():
            columns[name] = [None] * count if values is None else values
            if (found := len(columns[name])) != count:
                raise UserError(f"{name} must have one entry per history, {count}, got {found}")
        requests, whole = [], []
        for place, (history, *pair) in enumerate(zip(histories, *columns.values(), strict=True), 1):
            encoded = self._encoded_or_error(RankRequest(history, (), *pair))
            if isinstance(encoded, UserError):
                if count == 1:
                    raise encoded
                raise UserError(f"history {place} of {count}: {encoded}") from encoded
            requests.append(encoded)
            rows = encoded.history.rows
            whole.append(rows if history is None else self._history(history, whole=True).rows)
        rankings, lists = [], self._lists.of_requests(requests, whole, options)
        for request, raw, ranking in zip(requests, histories, lists, strict=True):
            if raw is not None:
                request.history.interests = None  # they take memory
            rankings.append(ranking)
        return rankings

    def remember(self, user: str | int, history: Sequence[Event]) -> None:
        """Encode a user's history, oldest event first, and keep it in place of an earlier one.

        The model need not know the user; the history may be empty. See :meth:`rank` for events.
        """
        name, encoded = _user_id(user), self._history(history)
        self._programs.encode([encoded])
        self._users.put(name, encoded)

    def observe(self, user: str | int, event: Event) -> None:
        """Append an event to a remembered history.

        Raises:
          UserError: if the user is not, or no longer, remembered.
        """
        name, new = _user_id(user), self._history([event], "event")

        def longer(history: History) -> History:
            rows = np.append(history.rows, new.rows)[-self._max_history :]
            joined = self._encoded(rows, [*history.given, *new.given][-self._max_history :])
            if history.interests is not None and len(rows) > len(history.rows):
                event = jax.tree.map(lambda values: values[0], new.columns)
                state = history.interests, int(new.rows[0]), len(history.rows)
                joined.interests = self._programs.extend(*state, event)
            return joined

        self._users.change(name, longer)

    def __contains__(self, user: object) -> bool:
        return str(user) in self._users.histories

    @property
    def remembered_users(self) -> int:
        """Return the number of remembered users."""
        return len(self._users.histories)

    def adopt(self, other: "Ranker") -> None:
        """Replace the remembered users by those of another ranker, to move to a newer checkpoint.

        Histories are copied as events, by raw ids, and encoded at the user's next request.
        """
        ours, theirs = self.vocabularies, other.vocabularies
        same = ours.items == theirs.items
        kinds = {(f.name, f.kind) for f in other.schema.event}
        kept = [f.name for f in self.schema.event if (f.name, f.kind) in kinds]

        def converted(history: History) -> History:
            rows = history.rows[-self._max_history :]
            if not same:
                rows = ours.item_rows([theirs.items[row] if row else "" for row in rows])
            events = history.given[-self._max_history :] or [{}] * len(rows)
            given = [{name: event.get(name) for name in kept} for event in events]
            return self._encoded(rows, given if self.schema.event else [])

        self._users.copy_from(other._users, converted)

    def warm_up(
        self,
        candidates: int = CANDIDATE_BUCKETS[-1],
        *,
        lists: bool = False,
        progress: Callable[[float], None] = lambda share: None,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Compile the programs of one user, so that only ``recommend_many`` may compile later.

        Each takes up to three seconds; :func:`dien_jax.utils.enable_compile_cache` caches them.

        Args:
          candidates: maximum number of candidates of a request; 512 covers any number.
          lists: also compile the programs of :meth:`recommend`.
          progress: called repeatedly with the completed fraction, from 0 to 1.
          ready: called once no request has to compile; until the end, short histories have more
            padding.
        """
        most = max(candidates, self.schema.num_items) if lists else candidates
        tower = lists and self._lists.has_tower
        for share in self._programs.compile_all(most, tower=tower, ready=ready):
            progress(share)

    def _encoded_or_error(self, request: RankRequest) -> EncodedRequest | UserError:
        try:
            if not isinstance(request, RankRequest):
                raise UserError(f"expected a RankRequest, got {request!r:.60}")
            # As a list: an integer would index a pandas Series by label.
            request = request._replace(candidates=as_list("candidates", request.candidates))
            events = request.history
            history = self._users.change(request.user) if events is None else self._history(events)
            values = {} if request.request_features is None else request.request_features
            columns, unknown = self.vocabularies.request_columns(values)
            candidates = item_rows(self.vocabularies, "candidates", request.candidates)
            user = np.full(1, self.vocabularies.user_row(request.user), np.int32)
        except UserError as error:
            return error
        of_request = padded_columns(self.schema.request, columns, slice(0, 1))
        counts = request.candidates, unknown + history.unknown_values
        return EncodedRequest(history, user, of_request, candidates, *counts)

    def _history(self, events: Any, name: str = "history", *, whole: bool = False) -> History:
        """Return raw events, by default the last ``max_history``, as rows."""
        kept = as_list(name, events)[0 if whole else -self._max_history :]
        ids, given = self.vocabularies.split_events(name, kept)
        return self._encoded(item_rows(self.vocabularies, name, ids), given, name)

    def _encoded(
        self, rows: np.ndarray, given: Sequence[Mapping[str, Any]], name: str = "history"
    ) -> History:
        """Return a history of rows, with features of its events as they were given."""
        columns, unknown = self.vocabularies.event_columns(name, given)
        padded = padded_columns(self.schema.event, columns, slice(0, len(rows)))
        return History(rows, padded, given=given, unknown_values=unknown)


def _user_id(user: Any) -> str:
    name = as_text(user)
    if not name:
        raise UserError("a user to remember must have an id, found none")
    return name


class NotRememberedError(UserError):
    """The user is not, or no longer, remembered."""


class RememberedUsers:
    """Histories by raw user id, shared by threads; the least recently used are evicted."""

    def __init__(self, max_users: int) -> None:
        self._max_users = converted(Positive, max_users, "max_users")
        self._lock = threading.Lock()
        self.histories: OrderedDict[str, History] = OrderedDict()

    def put(self, user: str, history: History) -> None:
        """Store a user's history in place of an earlier one."""
        with self._lock:
            self.histories[user] = history
            self.histories.move_to_end(user)
            if len(self.histories) > self._max_users:
                self.histories.popitem(last=False)

    def change(
        self, user: Any, change: Callable[[History], History] = lambda history: history
    ) -> History:
        """Replace a history atomically by ``change(history)``, mark it as used, and return it."""
        require_unforked()  # in a fork, a thread that does not exist may hold the lock
        if user is None:
            raise UserError(
                "expected a history, items from the oldest on, or a user that is remembered, found "
                "neither"
            )
        name = as_text(user)
        with self._lock:
            history = self.histories.get(name)
            if history is None:
                raise NotRememberedError(
                    f"user {name[:100]!r} is not remembered; give the history, the user's "
                    f"items from the oldest on, or first call remember with it (/v1/remember of "
                    f"the server); max_users (--max-users there) limits how many users are kept"
                )
            self.histories[name] = history = change(history)
            self.histories.move_to_end(name)
        return history

    def copy_from(self, other: "RememberedUsers", convert: Callable[[History], History]) -> None:
        """Replace all users by those of another store, with ``convert(history)`` of each."""
        require_unforked()
        with other._lock:
            latest = list(other.histories.items())[-self._max_users :]
        copied = OrderedDict((user, convert(history)) for user, history in latest)
        with self._lock:
            self.histories = copied
