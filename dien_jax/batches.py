"""Batches of examples: their order, their padding, and a thread that prepares them ahead.

A batch is a function of (seed, epoch, step) and of nothing that was read before, so a run can
start again at any step. All batches have ``batch_size`` rows and one of a few padded lengths,
so that a jitted step is compiled a bounded number of times; an epoch shows every example once.

Dimensions: n examples of the split, B rows of a batch, T padded steps, R real rows of a batch.
"""

import queue
import threading
from collections.abc import Generator
from typing import Literal

import numpy as np

from dien_jax.dataset import Dataset
from dien_jax.schema import Batch, FeatureValues, MultiValued

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

        Raises:
          ValueError: for a size below 1.
        """
        for name, value in (("batch_size", batch_size), ("max_history", max_history)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._dataset = dataset
        self._split = split
        self._batch_size = batch_size
        self._seed = seed
        self._order = order
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
        return Batch(
            history=history,
            lengths=lengths,
            item=self._filled(examples.item[rows]),
            user=self._filled(examples.user[rows]),
            label=self._filled(examples.label[rows].astype(np.float32)),
            weight=self._filled(np.ones(len(rows), np.float32)),
            context={name: self._filled_feature(values) for name, values in context.items()},
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


NO_EVENTS = np.zeros(1, np.int32)
