"""Scores and metrics of a trained model on the examples of a split"""

import csv
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

import jax
import numpy as np

from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset
from dien_jax.data.loader import Loader
from dien_jax.errors import UserError
from dien_jax.metrics.scores import evaluate_scores
from dien_jax.runs.folder import Run
from dien_jax.runs.trained import TrainedModel, restore
from dien_jax.steps.score import make_predict_step
from dien_jax.steps.state import device_tables

Predict = Callable[[Any, Any, Any, Any], jax.Array]
"""(params, batch_stats, tables, batch) to scores ``[B]``, as ``make_predict_step`` returns it."""


_IN_FLIGHT = 16
"""Batches whose scores stay on the device before they are fetched together."""


@runtime_checkable
class Batches(Protocol):
    """What is scored, in the order of its padding: a :class:`Loader`, or what stands for one."""

    @property
    def steps_per_epoch(self) -> int:
        """How many batches."""

    def rows(self, epoch: int, step: int) -> np.ndarray:
        """Which examples the real rows of a batch are."""

    def epoch(self, epoch: int) -> Generator[Any, None, None]:
        """The batches, in the order of the steps."""


def predict(
    predict_step: Predict,
    params: Any,
    batch_stats: Any,
    tables: Any,
    loader: Batches,
    before_batch: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Click probabilities of every example of a split.

    Args:
      predict_step: as ``make_predict_step`` returns it.
      params: the model's parameters.
      batch_stats: its running statistics.
      tables: item and user features on the device.
      loader: the split, in order ``evaluation``.
      before_batch: called before each batch; what it raises ends the scoring.

    Returns:
      float32 ``[n]``, in the order of the split's examples.
    """
    rows = [loader.rows(0, step) for step in range(loader.steps_per_epoch)]
    scores = np.empty(sum(map(len, rows)), np.float32)
    pending: list[jax.Array] = []
    with closing(loader.epoch(0)) as batches:
        for step, batch in enumerate(batches):
            before_batch()
            pending.append(predict_step(params, batch_stats, tables, batch))
            if len(pending) == _IN_FLIGHT or step + 1 == loader.steps_per_epoch:
                first = step + 1 - len(pending)
                for of_batch, values in zip(
                    rows[first : step + 1], jax.device_get(pending), strict=True
                ):
                    scores[of_batch] = values[: len(of_batch)]
                pending.clear()
    return scores


def evaluation_loader(dataset: Dataset, split: str, config: Config) -> Loader:
    """Every example of a split once, in the order that wastes least padding."""
    train = config.train
    return Loader(
        dataset,
        split,
        batch_size=train.batch_size,
        buckets=train.buckets,
        max_history=train.max_history,
        order="evaluation",
    )


def measure(dataset: Dataset, split: str, scores: np.ndarray) -> dict[str, Any]:
    """The metrics of a split, named as ``result.json`` names them; None where undefined."""
    examples = dataset.splits[split]
    return evaluate_scores(np.asarray(examples.label), scores, np.asarray(examples.group))


def write_predictions(stream: TextIO, dataset: Dataset, split: str, scores: np.ndarray) -> None:
    """Writes ``user,item,label,score`` with raw ids, one line an example, in the split's order.

    Nine digits give a float32 score back exactly.
    """
    examples = dataset.splits[split]
    users, items = dataset.groups(), dataset.vocabulary("item")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("user", "item", "label", "score"))
    for group, item, label, score in zip(
        examples.group, examples.item, examples.label, scores, strict=True
    ):
        writer.writerow((users[group], items[item], int(label), f"{score:.9g}"))


def best_scores(folder: Path, run: Run, dataset: Dataset, split: str) -> np.ndarray:
    """Click probabilities of a split under the best checkpoint of a run; says so first.

    Args:
      folder: the run folder.
      run: what it holds.
      dataset: the run's own data, or other data of the same schema.
      split: ``train``, ``valid`` or ``test``.

    Returns:
      float32 ``[n]``, in the order of the split's examples.

    Raises:
      UserError: when the data does not fit the run, the split is empty, or no checkpoint can be
        read.
    """
    trained = restore(folder, run, dataset)
    check_examples(dataset, split)
    examples = len(dataset.splits[split].label)
    print(
        f"scoring {examples:,} {split} examples of {dataset.path} by {folder}",
        file=sys.stderr,
        flush=True,
    )
    return trained_scores(trained, split)


def check_examples(dataset: Dataset, split: str) -> None:
    """Refuses a split without examples.

    Raises:
      UserError: naming the data and the split.
    """
    if not len(dataset.splits[split].label):
        raise UserError(f"{dataset.path} has no {split} examples to score")


def trained_scores(trained: TrainedModel, split: str) -> np.ndarray:
    """Click probabilities of a split, float32 ``[n]``, in the order of its examples."""
    config, dataset = trained.run.config, trained.dataset
    return predict(
        make_predict_step(config, dataset.schema),
        trained.params,
        trained.batch_stats,
        device_tables(dataset, config),
        evaluation_loader(dataset, split, config),
    )
