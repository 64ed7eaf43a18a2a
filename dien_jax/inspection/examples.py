"""Examples as a trained model reads them: raw ids, with attention and gates for each behaviour.

Flax's ``capture_intermediates`` records the outputs of modules. Gates are recomputed from the
inputs and states of a recurrence, for every implementation of it:

    u_t = sigmoid(W_u x_t + U_u h_{t-1} + b_u)

Dimensions: B examples, T steps, D input, H hidden.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from dien_kernels import Weights

from dien_jax.config.presets import member_name
from dien_jax.config.settings import ModelConfig
from dien_jax.data.arrays import Examples
from dien_jax.data.dataset import Dataset
from dien_jax.data.loader import evaluation_loader
from dien_jax.data.schema import EXAMPLE_COLUMNS, UNKNOWN, Schema
from dien_jax.data.tables import Batch, FeatureTables
from dien_jax.data.vocabularies import UserEvents, Vocabularies
from dien_jax.errors import UserError, printable, suggestion
from dien_jax.model.click_model import ClickModel
from dien_jax.model.layers import LogitMap, click_probability
from dien_jax.runs.checkpoints import named_leaves
from dien_jax.runs.trained import TrainedModel
from dien_jax.utils.console import say

MEASURES = {
    "extractor_gate": "share of the interest extractor's state that a behaviour replaces",
    "attention": "weight of a behaviour for this candidate; the weights sum to 1",
    "update_gate": "share of the interest evolution's state that a behaviour would replace without "
    "attention",
    "update": "share of the interest evolution's state that a behaviour replaces under attention",
}
"""Numbers from 0 to 1 for each behaviour, explained, in the order in which a model computes them.
"""
RELATIVE = ("attention", "update")  # bars are relative to the largest, as all are small


def title_of(measure: str) -> str:
    """Return the name of a measure as text."""
    return measure.replace("_", " ")


UNKNOWN_NAME = "(unknown)"  # for values without a row of their own, too rare in training
NAMED = 3  # number of ids that an error message names


def make_internals_step(config: ModelConfig, schema: Schema) -> Callable[..., dict[str, Any]]:
    """Return the jitted ``internals(params, batch_stats, features, logit_map, batch)``.

    It returns the click ``probability`` ``[B]``; ``by_counts``, the probability by the tower alone,
    without the networks that read the history, or None without a tower; and the ``measures`` that
    the model has, by name, ``[B, T]`` each. Gates are means over the H units.
    """
    model, is_paper = ClickModel(config, schema), config.gates == "paper"
    names = available_measures(config)

    def is_captured(module: nn.Module, method: str) -> bool:
        return method == "__call__" and module.name in ("extractor", "evolution")

    def internals(
        params: Any, stats: Any, features: FeatureTables, logit_map: LogitMap | None, batch: Batch
    ) -> dict[str, Any]:
        variables = {"params": params, "batch_stats": stats}
        capture: Any = {"capture_intermediates": is_captured, "mutable": ["intermediates"]}
        output, captured = model.apply(variables, batch, features, **capture)
        returned = captured.get("intermediates", {}).get("network", {})

        def mean_gate(name: str, x: jax.Array) -> jax.Array:
            """Return the mean share of the state that a GRU's step replaces, without attention.

            It is u in the paper's form, and 1 - u in the authors' form, where the gate is the share
            that is kept. An AUGRU replaces this share at attention 1 in the paper's form, and at
            attention 0 in the authors' form.
            """
            ((states, _),) = returned[name]["__call__"]
            weights = Weights(**params["network"][name])
            before = jnp.pad(states, ((0, 0), (1, 0), (0, 0)))[:, :-1]
            from_input = jnp.einsum("btd,dh->bth", x, weights.input[:, 1], precision="highest")
            own = jnp.einsum("btg,gh->bth", before, weights.recurrent[:, 1], precision="highest")
            u = jax.nn.sigmoid(from_input + own + weights.bias[None, None, 1])
            return (u if is_paper else 1 - u).mean(-1)

        attention: Any = output.attention
        measures = {} if attention is None else {"attention": attention}
        if "extractor_gate" in names:
            events = jnp.asarray(batch.history), batch.columns, features
            history: Any = model.apply(variables, *events, method="embed_history")
            measures["extractor_gate"] = mean_gate("extractor", history)
        if "update_gate" in names:
            x = output.interest_states
            if config.evolution == "aigru":
                x = x * attention[..., None]
            measures["update_gate"] = gate = mean_gate("evolution", x)
        if "update" in names:
            measures["update"] = attention * gate if is_paper else 1 - (1 - attention) * (1 - gate)
        by_counts = None
        if config.statistics:
            terms: Any = model.apply(variables, batch, features, method="tower_terms")
            by_counts = click_probability(terms.sum(1), logit_map)
        probability = click_probability(output.logits, logit_map)
        return {"probability": probability, "by_counts": by_counts, "measures": measures}

    return jax.jit(internals)


def available_measures(model: ModelConfig) -> list[str]:
    """Return the names of the :data:`MEASURES` that a model has."""
    evolution = model.evolution
    gates = evolution in ("gru_attention", "aigru", "augru")
    present = (model.extractor == "gru", evolution != "none", gates, evolution == "augru")
    return [name for name, is_present in zip(MEASURES, present, strict=True) if is_present]


def missing_measures(model: ModelConfig) -> list[str]:
    """Return a sentence on which of attention and update gate a model lacks, or nothing."""
    missing = {"attention", "update_gate"} - {*available_measures(model)}
    titles = " and no ".join(map(title_of, sorted(missing)))
    name = member_name(model).replace("custom", "this model")
    return [f"{name} has no {titles}"] if missing else []


class Behaviour(NamedTuple):
    """An item: printable id and categories, if any, and whether the candidate shares a category."""

    item: str
    category: str | None
    matches: bool


@dataclass(frozen=True)
class Example:
    """An example as the model reads it.

    Attributes:
      split, number: its split and number there, from 0; None as split if requested by ids.
      user: raw id, printable.
      candidate: the target item.
      label: 1 for a click, 0 for none; None if unknown.
      probability: click probability of the model.
      by_counts: click probability by the tower alone, without reading the history, if any.
      behaviours: the history, oldest first, without the ``older`` behaviours that are cut off.
      measures: float32 ``[T]`` over the behaviours, by the names in ``MEASURES``.
    """

    split: str | None
    number: int
    user: str
    candidate: Behaviour
    label: int | None
    probability: float
    by_counts: float | None
    behaviours: tuple[Behaviour, ...]
    older: int
    measures: dict[str, np.ndarray]


class Names:
    """Printable raw ids of a dataset's items and users, and items' values of ``feature``.

    ``feature`` is the first categorical item feature after the id, else the first multi-valued one.
    """

    def __init__(self, dataset: Dataset) -> None:
        features = [feature for feature in dataset.schema.item[1:] if feature.size is not None]
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

    def behaviour(self, row: int, candidate: int) -> Behaviour:
        """Return an item as a behaviour, compared with the candidate."""
        if self.feature is None:
            return Behaviour(self.item(row), None, matches=False)
        of_rows = (self._column.take(np.array([k])).values for k in (row, candidate))
        categories, of_candidate = of_rows
        shared = set(categories.tolist()) & set(of_candidate.tolist()) - {UNKNOWN}
        names = [printable(self._values[k]) if k != UNKNOWN else UNKNOWN_NAME for k in categories]
        return Behaviour(self.item(row), ", ".join(names), bool(shared))


class Inspector:
    """Reads attention and gates of a trained model on single examples.

    >>> from dien_jax import load_run
    >>> inspector = Inspector(load_run("runs/first"))
    >>> [example] = inspector.examples("valid", [0])
    >>> list(example.measures)
    ['extractor_gate', 'attention', 'update_gate', 'update']

    Attributes:
      trained: the model, with the dataset of the examples.
      names: printable raw ids of the dataset.
    """

    def __init__(self, trained: TrainedModel) -> None:
        self.trained = trained
        step = make_internals_step(trained.run.config.model, trained.dataset.schema)
        inputs = trained.params, trained.batch_stats, trained.feature_tables()
        self._internals = functools.partial(step, *inputs, trained.logit_map(in_use=False))
        self.names = Names(trained.dataset)

    def examples(
        self, split: str, numbers: Sequence[int], dataset: Dataset | None = None
    ) -> list[Example]:
        """Return the examples of a split with some distinct ``numbers``, in this order.

        Each is scored in the same batch as in evaluation, so its score is the same. The default
        dataset is the model's; another must have the same vocabularies and item features.

        Raises:
          UserError: if a number does not exist.
        """
        dataset = dataset or self.trained.dataset
        rows, offsets = dataset.splits[split], dataset.event_offsets
        count = len(rows.label)
        for number in numbers:
            if not 0 <= number < count:
                exist = f"examples 0 to {count - 1}" if count else "no examples"
                where = f"the {split} split of {dataset.path}"
                raise UserError(f"example {number} does not exist: {where} has {exist}")
        loader = evaluation_loader(dataset, split, self.trained.run.config.train)
        examples: dict[int, Example] = {}
        for step in range(loader.steps_per_epoch):
            batch_numbers = loader.example_indices(0, step)
            places = np.flatnonzero(np.isin(batch_numbers, numbers)).tolist()
            if places:
                batch = loader.batch(0, step)
                internals = jax.device_get(self._internals(batch))
                for place in places:
                    number, length = int(batch_numbers[place]), int(batch.lengths[place])
                    history = np.asarray(batch.history)[place, :length].tolist()
                    own = jax.tree.map(lambda values, place=place: values[place], internals)
                    measures, by_counts = own["measures"], own["by_counts"]
                    item, start = int(rows.item[number]), offsets[rows.sequence[number]]
                    examples[number] = Example(
                        split=split,
                        number=number,
                        user=self.names.user(int(rows.group[number])),
                        candidate=self.names.behaviour(item, item),
                        label=int(rows.label[number]),
                        probability=float(own["probability"]),
                        by_counts=None if by_counts is None else float(by_counts),
                        behaviours=tuple(self.names.behaviour(k, item) for k in history),
                        older=int(rows.history_end[number] - start) - length,
                        measures={n: measures[n][:length] for n in MEASURES if n in measures},
                    )
        dataset.check_files()
        return [examples[number] for number in numbers]


def request(dataset: Dataset, user: str, item: str, request_features: Mapping[str, str]) -> Dataset:
    """Return the dataset with one test example: an item for a user, after all of their events."""
    vocabularies = Vocabularies(dataset.schema, dataset.vocabulary)
    events = UserEvents(dataset, "inspect one of the user's examples, with --example")
    groups = dataset.groups()
    if user not in events:
        raise _unknown("--user", user, groups, groups, dataset)
    [row] = vocabularies.item_rows([item])
    if row == UNKNOWN:
        known = vocabularies.items[1:]
        frequent = np.argsort(-dataset.popularity[1:], kind="stable")[:NAMED]
        raise _unknown("--item", item, known, [known[k] for k in frequent], dataset)
    schema = dataset.schema
    missing = [f.name for f in schema.request if f.name not in request_features]
    if missing:
        say(f"note: no value for {', '.join(missing)}; set it with --request-features NAME VALUE")
    values = {**dict.fromkeys(missing), **request_features}
    columns, unknown = vocabularies.request_columns(values)
    if unknown:
        say(f"note: {unknown} value{'s' * (unknown > 1)} of features did not occur in training")
    user_row = vocabularies.user_row(user)
    if user_row == UNKNOWN and dataset.schema.num_users > 1:
        say(f"note: user {user} did not occur in training; the model sees the unknown user")
    sequence, end = events.find(user, None)
    history = np.asarray(dataset.event_item[dataset.event_offsets[sequence] : end])
    tables = named_leaves({"tables": dataset.feature_tables(statistics=False)})
    columns |= schema.computed(tables, history, np.array([row], np.int32))
    place = sequence, end, user_row, groups.index(user), row, 0
    given = zip(place, EXAMPLE_COLUMNS.values(), strict=True)
    example = Examples._make([*(np.array([value], kind) for value, kind in given), columns])
    return dataclasses.replace(dataset, splits={"test": example})


def _unknown(
    flag: str, value: str, known: Sequence[str], named: Sequence[str], dataset: Dataset
) -> UserError:
    near = suggestion(value, known) if len(known) <= 100_000 else ""  # slow beyond
    ids = ", ".join(repr(printable(raw)) for raw in named[:NAMED])
    holds = f"{len(known):,} {flag.removeprefix('--')}s{f', such as {ids}' if ids else ''}"
    problem = f"{flag} {value!r} does not exist in {dataset.path}"
    return UserError(f"{problem}; the folder has {holds}{near}")
