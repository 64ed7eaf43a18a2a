"""A loaded model and its programs, called with padded histories and candidates of several requests.

Histories are padded to some of the run's buckets, N candidates to ``CANDIDATE_BUCKETS``. A call for
one user leaves most of a device idle. Requests of the same padded sizes therefore share a call, in
groups of as many users U as programs are compiled for, never padded with dummy users.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from dien_jax.config.settings import Config
from dien_jax.data.schema import UNKNOWN, FeatureValues, Schema
from dien_jax.data.tables import FeatureTables
from dien_jax.data.vocabularies import SEPARATOR, Vocabularies
from dien_jax.errors import UserError
from dien_jax.inference.archive import ExportedModel, read_archive
from dien_jax.inference.exported_programs import ranking_programs
from dien_jax.runs.checkpoints import named_leaves
from dien_jax.runs.trained import TrainedModel, load_run
from dien_jax.steps.rank import Interests, Programs, make_programs
from dien_jax.steps.state import placed_like

USER_BUCKETS = (1, 4)
"""Numbers of users that programs are compiled for, in rising order from 1."""
LEAST_RATIO = 3
"""Least ratio of two lengths of histories that programs are compiled for."""
MAX_ROWS = 1024
"""Maximum number of candidates of all users of a call; with more, sharing saves nothing."""

Member = TypeVar("Member")


class LoadedModel(NamedTuple):
    """A model to rank with; ``arguments`` are the first ones of every program, on the device.

    ``list_offsets`` are those of :func:`dien_jax.runs.calibration.list_offsets`, if there are any.
    ``tables`` are what lists over all items read, in host memory: arrays by names such as
    ``tables/item/category``.
    """

    schema: Schema
    step: int
    max_history: int
    history_buckets: tuple[int, ...]
    vocabularies: Vocabularies
    arguments: tuple[Any, ...]
    programs: Programs
    list_offsets: np.ndarray | None
    tables: Mapping[str, np.ndarray]

    @classmethod
    def from_run(cls, trained: TrainedModel, separator: str = SEPARATOR) -> "LoadedModel":
        config, dataset = trained.run.config, trained.dataset
        return cls(
            dataset.schema,
            trained.step,
            config.train.max_history,
            history_buckets(config),
            Vocabularies(dataset.schema, dataset.vocabulary, separator),
            (jax.device_put(trained.variables()), trained.feature_tables()),
            make_programs(config, dataset.schema),
            trained.list_offsets,
            named_leaves({"tables": _list_tables(trained)}),
        )

    @classmethod
    def from_export(cls, exported: ExportedModel, separator: str = SEPARATOR) -> "LoadedModel":
        manifest = exported.manifest
        return cls(
            exported.schema,
            manifest["step"],
            manifest["max_history"],
            tuple(manifest["history_buckets"]),
            Vocabularies(exported.schema, exported.vocabularies.__getitem__, separator),
            (jax.device_put(exported.weights),),
            ranking_programs(exported.programs),
            exported.list_offsets,
            exported.weights,
        )


def _list_tables(trained: TrainedModel) -> FeatureTables:
    """Return the tables of items that lists read, without a copy."""
    dataset, item = trained.dataset, trained.dataset.schema.item[0].name
    columns = {feature.name: dataset.items[feature.name] for feature in dataset.schema.item[1:]}
    categories: Any = {n: part.values for n, part in columns.items() if part.offsets is None}
    if not trained.run.config.model.statistics:
        return FeatureTables(categories, {})
    counts = {item: dataset.statistics.values[item]}
    return FeatureTables(categories, {}, counts, dataset.factors)


def load_model(
    path: str | Path | TrainedModel, data: str | Path | None, separator: str
) -> LoadedModel:
    """Load the best checkpoint of a run folder, or an exported file; see :class:`Ranker`."""
    if isinstance(path, TrainedModel):
        return LoadedModel.from_run(path, separator)
    path = Path(path)
    if path.is_dir():
        return LoadedModel.from_run(load_run(path, data), separator)
    if not path.exists():
        raise UserError(
            f"{path} does not exist; expected a run folder, or a file written by "
            f"python -m dien_jax.export"
        )
    if data is not None:
        raise UserError(f"{path} is an exported model, which needs no data; leave out {data}")
    return LoadedModel.from_export(read_archive(path), separator)


def history_buckets(config: Config) -> tuple[int, ...]:
    """Return the padded lengths of histories, the last of which is ``max_history``.

    They are few, as programs are compiled for each; all where scores depend on the padding.
    """
    edges, least = [config.train.max_history], 1 if config.model.follow_authors else LEAST_RATIO
    for edge in sorted(config.train.buckets, reverse=True):
        if edge < edges[0] and least * edge <= edges[0]:
            edges.insert(0, edge)
    return tuple(edges)


class RankRequest(NamedTuple):
    """The arguments of :meth:`dien_jax.Ranker.rank`, described there, for one of several users.

    >>> from dien_jax import RankRequest
    >>> RankRequest(history=["pear"], candidates=["fig", "plum"], user="Ann").candidates
    ['fig', 'plum']
    """

    history: Sequence[str | int] | None
    candidates: Sequence[str | int]
    user: str | int | None = None
    context: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class History:
    """A history: rows of its kept events, and its interests once they are computed."""

    rows: np.ndarray
    interests: Interests | None = None


@dataclass
class EncodedRequest:
    """A request as rows: ``user`` is int32 ``[1]``, ``context`` has one row."""

    raw: RankRequest
    history: History
    candidates: np.ndarray
    user: np.ndarray
    context: dict[str, FeatureValues]
    unknown_context: int


def user_counts(candidates: int, at_most: int = USER_BUCKETS[-1]) -> list[int]:
    """Return the compiled numbers of users for requests of so many candidates each."""
    limit = max(min(at_most, MAX_ROWS // max(candidates, 1)), 1)
    return [count for count in USER_BUCKETS if count <= limit]


def grouped(
    members: Iterable[Member],
    shape: Callable[[Member], Hashable],
    sizes: Callable[[Member], Sequence[int]],
) -> Iterator[list[Member]]:
    """Yield groups of members of the same shape, in order, each of one of the allowed sizes."""
    by_shape: dict[Hashable, list[Member]] = {}
    for member in members:
        by_shape.setdefault(shape(member), []).append(member)
    for alike in by_shape.values():
        allowed = sizes(alike[0])
        while alike:
            size = max(size for size in allowed if size <= len(alike))
            yield alike[:size]
            alike = alike[size:]


CANDIDATE_BUCKETS = (32, 128, 512)
"""Numbers of candidates that programs are compiled for; more are scored in slices of 512."""
TOWER_ROWS = 1280
"""Number of candidates that the program of the tower is compiled for; more are in slices."""


class _Slice(NamedTuple):
    """Candidates of a request that share a call, ``size`` when padded."""

    request: EncodedRequest
    scores: np.ndarray  # of these candidates, to be filled
    start: int
    candidates: np.ndarray
    size: int


class BucketedPrograms:
    """The programs of a model, for any number of histories and requests."""

    def __init__(self, model: LoadedModel) -> None:
        self._programs, self.buckets = model.programs, model.history_buckets
        self._arguments = model.arguments
        self._process = os.getpid()

    @property
    def programs(self) -> Programs:
        """The programs, in the process that loaded the model.

        Raises:
          UserError: in a process forked from it, where JAX's threads are missing and a call would
            wait for ever.
        """
        if os.getpid() != self._process:
            raise UserError(
                f"this model was loaded in process {self._process}, and process {os.getpid()} was "
                f"forked from it, without the threads of JAX: load the model in each process, or "
                f"start processes by spawn"
            )
        return self._programs

    def compile_all(
        self, context: dict[str, FeatureValues], users: int, candidates: int
    ) -> Iterator[float]:
        """Call every program at every combination of sizes; yield the share that is done."""
        sizes = CANDIDATE_BUCKETS[: _bucket_place(CANDIDATE_BUCKETS, candidates) + 1]
        for number, bucket in enumerate(self.buckets):
            history = History(np.zeros(bucket, np.int32))
            for count in self._user_counts(1, users):
                encoded = self.encode([history] * count)[0]
            assert encoded.interests is not None
            self.extend(encoded.interests, UNKNOWN, bucket - 1)
            for place, size in enumerate(sizes):
                yield (number + place / len(sizes)) / len(self.buckets)
                rows, user = np.zeros(size, np.int32), np.full(1, UNKNOWN, np.int32)
                request = EncodedRequest(RankRequest(None, ()), encoded, rows, user, context, 0)
                for count in self._user_counts(size, users):
                    self.score([request] * count)
            if candidates > sizes[-1] and self.programs.tower:
                self.tower([request])

    def encode(self, histories: Sequence[History]) -> list[History]:
        """Return the histories with their interests."""
        encoded = list(histories)
        buckets = [self._bucket(len(history.rows)) for history in histories]
        counts = self._user_counts(1)
        for places in grouped(range(len(histories)), buckets.__getitem__, lambda _: counts):
            rows = [self._padded(histories[place].rows) for place in places]
            lengths = [len(histories[place].rows) for place in places]
            if len(places) == 1:
                interests = [self.programs.read(*self._arguments, rows[0], lengths[0])]
            else:
                stacks = np.stack(rows), np.array(lengths, np.int32)
                interests = self.programs.read_many(*self._arguments, *stacks)
            for place, of_user in zip(places, interests, strict=True):
                encoded[place] = replace(histories[place], interests=of_user)
        return encoded

    def extend(self, interests: Interests, row: int, length: int) -> Interests:
        """Return the interests after one more event; ``length`` counts the events before it."""
        states, bucket = interests.states, self._bucket(length + 1)
        steps, size = states.shape
        if bucket > steps:
            padding = np.zeros((bucket - steps, size), states.dtype)
            wider = np.concatenate([np.asarray(states), padding])
            states = placed_like(wider, states)  # or programs would compile again
        interests = interests._replace(states=states)
        return self.programs.extend(*self._arguments, interests, np.int32(row), length)

    def score(self, requests: Sequence[EncodedRequest]) -> list[np.ndarray]:
        """Return click probabilities, float32 ``[N]`` of each request; histories are encoded."""
        return self._in_slices(requests, CANDIDATE_BUCKETS, self._score, self._user_counts)

    def tower(self, requests: Sequence[EncodedRequest]) -> list[np.ndarray]:
        """Return logits of the tower, float32 ``[N]`` of each request."""

        def call(group: Sequence[_Slice]) -> jax.Array:
            return self.programs.tower(*self._arguments, *self._inputs(*group))

        return self._in_slices(requests, (TOWER_ROWS,), call, lambda _: USER_BUCKETS[:1])

    def _in_slices(
        self,
        requests: Sequence[EncodedRequest],
        sizes: Sequence[int],
        call: Callable[[Sequence[_Slice]], jax.Array],
        user_counts: Callable[[int], Sequence[int]],
    ) -> list[np.ndarray]:
        """Return what a program gives for the candidates, padded to some sizes."""
        largest = sizes[-1]
        scores = [np.zeros(len(request.candidates), np.float32) for request in requests]
        slices = []
        for request, of_request in zip(requests, scores, strict=True):
            for start in range(0, len(of_request), largest):
                candidates = request.candidates[start : start + largest]
                size = sizes[_bucket_place(sizes, len(candidates))]
                own = of_request[start : start + largest]
                slices.append(_Slice(request, own, start, candidates, size))

        def shape(part: _Slice) -> tuple[int, int, int]:
            return self._bucket(len(part.request.history.rows)), part.size, part.start

        groups = list(grouped(slices, shape, lambda part: user_counts(part.size)))
        results = jax.device_get([call(group) for group in groups])
        for group, result in zip(groups, results, strict=True):
            for part, padded in zip(group, np.atleast_2d(result), strict=True):
                part.scores[:] = padded[: len(part.scores)]
        return scores

    def _score(self, group: Sequence[_Slice]) -> jax.Array:
        """Call the program: ``[size]`` for one slice, ``[U, size]`` for more."""
        interests = tuple(part.request.history.interests for part in group)
        inputs = [self._inputs(part) for part in group]
        if len(group) == 1:
            return self.programs.score(*self._arguments, interests[0], *inputs[0])
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *inputs)
        return self.programs.score_many(*self._arguments, interests, *stacked)

    def _inputs(self, part: _Slice) -> tuple[Any, ...]:
        rows, count = part.request.history.rows, np.int32(len(part.candidates))
        history, length = self._padded(rows), np.int32(len(rows))
        items = _padded(part.candidates, part.size)
        return history, length, part.request.user, part.request.context, items, count

    def _user_counts(self, candidates: int, at_most: int = USER_BUCKETS[-1]) -> list[int]:
        return user_counts(candidates, at_most) if self.programs.score_many else [1]

    def _bucket(self, length: int) -> int:
        return self.buckets[bisect_left(self.buckets, length)]

    def _padded(self, rows: np.ndarray) -> np.ndarray:
        return _padded(rows, self._bucket(len(rows)))


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    padded = np.zeros(size, np.int32)
    padded[: len(rows)] = rows
    return padded


def _bucket_place(sizes: Sequence[int], candidates: int) -> int:
    """Return the place of the smallest size that holds the candidates, else of the largest."""
    return min(bisect_left(sizes, candidates), len(sizes) - 1)
