"""Examples as a trained model reads them: raw ids, and attention and gates for each behaviour."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from dien_jax.data.batch import Batch
from dien_jax.data.dataset import Dataset
from dien_jax.data.loader import evaluation_loader
from dien_jax.data.schema import UNKNOWN
from dien_jax.errors import UserError
from dien_jax.inspection.gates import MEASURES, Internals, make_internals_step
from dien_jax.runs.trained import TrainedModel
from dien_jax.steps.state import feature_tables

UNKNOWN_NAME = "(unknown)"
"""Shown for values that have no row of their own, because training did not see them often."""


class Behaviour(NamedTuple):
    """One event of a history, or the candidate.

    Attributes:
      item: raw id, printable.
      category: of the item, printable; None if items have no category.
      matches: whether the item shares a category with the candidate.
    """

    item: str
    category: str | None
    matches: bool


@dataclass(frozen=True)
class Example:
    """An example as the model reads it.

    Attributes:
      split: the split it is from; None for a user and an item that were given by name.
      number: its number in the split, from 0.
      user: raw id, printable.
      candidate: the target item.
      label: 1 for a click, 0 for none; None if unknown.
      probability: click probability of the model.
      behaviours: the history, oldest first, without behaviours that the model cuts off.
      older: number of behaviours that the model cuts off.
      measures: float32 ``[T]`` over the behaviours, by names of ``MEASURES``.

    >>> from dien_jax import load_run
    >>> [example] = Inspector(load_run("runs/first")).examples("valid", [0])
    >>> len(example.behaviours) == len(example.measures["attention"])
    True
    """

    split: str | None
    number: int
    user: str
    candidate: Behaviour
    label: int | None
    probability: float
    behaviours: tuple[Behaviour, ...]
    older: int
    measures: dict[str, np.ndarray]


class Names:
    """Printable raw ids of a dataset's items and users, and items' values of ``feature``.

    ``feature`` is the item feature that is shown as the category: the first categorical one after
    the id, else the first multi-valued one; None without either.
    """

    def __init__(self, dataset: Dataset) -> None:
        features = [feature for feature in dataset.schema.item[1:] if feature.kind != "numeric"]
        features.sort(key=lambda feature: feature.kind != "categorical")
        self.feature = features[0].name if features else None
        self._items = dataset.vocabulary("item")
        self._groups = dataset.groups()
        if self.feature is not None:
            self._column = dataset.items[self.feature]
            self._values = dataset.vocabulary(self.feature)

    def item(self, row: int) -> str:
        """Return the raw id of an item."""
        return UNKNOWN_NAME if row == UNKNOWN else printable(self._items[row])

    def user(self, group: int) -> str:
        """Return the raw id of a user."""
        return printable(self._groups[group])

    def categories(self, row: int) -> list[int]:
        """Return the rows of an item's categories."""
        if self.feature is None:
            return []
        values, offsets = self._column
        if offsets is None:
            return [int(values[row])]
        return values[offsets[row] : offsets[row + 1]].tolist()

    def category(self, value: int) -> str:
        """Return the raw value of a row of ``feature``."""
        return UNKNOWN_NAME if value == UNKNOWN else printable(self._values[value])

    def behaviour(self, row: int, candidate: int) -> Behaviour:
        """Return an item, compared with the candidate."""
        categories = self.categories(row)
        shared = set(categories) & set(self.categories(candidate)) - {UNKNOWN}
        text = None if self.feature is None else ", ".join(map(self.category, categories))
        return Behaviour(self.item(row), text, bool(shared))


class Inspector:
    """Reads attention and gates of a trained model on single examples.

    Args:
      trained: the model, with the dataset of the examples.

    Attributes:
      names: printable raw ids of the dataset.

    >>> from dien_jax import load_run
    >>> inspector = Inspector(load_run("runs/first"))
    >>> [example] = inspector.examples("valid", [0])
    >>> list(example.measures)
    ['extractor_gate', 'attention', 'update_gate', 'update']
    """

    def __init__(self, trained: TrainedModel) -> None:
        self.trained = trained
        config, dataset = trained.run.config, trained.dataset
        self._internals = functools.partial(
            make_internals_step(config, dataset.schema),
            trained.params,
            trained.batch_stats,
            feature_tables(dataset),
        )
        self.names = Names(dataset)

    def examples(
        self, split: str, numbers: Sequence[int], dataset: Dataset | None = None
    ) -> list[Example]:
        """Return examples of a split in the order of their numbers.

        Each is scored in the same batch as in evaluation, so that its score is the same.

        Args:
          split: ``"train"``, ``"valid"`` or ``"test"``.
          numbers: distinct, from 0.
          dataset: a dataset with the vocabularies and item features of the model's, which is the
            default.

        Raises:
          UserError: if a number does not exist.
        """
        dataset = dataset or self.trained.dataset
        count = len(dataset.splits[split].label)
        for number in numbers:
            if not 0 <= number < count:
                raise UserError(
                    f"example {number} does not exist: the {split} split of {dataset.path} has "
                    + (f"examples 0 to {count - 1}" if count else "no examples")
                )
        loader = evaluation_loader(dataset, split, self.trained.run.config.train)
        examples: dict[int, Example] = {}
        for step in range(loader.steps_per_epoch):
            batch_numbers = loader.example_indices(0, step)
            places = np.flatnonzero(np.isin(batch_numbers, numbers)).tolist()
            if not places:
                continue
            batch = loader.batch(0, step)
            internals = jax.device_get(self._internals(batch))
            for place in places:
                number = int(batch_numbers[place])
                examples[number] = self._example(dataset, split, number, batch, place, internals)
        return [examples[number] for number in numbers]

    def _example(
        self,
        dataset: Dataset,
        split: str,
        number: int,
        batch: Batch,
        place: int,
        internals: Internals,
    ) -> Example:
        examples, length = dataset.splits[split], int(batch.lengths[place])
        start = dataset.event_offsets[examples.sequence[number]]
        item = int(examples.item[number])
        return Example(
            split=split,
            number=number,
            user=self.names.user(int(examples.group[number])),
            candidate=self.names.behaviour(item, item),
            label=int(examples.label[number]),
            probability=float(internals.probability[place]),
            behaviours=tuple(
                self.names.behaviour(int(row), item) for row in batch.history[place, :length]
            ),
            older=int(examples.history_end[number] - start) - length,
            measures={
                name: np.asarray(internals.measures[name])[place, :length]
                for name in MEASURES
                if name in internals.measures
            },
        )


def printable(text: str) -> str:
    r"""Return the text on one line, with unprintable characters as ``\uXXXX``."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
