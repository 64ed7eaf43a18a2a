"""Batches of examples: their order, their padding, and a thread that prepares them ahead.

A batch is a function of (seed, epoch, step) and of nothing that was read before, so a run can
start again at any step. All batches have ``batch_size`` rows and one of a few padded lengths,
so that a jitted step is compiled a bounded number of times; an epoch shows every example once.

Dimensions: n examples of the split, B rows of a batch, T padded steps, R real rows of a batch,
N auxiliary negatives a step.
"""

import queue
import threading
from collections.abc import Generator
from typing import Literal

import numpy as np

from dien_jax.data.batch import Batch
from dien_jax.data.dataset import Column, Dataset
from dien_jax.data.schema import FeatureValues, MultiValued
from dien_jax.errors import UserError

SORT_BUFFER = 20
"""Batches within which ``order="sorted"`` sorts by length."""

PREFETCH = 8
"""Batches that are prepared ahead of the one in use."""

Order = Literal["shuffled", "sorted", "evaluation"]


class Loader:
    """The batches of one split.

    The history of an example is its last ``max_history`` events, padded with 0 up to T, the
    smallest of the lengths allowed that holds the longest history of its batch.

    Orders:
      ``shuffled``: examples in an order drawn from (seed, epoch), gathered by length bucket; what
        does not fill a batch goes up into the next larger bucket. Then the batches themselves are
        shuffled, but for one with filler, which is last.
      ``sorted``: batches cut from the file's order, sorted by length within buffers of
        ``SORT_BUFFER`` batches, as the program of the paper's authors cuts them. Every epoch has
        the same batches, in an order drawn from (seed, epoch).
      ``evaluation``: sorted by length, longest first, which wastes the least; every epoch is the
        same.

    Attributes:
      steps_per_epoch: batches of every epoch, ceil(n / batch_size).
      lengths: the padded lengths T that batches can have, rising.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        *,
        batch_size: int,
        buckets: tuple[int, ...],
        max_history: int,
        seed: int = 0,
        order: Order = "shuffled",
        shown: int = 0,
    ) -> None:
        """Looks up how long every history is.

        Args:
          dataset: the dataset, of which the split's examples are read.
          split: ``train``, ``valid`` or ``test``.
          batch_size: B.
          buckets: rising lengths; those below ``max_history`` are lengths to pad to, besides
            ``max_history`` itself.
          max_history: events kept of a history, the latest ones.
          seed: seed of the order, with the epoch.
          order: see the class.
          shown: N, items drawn for each behaviour from those that were shown with it and not
            clicked; 0 leaves them out.

        Raises:
          ValueError: for a size below 1.
          UserError: when the dataset does not tell what was shown, and ``shown`` asks for it.
        """
        for name, value in (("batch_size", batch_size), ("max_history", max_history)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._dataset = dataset
        self._split = split
        self._batch_size = batch_size
        self._seed = seed
        self._order = order
        self._shown = shown
        self._negatives = shown_negatives(dataset) if shown else None
        examples = dataset.splits[split]
        self._examples = examples
        # An event that no history reaches, where there is none, lets every gather go ahead.
        self._event_item = np.asarray(dataset.event_item) if dataset.event_item.size else NO_EVENTS
        starts = np.asarray(dataset.event_offsets)[examples.sequence]
        self._history = np.minimum(examples.history_end - starts, max_history).astype(np.int32)
        longest = int(self._history.max(initial=0))
        edges = np.array([*(edge for edge in buckets if edge < max_history), max_history])
        edges = edges[: np.searchsorted(edges, longest) + 1]
        self._edges = edges
        self.lengths: tuple[int, ...] = tuple(edges.tolist())
        self.steps_per_epoch = -(-len(self._history) // batch_size)
        self._plan: tuple[int, np.ndarray, np.ndarray] | None = None

    def rows(self, epoch: int, step: int) -> np.ndarray:
        """Which examples of the split the real rows of a batch are: int64 ``[R]``, 1 <= R <= B.

        Raises:
          IndexError: for a step outside the epoch.
        """
        if not 0 <= step < self.steps_per_epoch:
            raise IndexError(f"step must be in [0, {self.steps_per_epoch}), got {step}")
        plan = self._plan
        if plan is None or plan[0] != self._key(epoch):
            plan = self._plan = (self._key(epoch), *self._planned(epoch))
        _, order, chunks = plan
        start = int(chunks[step]) * self._batch_size
        return order[start : start + self._batch_size]

    def batch(self, epoch: int, step: int) -> Batch:
        """The batch of a step, as numpy arrays; rows at or past R are zeros with weight 0.

        There, and at other steps that are not live, nothing was shown.

        Raises:
          IndexError: for a step outside the epoch.
        """
        rows = self.rows(epoch, step)
        examples = self._examples
        lengths = self._filled(self._history[rows])
        first = self._filled(examples.history_end[rows]) - lengths
        positions = np.arange(self._edges[np.searchsorted(self._edges, lengths.max())])
        history = self._event_item.take(first[:, None] + positions[None, :], mode="clip")
        history *= positions[None, :] < lengths[:, None]
        context = self._dataset.context_rows(self._split, rows) if examples.context else {}
        shown = None
        if self._negatives is not None:
            # From 1 on: numpy takes (seed, epoch, 0) for (seed, epoch), which the order is from.
            generator = np.random.default_rng((self._seed, epoch, step + 1))
            event, live = first[:, None] + positions[1:], positions[1:] < lengths[:, None]
            shown = _drawn(self._negatives, event, live, self._shown, generator)
        return Batch(
            history=history,
            lengths=lengths,
            item=self._filled(examples.item[rows]),
            user=self._filled(examples.user[rows]),
            label=self._filled(examples.label[rows].astype(np.float32)),
            weight=self._filled(np.ones(len(rows), np.float32)),
            context={name: self._filled_feature(values) for name, values in context.items()},
            shown=shown,
        )

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """The batches of an epoch from step ``start`` on, prepared ahead by a thread.

        What goes wrong in the thread is raised here. The thread ends with the iterator, whether
        that is read to its end or dropped.
        """
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(PREFETCH)
        dropped = threading.Event()

        def prepare() -> None:
            try:
                for step in range(start, self.steps_per_epoch):
                    ready.put(self.batch(epoch, step))
                    if dropped.is_set():
                        return
                ready.put(None)
            except BaseException as error:
                ready.put(error)

        thread = threading.Thread(target=prepare, name="dien_jax batches", daemon=True)
        thread.start()
        try:
            while (batch := ready.get()) is not None:
                if isinstance(batch, BaseException):
                    raise batch
                yield batch
        finally:
            # One place in the queue is enough: the thread looks at `dropped` after each batch.
            dropped.set()
            while not ready.empty():
                ready.get_nowait()
            thread.join()

    def _key(self, epoch: int) -> int:
        """Epochs of one key have one order."""
        return 0 if self._order == "evaluation" else epoch

    def _planned(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The examples in order, int64 ``[n]``, and which B of them in turn each step takes."""
        size = len(self._history)
        chunks = np.arange(self.steps_per_epoch)
        if self._order == "evaluation":
            return np.argsort(-self._history, kind="stable"), chunks
        generator = np.random.default_rng((self._seed, epoch))
        if self._order == "sorted":
            buffer = np.arange(size) // (SORT_BUFFER * self._batch_size)
            order = np.lexsort((-self._history, buffer))
        else:
            shuffled = generator.permutation(size)
            bucket = np.searchsorted(self._edges, self._history[shuffled])
            order = shuffled[np.argsort(bucket, kind="stable")]
        generator.shuffle(chunks[: size // self._batch_size])
        return order, chunks

    def _filled(self, values: np.ndarray) -> np.ndarray:
        """``[R, ...]`` with rows of zeros up to ``[B, ...]``."""
        if len(values) == self._batch_size:
            return values
        filled = np.zeros((self._batch_size, *values.shape[1:]), values.dtype)
        filled[: len(values)] = values
        return filled

    def _filled_feature(self, values: FeatureValues) -> FeatureValues:
        if isinstance(values, MultiValued):
            return MultiValued(*(self._filled(np.asarray(part)) for part in values))
        return self._filled(np.asarray(values))


def shown_negatives(dataset: Dataset) -> Column:
    """Items that were shown at each event and not clicked.

    Raises:
      UserError: when the dataset does not tell.
    """
    if dataset.event_negatives is None:
        raise UserError(
            f"model.auxiliary_distribution 'shown' needs to know what was shown and not clicked, "
            f"but {dataset.path} has no events/negatives; python -m dien_jax.prepare impressions "
            f"makes it of a log of impressions. Otherwise choose 'popularity' or 'uniform'"
        )
    return dataset.event_negatives


def _drawn(
    negatives: Column,
    event: np.ndarray,
    live: np.ndarray,
    count: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """``count`` negatives of each live event: int32 ``[*shape, count]``, -1 where it has none.

    They are distinct where the event has as many, by Floyd's sampling, and drawn with replacement
    where it has fewer.

    Args:
      negatives: over all events.
      event: integers of any shape, indices of events; those that are not live may be anything.
      live: bool, shaped alike.
      count: at least 1.
      generator: what to draw with.

    Source: Bentley and Floyd, CACM 30(9), 1987.
    """
    values, offsets = negatives
    assert offsets is not None
    drawn = np.full((*live.shape, count), -1, np.int32)
    start = offsets[event[live]]
    size = offsets[event[live] + 1] - start
    some = np.flatnonzero(size)
    start, size = start[some], size[some]
    is_enough = size >= count
    places = np.empty((len(some), count), np.int64)
    for number in range(count):
        bound = np.where(is_enough, size - count + number + 1, size)
        place = generator.integers(bound)
        is_taken = is_enough & (places[:, :number] == place[:, None]).any(1)
        places[:, number] = np.where(is_taken, bound - 1, place)
    drawn.reshape(-1, count)[np.flatnonzero(live)[some]] = values[start[:, None] + places]
    return drawn


NO_EVENTS = np.zeros(1, np.int32)
