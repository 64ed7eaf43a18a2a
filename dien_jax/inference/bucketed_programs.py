"""The programs of a loaded model, called with padded histories and candidates of several requests.

Histories are padded to some of the run's buckets, slices of N candidates to ``CANDIDATE_BUCKETS``.
Calls of one request each are all made before the first result is waited for.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from dien_jax.data.arrays import Examples
from dien_jax.data.kinds import blank_values, padded_columns
from dien_jax.data.schema import UNKNOWN, Column, FeatureValues
from dien_jax.errors import require_unforked
from dien_jax.inference.loaded_model import LoadedModel
from dien_jax.steps.placement import placed_like
from dien_jax.steps.rank import Columns, Interests, Programs
from dien_jax.utils.machine import map_in_order, thread_count

CANDIDATE_BUCKETS = (64, 512)
"""Numbers of candidates that programs are compiled for; more are scored in slices."""
TOWER_ROWS = 384
"""Number of candidates that the program of the tower is compiled for; more are in slices."""
SCORED_ROWS = 128
"""The same for the program of the whole model for several users."""
ROWS_TOGETHER = 32
"""Number of slices, of any users, that the programs of several users are compiled for."""
Event = str | int | Mapping[str, Any]
"""An event of a history: the id of its item, or a mapping of it, ``item``, and of features."""
Slices = Mapping[int, int]
"""Size of slices by the largest number of candidates for it, rising; the last is for any number."""


def candidate_slices(*, follow_authors: bool) -> Slices:
    """Return the slices that candidates are scored in.

    Four small slices take less time than a large one; but the fewest where scores depend on the
    candidates of a slice.
    """
    small, large = CANDIDATE_BUCKETS
    return {small * (1 if follow_authors else 4): small, large: large}


class RankRequest(NamedTuple):
    """The arguments of :meth:`dien_jax.Ranker.rank`, described there, for one of several users."""

    history: Sequence[Event] | None
    candidates: Sequence[str | int]
    user: str | int | None = None
    request_features: Mapping[str, Any] | None = None


@dataclass
class History:
    """A history: rows of its kept events, and its interests once they are computed.

    ``columns`` are the features of the events, and ``unknown_values`` the number of their values
    that training did not see; ``given`` are the features of each event as they were given.
    """

    rows: np.ndarray
    columns: Columns = field(default_factory=dict)
    interests: Interests | None = None
    given: Sequence[Mapping[str, Any]] = ()
    unknown_values: int = 0


@dataclass
class EncodedRequest:
    """A request as rows: ``user`` is int32 ``[1]``, the features ``columns`` have one row.

    ``ids`` are the raw candidates, ``tower`` their logits of the tower, where these are known.
    """

    history: History
    user: np.ndarray
    columns: Columns
    candidates: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    ids: Sequence[Any] = ()
    unknown_values: int = 0
    tower: np.ndarray | None = None


Requests = Sequence[EncodedRequest]


def encoded_requests(
    model: LoadedModel,
    examples: Examples,
    histories: Sequence[np.ndarray],
    events: Mapping[str, Column],
) -> list[EncodedRequest]:
    """Return a request without candidates for each example, whose behaviours are given as rows.

    ``events`` are the features of all events, of which those of a history are the ones before the
    example's ``history_end``.
    """
    requests = []
    for row, history in enumerate(histories):
        kept = np.asarray(history[-model.history_buckets[-1] :])
        places = int(examples.history_end[row]) - np.arange(len(kept), 0, -1)
        of_events = padded_columns(model.schema.event, events, places)
        of_request = padded_columns(model.schema.request, examples.columns, np.array([row]))
        user = np.asarray(examples.user[row : row + 1], np.int32)
        requests.append(EncodedRequest(History(kept, of_events), user, of_request))
    return requests


class BucketedPrograms:
    """The programs of a model, for any number of histories and requests."""

    def __init__(self, model: LoadedModel, slices: Slices | None = None) -> None:
        self._programs, self._arguments = model.programs, model.arguments
        self._slices = slices or candidate_slices(follow_authors=model.follow_authors)
        self._schema, self._tables = model.schema, model.tables
        self.may_pad = not model.follow_authors
        self.buckets = self._every = model.history_buckets

    @property
    def programs(self) -> Programs:
        """The programs, in a process that has the threads of JAX."""
        require_unforked()
        return self._programs

    def compile_all(
        self,
        candidates: int,
        *,
        tower: bool,
        ready: Callable[[], None],
    ) -> Iterator[float]:
        """Call every program at every size, up to ``candidates``; yield the share that is done.

        Those for the longest histories come first, and ``ready`` is called after them: shorter
        histories are padded for these until their own are compiled.
        """
        largest = slice_size(self._slices, candidates)
        sizes = [size for size in self._slices.values() if size <= largest]
        user, columns = np.full(1, UNKNOWN, np.int32), blank_values(self._schema.request, 1)
        event = blank_values(self._schema.event)

        def call(bucket: int, with_tower: bool) -> None:
            of_events = blank_values(self._schema.event, bucket)
            alone, history = copy(self), History(np.zeros(bucket, np.int32), of_events)
            alone.buckets = (bucket,)
            alone.encode([history])
            if not with_tower:
                alone.extend(history.interests, UNKNOWN, bucket - 1, event)
            for size in sizes:
                request = EncodedRequest(history, user, columns, np.zeros(size, np.int32))
                if with_tower:
                    (request.tower,) = alone.tower([request])
                alone.score([request])

        every, kinds = self._every, (False, True)[: 1 + tower]
        self.buckets = every[-1:] if self.may_pad else every
        first = [partial(call, bucket, kind) for bucket in self.buckets for kind in kinds]
        yield 0.0
        for number, _ in enumerate(map_in_order(lambda call: call(), first, thread_count()), 1):
            yield number / len(first) * len(self.buckets) / len(every)
        ready()
        for bucket in reversed(every[: -len(self.buckets)]):
            for kind in kinds:
                call(bucket, kind)
            self.buckets = (bucket, *self.buckets)
            yield len(self.buckets) / len(every)

    def encode(self, histories: Iterable[History]) -> None:
        """Compute the interests of those histories that have none."""
        for history in histories:
            if history.interests is None:
                _, *inputs = self._read(history)
                history.interests = self.programs.read(*self._arguments, *inputs)

    def extend(self, interests: Any, row: int, length: int, columns: Columns) -> Interests:
        """Return the interests after one more event, of item ``row`` and with features ``columns``.

        ``length`` is the number of events before it.
        """
        states, bucket = interests.states, self._bucket(length + 1)
        steps, size = states.shape
        if bucket != steps:
            padding = np.zeros((max(bucket - steps, 0), size), states.dtype)
            padded = np.concatenate([np.asarray(states)[:bucket], padding])
            states = placed_like(padded, states)  # or programs would compile again
        event = interests._replace(states=states), np.int32(row), np.int32(length), columns
        return self.programs.extend(*self._arguments, *event)

    def score(
        self, requests: Requests, *, together: bool = False, arguments: Any = None
    ) -> list[np.ndarray]:
        """Return click probabilities, float32 ``[N]`` of each request, whose history is encoded.

        ``together`` calls the program of several users, which encodes all and keeps nothing of it.
        ``arguments`` replaces the first ones of the program.
        """
        if not together:
            self.encode(request.history for request in requests)
        program = self.programs.score_of_users if together else self.programs.score
        slices = {SCORED_ROWS: SCORED_ROWS} if together else self._slices
        return self._in_slices(requests, slices, program, arguments, together=together)

    def tower(
        self, requests: Requests, *, together: bool = False, arguments: Any = None
    ) -> list[np.ndarray]:
        """Return logits of the tower, float32 ``[N]`` of each request; see :meth:`score`."""
        program = self.programs.tower_of_users if together else self.programs.tower
        slices = {TOWER_ROWS: TOWER_ROWS}
        return self._in_slices(requests, slices, program, arguments, together=together)

    def _in_slices(
        self, requests: Requests, slices: Slices, program: Any, arguments: Any, *, together: bool
    ) -> list[np.ndarray]:
        """Return what a program gives for the candidates, in padded slices."""
        program = partial(program, *(self._arguments if arguments is None else arguments))
        rows: list[tuple[int, tuple, dict[str, np.ndarray]]] = []
        for place, request in enumerate(requests):
            interests, *history, of_events = self._read(request.history)
            inputs: tuple = (*history, request.user)
            if program.func is self._programs.score:
                inputs = (interests, *inputs)
            start, count = 0, len(request.candidates)
            while start < count:
                size = slice_size(slices, count - start)
                part = slice(start, start + size)
                items, known = request.candidates[part], {}
                if request.tower is not None:
                    known = {"tower": _padded(request.tower[part], size, np.float32)}
                columns = request.columns | of_events | self._computed(request, items, size)
                own = (*inputs, columns, _padded(items, size), np.int32(len(items)))
                rows.append((place, own, known))
                start += size
        if together:
            found: Any = self._together(program, [row[1:] for row in rows])
        else:
            found = [program(*inputs, **known) for _, inputs, known in rows]
        parts = [[np.zeros(0, np.float32)] for _ in requests]
        for (place, *_), result in zip(rows, jax.device_get(found), strict=True):
            parts[place].append(result)
        pairs = zip(parts, requests, strict=True)
        return [np.concatenate(own)[: len(request.candidates)] for own, request in pairs]

    def _together(self, program: Any, rows: list[tuple[tuple, dict]]) -> list[np.ndarray]:
        """Return what a program of several users gives for each row, those of a shape together."""
        shapes: dict[Any, list[int]] = {}
        for place, (inputs, known) in enumerate(rows):
            shapes.setdefault((len(inputs[0]), len(inputs[-2]), *known), []).append(place)
        results = [np.zeros(0, np.float32)] * len(rows)
        for places in shapes.values():
            for start in range(0, len(places), ROWS_TOGETHER):
                some = places[start : start + ROWS_TOGETHER]
                filled = some + some[:1] * (ROWS_TOGETHER - len(some))
                inputs, known = jax.tree.map(lambda *v: np.stack(v), *(rows[p] for p in filled))
                found = np.asarray(program(np.int32(len(some)), *inputs, **known))
                for row, place in enumerate(some):
                    results[place] = found[row]
        return results

    def _computed(self, request: EncodedRequest, items: np.ndarray, size: int) -> Columns:
        """Return the features of candidates as of the request, padded to a slice."""
        computed = self._schema.computed(self._tables, request.history.rows, items)
        places = np.where(np.arange(size) < len(items), np.arange(size), -1)
        return padded_columns(self._schema.candidate, computed, places)

    def _read(self, history: History) -> tuple[Interests | None, np.ndarray, np.int32, Columns]:
        """Return a history's interests, its rows, its length and the features of its events.

        Rows and features are padded as the interests are.
        """
        rows, interests = history.rows, history.interests  # which another thread may compute now
        steps = self._bucket(len(rows)) if interests is None else len(interests.states)
        columns = {name: _padded_values(values, steps) for name, values in history.columns.items()}
        return interests, _padded(rows, steps), np.int32(len(rows)), columns

    def _bucket(self, length: int) -> int:
        buckets = self.buckets  # another thread may add to them
        return buckets[bisect_left(buckets, length)]


def _padded(rows: np.ndarray, size: int, dtype: Any = np.int32) -> np.ndarray:
    padded = np.zeros((size, *rows.shape[1:]), dtype)
    padded[: len(rows)] = rows
    return padded


def _padded_values(values: FeatureValues, size: int) -> FeatureValues:
    return jax.tree.map(lambda rows: _padded(rows, size, rows.dtype), values)


def slice_size(slices: Slices, candidates: int) -> int:
    """Return the size of the next slice of some candidates."""
    sizes = (size for most, size in slices.items() if candidates <= most)
    return next(sizes, [*slices.values()][-1])
