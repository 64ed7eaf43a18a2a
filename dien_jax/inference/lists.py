"""Lists of the best items for a user: what may be on them, and the order of what is.

Dimensions: I items, row 0 the unknown one; N items that are ranked for a user.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, compress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax
import numpy as np
from threadpoolctl import threadpool_limits

from dien_jax.data.schema import UNKNOWN
from dien_jax.data.value_text import as_list, as_text
from dien_jax.data.vocabularies import Vocabularies
from dien_jax.errors import UserError, require_choice
from dien_jax.inference.bucketed_programs import CANDIDATE_BUCKETS, BucketedPrograms, EncodedRequest
from dien_jax.inference.loaded_model import LoadedModel
from dien_jax.inference.shortlist import WEIGHTS_OF, Shortlist, stage_sizes
from dien_jax.metrics.lists import first_places
from dien_jax.utils.console import say
from dien_jax.utils.json_values import Positive, converted
from dien_jax.utils.machine import map_in_order, thread_count

if TYPE_CHECKING:
    import pandas as pd

Result = TypeVar("Result")
USERS_AT_ONCE, MOST_THREADS = 16, 4
"""Users whose lists are made together, and threads that make lists; more take no more memory."""
EXACT_ITEMS = CANDIDATE_BUCKETS[-1]
"""Maximum number of items that the whole model scores all, by default."""
LEAST_COMPLEMENT = 2.0**-24
"""Least distance of a float32 probability from 1; log odds above 16.6 are cut to it."""


class Ranking(NamedTuple):
    """Items sorted by score, the highest first; equal scores keep the given order.

    >>> from dien_jax import Ranker
    >>> ranker = Ranker("runs/first")
    >>> missing = {feature.name: None for feature in ranker.schema.request}
    >>> ids, scores, *counts = ranker.rank([], ["new 1", "new 2"], request_features=missing)
    >>> ids, bool(scores[0] == scores[1]), counts  # training saw neither of the two
    (['new 1', 'new 2'], True, [0, 2, 0])

    Attributes:
      ids: raw ids.
      scores: float32 ``[N]``: click probabilities from ``rank``, corrected log odds from
        ``recommend``.
      unknown_history: number of kept behaviours that training did not see.
      unknown_candidates: number of candidates, or of items to exclude, that training did not see;
        ``rank`` scores them alike, ``recommend`` leaves them out.
      unknown_values: number of values of features that training did not see.
    """

    ids: list[str]
    scores: np.ndarray
    unknown_history: int
    unknown_candidates: int
    unknown_values: int

    def to_pandas(self) -> "pd.DataFrame":
        """Return the columns ``rank``, from 1, ``item`` and ``score``; needs pandas."""
        import pandas as pd

        items = pd.Series(self.ids, dtype=object)  # ids of any log, which need not be Unicode
        ranks = range(1, len(items) + 1)
        return pd.DataFrame({"rank": ranks, "item": items, "score": self.scores})


class ListOptions(NamedTuple):
    """Length of a list, and rows of what may be on it; see :meth:`dien_jax.Ranker.recommend`."""

    n: int
    exclude_history: bool
    candidates: np.ndarray | None
    exclude: np.ndarray
    at_most: Mapping[str, int]

    def of_length(self, n: int) -> "ListOptions":
        """Return the options of a longer list, with wider limits."""
        at_most = {name: most * (n // self.n) for name, most in self.at_most.items()}
        return self._replace(n=n, at_most=at_most)


class ItemLists:
    """The lists of one model, of up to ``exact_items`` items without a shortlist.

    Their scores have weighted parts, see :class:`dien_jax.runs.list_weights.ListWeights`.
    ``listed`` marks the items that may be on a list, bool ``[I]``; it is empty without offsets.
    """

    def __init__(
        self, model: LoadedModel, programs: BucketedPrograms, exact_items: int = EXACT_ITEMS
    ) -> None:
        converted(Positive, exact_items, "exact_items")
        self._tables, item = model.tables, model.schema.item[0]
        self._offsets = np.zeros(0) if model.list_offsets is None else model.list_offsets
        self._programs, self._vocabularies = programs, model.vocabularies
        self._arguments = model.arguments
        if (weights := model.list_weights) is not None:
            variables, *tables = model.arguments
            self._arguments = (jax.device_put(weights.apply(variables)), *tables)
            self._offsets = self._offsets * np.float32(weights.offset)
        self._features = [f.name for f in model.schema.item[1:] if f.kind == "categorical"]
        self.listed = listed = np.isfinite(self._offsets)
        self._knows_repeats = model.knows_repeats
        self._has_counts = len(np.unique(self._offsets[listed])) > 1  # log shares of events
        self.shortlist: Shortlist | None = None
        if len(listed) > exact_items and f"{WEIGHTS_OF}/{item.name}" in model.tables:
            self.shortlist = Shortlist(model.tables, item.name, self._features[:2])
        self.has_tower = bool(self.shortlist and model.programs.tower)

    def options(
        self,
        n: int,
        *,
        exclude_history: bool = True,
        candidates: Any = None,
        exclude: Any = (),
        at_most: Mapping[str, int] | None = None,
    ) -> ListOptions:
        """Return the options of lists; refuse a length, a feature or ids that none can have."""
        rows = partial(item_rows, self._vocabularies)
        allowed = None if candidates is None else rows("candidates", candidates)
        excluded = rows("exclude", exclude)
        limits = {} if at_most is None else at_most
        if not len(self._offsets):
            raise UserError(
                "the model has no list_offsets.npy, which lists over all items need: train it again"
            )
        if not isinstance(limits, Mapping):
            example = "a limit by feature, such as {'category': 2}"
            raise UserError(f"at_most: expected {example}, got {limits!r:.40}")
        for name in limits:
            require_choice("a feature of at_most", name, self._features)
        # As Python's numbers: NumPy's would overflow.
        limits = {f: converted(Positive, k, f"at_most of {f!r}") for f, k in limits.items()}
        length = converted(Positive, n, "n")
        if not exclude_history and not self._knows_repeats:
            self._knows_repeats = True  # said once
            problem = "scores of items of the history are too high: no negative of training was one"
            say(f"warning: {problem}. Prepare the data with --allow-own-negatives")
        return ListOptions(length, exclude_history, allowed, excluded, limits)

    def of_requests(
        self, requests: Sequence[EncodedRequest], chosen: Sequence[np.ndarray], options: ListOptions
    ) -> Iterator[Ranking]:
        """Yield the lists of requests, whose candidates are set; ``chosen`` are all behaviours."""
        ids, allowed = self._vocabularies.items, options.candidates
        unknown = 0 if allowed is None else int(np.count_nonzero(~self.listed[allowed]))
        unknown += int(np.count_nonzero(options.exclude == UNKNOWN))
        lists = self.rows_of_requests(requests, chosen, options)
        for request, (rows, scores) in zip(requests, lists, strict=True):
            events = int(np.count_nonzero(request.history.rows == UNKNOWN))
            listed = [ids[row] for row in rows]
            yield Ranking(listed, scores, events, unknown, request.unknown_values)

    def rows_of_requests(
        self, requests: Sequence[EncodedRequest], chosen: Sequence[np.ndarray], options: ListOptions
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the rows of each list, the best first, and their scores, float32."""

        def best(
            some: Sequence[EncodedRequest], together: bool
        ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            read = [request for request in some if self._is_read(request.history.rows)]
            how: Any = {"together": together, "arguments": self._arguments}
            scored = iter(self._programs.score(read, **how))
            for request in some:
                even = np.full(len(request.candidates), 0.5, np.float32)  # log odds of 0
                scores = next(scored) if self._is_read(request.history.rows) else even
                self._require_finite(request.candidates, scores)
                yield self.best(request.candidates, scores, options)

        yield from self.of_shortened(requests, chosen, options, best)

    def of_shortened(
        self,
        requests: Sequence[EncodedRequest],
        chosen: Sequence[np.ndarray],
        options: ListOptions,
        work: Callable[[Sequence[EncodedRequest], bool], Iterator[Result]],
    ) -> Iterator[Result]:
        """Yield ``work(requests, together)`` of requests whose candidates the stages have chosen.

        It is called for a few requests in one of several threads, and yields a result for each.
        ``together`` is whether they are read by programs of several users.
        """
        together = self.has_tower and self._programs.may_pad and len(requests) >= USERS_AT_ONCE
        # Those of one padded length are a call of a program.
        order = np.argsort([len(one.history.rows) * together for one in requests], kind="stable")

        def block(start: int) -> Iterator[Result]:
            places = order[start : start + USERS_AT_ONCE]
            some = [requests[place] for place in places]
            self._shorten(some, [chosen[place] for place in places], options, together)
            yield from work(some, together)

        starts = range(0, len(requests), USERS_AT_ONCE)
        if not together:
            yield from chain.from_iterable(map(block, starts))
            return
        # A thread more than processors, as they wait for each other; BLAS's own threads would spin.
        threads = min(thread_count() + 1, MOST_THREADS)
        with threadpool_limits(1, "blas"):
            blocks = map_in_order(lambda start: list(block(start)), starts, threads)
            of_place = dict(zip(order, chain.from_iterable(blocks), strict=True))
        yield from map(of_place.__getitem__, range(len(requests)))

    def _shorten(
        self,
        requests: Sequence[EncodedRequest],
        chosen: Sequence[np.ndarray],
        options: ListOptions,
        together: bool,
    ) -> None:
        """Set the candidates of requests that the stages leave, and their logits of the tower."""
        found = self.candidates(options, [one.history.rows for one in requests], chosen)
        for request, rows in zip(requests, found, strict=True):
            request.candidates, request.tower = rows, None
        if not self.has_tower:
            return
        _, most = stage_sizes(options.n, len(self.listed))
        read = [request for request in requests if self._is_read(request.history.rows)]
        many = [request for request in read if len(request.candidates) > most]
        how: Any = {"together": together, "arguments": self._arguments}
        for request, logits in zip(many, self._programs.tower(many, **how), strict=True):
            self._require_finite(request.candidates, logits)
            left = self.kept(request.candidates, logits, most, options)
            request.candidates, request.tower = request.candidates[left], logits[left]

    def _require_finite(self, rows: np.ndarray, scores: np.ndarray) -> None:
        if not np.isfinite(scores).all():
            ids = self._vocabularies.items
            raise not_finite([ids[row] for row in rows], scores)

    def _is_read(self, history: np.ndarray) -> bool:
        """Return whether the model ranks for a history: not for an empty one where none was.

        Where negatives are drawn every example of training has a history, and of none the model
        knows nothing. The offsets alone then sort items by popularity.
        """
        return len(history) > 0 or not self._has_counts

    def candidates(
        self, options: ListOptions, kept: Sequence[np.ndarray], chosen: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Return the rows to rank for each user, rising; ``chosen`` are all behaviours.

        They are all that may be listed if there are few, or if the model does not rank for a user.
        """
        listed = self.listed.copy()
        if options.candidates is not None:
            listed[np.setdiff1d(np.arange(len(listed)), options.candidates)] = False
        listed[options.exclude] = False
        allowed = np.repeat(listed[None], len(chosen), axis=0)
        if options.exclude_history:
            for of_user, rows in zip(allowed, chosen, strict=True):
                of_user[rows] = False

        def all_of(of_user: np.ndarray) -> np.ndarray:
            return np.flatnonzero(of_user).astype(np.int32)

        most, _ = stage_sizes(options.n, len(listed))
        if self.shortlist is None or np.count_nonzero(listed) <= most:
            return list(map(all_of, allowed))
        read, found = list(map(self._is_read, kept)), []
        estimates = iter(self.shortlist.estimates(list(compress(kept, read))))
        limits = [
            (self._tables[f"tables/item/{name}"], limit)
            for name, limit in options.of_length(most).at_most.items()
        ]
        for of_user, is_read in zip(allowed, read, strict=True):
            if is_read:
                found.append(self.shortlist.rows(next(estimates), of_user, most, limits))
            else:
                found.append(all_of(of_user))
        return found

    def kept(
        self, rows: np.ndarray, logits: np.ndarray, most: int, options: ListOptions
    ) -> np.ndarray:
        """Return the places, rising, that the tower leaves: a list of ``most`` by its logits."""
        scores = logits + self._offsets[rows]
        return np.sort(self._first(rows, scores, options.of_length(most)))

    def best(
        self, rows: np.ndarray, probabilities: np.ndarray, options: ListOptions
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the first of rising rows ``[N]`` for a list, and their scores, float32."""
        scores = log_odds(probabilities) + self._offsets[rows]
        order = self._first(rows, scores, options)
        return rows[order], scores[order].astype(np.float32)

    def _first(self, rows: np.ndarray, scores: np.ndarray, options: ListOptions) -> np.ndarray:
        """Return the places of a list, which exceed no number of items of a value."""
        if not options.at_most:
            return first_places(scores, options.n)
        values_of = {name: self._tables[f"tables/item/{name}"] for name in options.at_most}
        counts: Counter[tuple[str, int]] = Counter()
        chosen: list[int] = []
        for place in np.argsort(-scores, kind="stable"):
            values = [(name, int(values[rows[place]])) for name, values in values_of.items()]
            known = [value for value in values if value[1] != UNKNOWN]
            if all(counts[value] < options.at_most[value[0]] for value in known):
                chosen.append(place)
                counts.update(known)
            if len(chosen) == options.n:
                break
        return np.array(chosen, np.int64)


def ranked(request: EncodedRequest, scores: np.ndarray) -> Ranking | UserError:
    """Return a request's candidates by score, or the error of a score that is not finite."""
    if not np.isfinite(scores).all():
        return not_finite(request.ids, scores)
    order = np.argsort(-scores, kind="stable")
    ids = [str(request.ids[place]) for place in order]
    rows = request.history.rows, request.candidates
    events, candidates = (int(np.count_nonzero(part == UNKNOWN)) for part in rows)
    return Ranking(ids, scores[order], events, candidates, request.unknown_values)


def not_finite(ids: Sequence[Any], scores: np.ndarray) -> UserError:
    """Return the error of the first score that is not finite."""
    place = int(np.flatnonzero(~np.isfinite(scores))[0])
    return UserError(
        f"the model's score of candidate {ids[place]!r} is {scores[place]}: "
        f"a parameter or a number of the request is too large"
    )


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)) of float32 probabilities, float64 ``[N]``.

    >>> log_odds(np.float32([0.5, 0.75])).round(4).tolist()
    [0.0, 1.0986]
    """
    p = np.clip(probabilities.astype(np.float64), np.finfo(np.float32).tiny, 1 - LEAST_COMPLEMENT)
    return np.log(p) - np.log1p(-p)


def item_rows(vocabularies: Vocabularies, name: str, given: Any) -> np.ndarray:
    """Return the rows of raw ids, refused by ``name``; an empty text is an unknown item."""
    ids = as_list(name, given)
    try:
        texts = list(map(as_text, ids))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    for place, (raw, text) in enumerate(zip(ids, texts, strict=True), start=1):
        if not text and not isinstance(raw, str):
            raise UserError(f"{name}: id {place} of {len(ids)} is {raw!r}; expected an item")
    return vocabularies.item_rows(texts)
