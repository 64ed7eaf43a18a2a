"""Scores of a trained model, and the command line ``python -m dien_jax.evaluate``.

    python -m dien_jax.evaluate RUN_DIR [--data DIR] [--split test] [--predictions FILE.csv]

Standard output carries one JSON object: the metrics of the split under the run's best checkpoint.
"""

import csv
import json
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO, runtime_checkable

import jax
import numpy as np
import tyro

from dien_jax.batches import Loader
from dien_jax.compiled import keep_compiled
from dien_jax.config import Config
from dien_jax.dataset import Dataset, open_dataset
from dien_jax.errors import UserError
from dien_jax.metrics import evaluate_scores
from dien_jax.run_folder import Run, atomic_file
from dien_jax.step import device_tables, make_predict_step
from dien_jax.trained import Trained, restore

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


Predict = Callable[[Any, Any, Any, Any], jax.Array]
"""(params, batch_stats, tables, batch) to scores ``[B]``, as ``make_predict_step`` returns it."""


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


def trained_scores(trained: Trained, split: str) -> np.ndarray:
    """Click probabilities of a split, float32 ``[n]``, in the order of its examples."""
    config, dataset = trained.run.config, trained.dataset
    return predict(
        make_predict_step(config, dataset.schema),
        trained.params,
        trained.batch_stats,
        device_tables(dataset, config),
        evaluation_loader(dataset, split, config),
    )


@dataclass(frozen=True)
class Arguments:
    """Score a split with the best checkpoint of a run; prints one JSON object."""

    run_dir: tyro.conf.Positional[Path]
    """Run folder that dien_jax.train made."""
    data: Path | None = None
    """Dataset folder; the run's own when not given."""
    split: Literal["train", "valid", "test"] = "test"
    """Which examples to score."""
    predictions: Path | None = None
    """CSV file to write: user, item, label and score of every example, with raw ids."""


def evaluate(arguments: Arguments) -> dict[str, Any]:
    """Metrics of a split under the best checkpoint of a run, and a file of predictions if asked.

    Raises:
      UserError: when the run, its checkpoint, the data or the file of predictions is at fault.
    """
    run = Run.load(arguments.run_dir)
    dataset = open_dataset(Path(run.data) if arguments.data is None else arguments.data)
    split = arguments.split
    try:
        with atomic_file(arguments.predictions) if arguments.predictions else nullcontext() as file:
            scores = best_scores(arguments.run_dir, run, dataset, split)
            if file is not None:
                write_predictions(file, dataset, split, scores)
    except OSError as error:
        raise UserError(f"{arguments.predictions} cannot be written: {error.strerror}") from error
    if arguments.predictions:
        print(f"predictions: {arguments.predictions}", file=sys.stderr)
    metrics = measure(dataset, split, scores)
    if metrics["auc"] is None:
        print(f"warning: the {split} split has one label only, so no AUC", file=sys.stderr)
    return metrics


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = tyro.cli(Arguments, args=argv, prog="python -m dien_jax.evaluate")
    keep_compiled()
    try:
        print(json.dumps(evaluate(arguments), allow_nan=False))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
