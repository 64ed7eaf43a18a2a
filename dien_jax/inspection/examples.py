"""What a trained model makes of single examples: its attention and its update gates, by step.

Nothing in the model is there for being looked at. What its modules return is captured by Flax as
they are applied, and an update gate follows from the input of a step and the state before it,
whichever implementation of the recurrence gave that:

    u_t = sigmoid(W_u x_t + U_u h_{t-1} + b_u)

Dimensions: B examples, T steps, D input, H hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from dien_jax.data.batch import Batch
from dien_jax.data.dataset import Dataset
from dien_jax.data.loader import evaluation_loader
from dien_jax.data.schema import UNKNOWN
from dien_jax.inspection.gates import MEASURES, Glimpse, make_look_step
from dien_jax.runs.trained import TrainedModel
from dien_jax.steps.state import feature_tables

UNKNOWN_NAME = "(unknown)"
"""Shown for a value that training did not know, or knew too seldom to give it a row."""


class Behaviour(NamedTuple):
    """One event of a history.

    Attributes:
      item: raw id, fit to be printed.
      category: of the item, likewise; None where items have none.
      is_alike: whether it shares a category with the candidate.
    """

    item: str
    category: str | None
    is_alike: bool


@dataclass(frozen=True)
class Example:
    """An example as the model sees it.

    Attributes:
      split: whose example it is; None for a user and an item that were named.
      number: among the split's examples, from 0.
      user: raw id, fit to be printed.
      candidate: the item, which is alike with itself.
      label: 1 for a click, 0 for none; None where nobody knows.
      probability: of a click, as the model sees it.
      behaviours: the history, oldest first, without what the model cuts off.
      older: how many behaviours it cuts off.
      measures: by the names of :data:`MEASURES`, float32 ``[T]`` over the behaviours.
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
    """Raw ids of a dataset's items and users, fit to be printed.

    Attributes:
      feature: the item feature that stands for the category: the first that is categorical, or
        else multi-valued, after the id; None where there is none.
    """

    def __init__(self, dataset: Dataset) -> None:
        named = {f.name: f.kind for f in dataset.schema.item[1:] if f.kind != "numeric"}
        kinds = list(named.values())
        first = kinds.index("categorical") if "categorical" in kinds else 0
        self.feature = list(named)[first] if named else None
        self._items = dataset.vocabulary("item")
        self._groups = dataset.groups()
        if self.feature is not None:
            self._column = dataset.items[self.feature]
            self._values = dataset.vocabulary(self.feature)

    def item(self, row: int) -> str:
        """The raw id of an item."""
        return UNKNOWN_NAME if row == UNKNOWN else printable(self._items[row])

    def user(self, group: int) -> str:
        """The raw id of a user."""
        return printable(self._groups[group])

    def categories(self, row: int) -> list[int]:
        """The rows of an item's values of :attr:`feature`."""
        if self.feature is None:
            return []
        values, offsets = self._column
        if offsets is None:
            return [int(values[row])]
        return values[offsets[row] : offsets[row + 1]].tolist()

    def category(self, value: int) -> str:
        """The raw value of a row of :attr:`feature`."""
        return UNKNOWN_NAME if value == UNKNOWN else printable(self._values[value])

    def behaviour(self, row: int, candidate: int) -> Behaviour:
        """An item beside the candidate."""
        values, others = self.categories(row), self.categories(candidate)
        known = (set(values) & set(others)) - {UNKNOWN}
        texts = [self.category(value) for value in values]
        text = ", ".join(texts) if self.feature is not None else None
        return Behaviour(self.item(row), text, bool(known))


class Inspector:
    """Looks at examples of a dataset with a trained model.

    Args:
      trained: the model; examples are those of its dataset, unless another is given.
    """

    def __init__(self, trained: TrainedModel) -> None:
        self._trained = trained
        config, dataset = trained.run.config, trained.dataset
        self._look = make_look_step(config, dataset.schema)
        self._features = feature_tables(dataset)
        self.names = Names(dataset)

    def examples(
        self, split: str, numbers: Sequence[int], dataset: Dataset | None = None
    ) -> list[Example]:
        """Examples of a split, in the order of their numbers as given.

        Each is scored in the batch that evaluation puts it in, so that its score is the same.

        Args:
          split: ``train``, ``valid`` or ``test``.
          numbers: distinct, from 0.
          dataset: another with the trained one's vocabularies and item features, or None.
        """
        dataset = dataset or self._trained.dataset
        loader = evaluation_loader(dataset, split, self._trained.run.config.train)
        found: dict[int, Example] = {}
        for step in range(loader.steps_per_epoch):
            indices = loader.example_indices(0, step)
            places = np.flatnonzero(np.isin(indices, numbers))
            if not len(places):
                continue
            batch = loader.batch(0, step)
            glimpse = jax.device_get(
                self._look(self._trained.params, self._trained.batch_stats, self._features, batch)
            )
            for place in places:
                number = int(indices[place])
                found[number] = self._example(dataset, split, number, batch, glimpse, int(place))
        return [found[number] for number in numbers]

    def _example(
        self,
        dataset: Dataset,
        split: str,
        number: int,
        batch: Batch,
        glimpse: Glimpse,
        place: int,
    ) -> Example:
        examples, length = dataset.splits[split], int(batch.lengths[place])
        whole = examples.history_end[number] - dataset.event_offsets[examples.sequence[number]]
        item = int(examples.item[number])
        measures = {name: getattr(glimpse, name) for name in MEASURES}
        return Example(
            split=split,
            number=number,
            user=self.names.user(int(examples.group[number])),
            candidate=self.names.behaviour(item, item),
            label=int(examples.label[number]),
            probability=float(glimpse.probability[place]),
            behaviours=tuple(
                self.names.behaviour(int(row), item) for row in batch.history[place, :length]
            ),
            older=int(whole) - length,
            measures={
                name: values[place, :length]
                for name, values in measures.items()
                if values is not None
            },
        )


def printable(text: str) -> str:
    r"""The text on one line: what cannot be printed, line ends say, as ``\uXXXX``."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
