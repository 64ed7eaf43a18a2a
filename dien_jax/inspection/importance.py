"""Permutation importance: what AUC each input of a model is worth on the examples of a split.

An input is exchanged at random among the examples, which leaves its distribution as it is and
takes away what it says about the label; the loss in AUC is what the model gains by it. Exchanged
are the candidate, each of its features alone, the user, each context feature, and histories whole;
"history order" shuffles each history within itself. An input that another one stands in for loses
little: a candidate's category is known where its id is.

Source: Breiman, "Random Forests", Machine Learning 45, 2001; Fisher, Rudin and Dominici, JMLR 20,
2019 (arXiv:1801.01489).

Dimensions: n examples of the split, B rows of a batch, T steps, F features of a group.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dien_jax.config.settings import Config
from dien_jax.data.batch import Batch
from dien_jax.data.dataset import Dataset
from dien_jax.data.loader import Loader, evaluation_loader
from dien_jax.data.schema import Feature, FeatureTables, Schema
from dien_jax.errors import UserError
from dien_jax.metrics.intervals import Difference, delong
from dien_jax.metrics.scores import auc
from dien_jax.model.interest import InterestModel, RowEmbeddings
from dien_jax.runs.scoring import check_examples, score_batches, trained_scores
from dien_jax.runs.trained import TrainedModel
from dien_jax.steps.state import feature_tables
from dien_jax.utils.console import stage
from dien_jax.utils.files import write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEED = 0
"""Of what is drawn: equal runs give equal figures."""


@dataclass(frozen=True)
class Input:
    """An input, as what is exchanged to measure it.

    Attributes:
      name: as it is shown.
      item: features of the candidate, by name.
      user: features of the user.
      context: context features.
      history: whether histories are exchanged, or shuffled in themselves.
    """

    name: str
    item: tuple[str, ...] = ()
    user: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    history: str = ""


class Measured(NamedTuple):
    """What one input is worth.

    Attributes:
      input: its name.
      drop: AUC of the model less its mean AUC over the permutations.
      aucs: the AUC of each permutation.
      is_constant: whether all examples have the same, so that there is nothing to exchange.
    """

    input: str
    drop: Difference
    aucs: list[float]
    is_constant: bool


class Importance(NamedTuple):
    """What every input of a model is worth, the most first.

    Attributes:
      split: whose examples.
      examples: how many.
      auc: of the model as it is.
      inputs: what each is worth.
    """

    split: str
    examples: int
    auc: float
    inputs: list[Measured]


def inputs_of(schema: Schema) -> list[Input]:
    """The inputs of a model with these features."""

    def names(features: Sequence[Feature]) -> tuple[str, ...]:
        return tuple(feature.name for feature in features)

    several = len(schema.item) > 1
    found = [Input("candidate", item=names(schema.item))]
    found += [
        Input("candidate: " + ("item id" if name == "item" else name), item=(name,))
        for name in names(schema.item if several else ())
    ]
    several = len(schema.user) > 1
    found += [Input("user", user=names(schema.user))]
    found += [
        Input("user: " + ("user id" if name == "user" else name), user=(name,))
        for name in names(schema.user if several else ())
    ]
    found += [Input(f"context: {name}", context=(name,)) for name in names(schema.context)]
    return [*found, Input("history", history="exchanged"), Input("history order", history="order")]


def importance(trained: TrainedModel, split: str, permutations: int) -> Importance:
    """Measures every input; says on standard error how far it is.

    Args:
      trained: the model and its data.
      split: whose examples.
      permutations: of each input, at least 1.

    Raises:
      UserError: when the split has fewer than two examples of either label.
    """
    dataset = trained.dataset
    check_examples(dataset, split)
    labels = np.asarray(dataset.splits[split].label)
    clicks = int(labels.sum())
    if min(clicks, len(labels) - clicks) < 2:
        raise UserError(
            f"{dataset.path}: the {split} split has {clicks} clicks among {len(labels)} examples; "
            f"what an input is worth takes two or more of either label"
        )
    inputs, measured = inputs_of(dataset.schema), []
    features = feature_tables(dataset)
    step = make_exchanged_step(trained.run.config, dataset.schema)
    with stage(f"scoring {len(labels):,} {split} examples") as current:
        whole = trained_scores(trained, split)
        area = auc(labels, whole)
        assert area is not None
        for number, each in enumerate(inputs):
            scores = np.empty((permutations, len(labels)), np.float32)
            for turn in range(permutations):
                current.note = f"{each.name}, permutation {turn + 1} of {permutations}"
                current.share = (number + turn / permutations) / len(inputs)
                random = np.random.default_rng((SEED, number, turn))
                scores[turn] = exchanged_scores(trained, features, step, split, each, random)
            drop = delong(labels, whole, scores)
            assert drop is not None
            aucs = [found for row in scores if (found := auc(labels, row)) is not None]
            constant = _is_constant(dataset, split, each)
            measured.append(Measured(each.name, drop, aucs, constant))
        current.note = f"{len(inputs)} inputs, {permutations} permutations each"
    measured.sort(key=lambda found: -found.drop.value)
    return Importance(split, len(labels), area, measured)


def _is_constant(dataset: Dataset, split: str, each: Input) -> bool:
    examples = dataset.splits[split]
    columns: list[np.ndarray] = []
    if each.item:
        columns.append(examples.item)
    if each.user:
        columns.append(examples.user)
    for name in each.context:
        column = examples.context[name]
        columns.append(column.values)
        if column.offsets is not None:
            columns.append(np.diff(column.offsets))
    if each.history:
        columns.append(examples.history_end - dataset.event_offsets[examples.sequence])
        return not columns[0].any()
    return all(np.all(column == column[:1]) for column in columns)


@dataclass(frozen=True)
class _Exchanged:
    """Pairs of batches: the examples with their histories, and with the rest of other examples."""

    ours: Loader
    theirs: Loader
    shuffled: np.random.Generator | None

    @property
    def steps_per_epoch(self) -> int:
        return self.ours.steps_per_epoch

    def example_indices(self, epoch: int, step: int) -> np.ndarray:
        return self.ours.example_indices(epoch, step)

    def epoch(self, epoch: int) -> Generator[tuple[Batch, Batch], None, None]:
        with closing(self.ours.epoch(epoch)) as ours, closing(self.theirs.epoch(epoch)) as theirs:
            for batch, other in zip(ours, theirs, strict=True):
                if self.shuffled is not None:
                    batch = batch._replace(history=_shuffled(batch, self.shuffled))
                yield batch, other


def _shuffled(batch: Batch, random: np.random.Generator) -> np.ndarray:
    """The live steps of each history in an order of their own, int32 ``[B, T]``."""
    history = np.asarray(batch.history)
    is_live = np.arange(history.shape[1]) < np.asarray(batch.lengths)[:, None]
    keys = np.where(is_live, random.random(history.shape), 2.0)
    return np.take_along_axis(history, np.argsort(keys, axis=1), axis=1)


def exchanged_scores(
    trained: TrainedModel,
    features: FeatureTables,
    step: Callable[..., jax.Array],
    split: str,
    each: Input,
    random: np.random.Generator,
) -> np.ndarray:
    """Click probabilities of a split with an input exchanged at random, float32 ``[n]``.

    Args:
      trained: the model and its data.
      features: of its items and users, on the device.
      step: as :func:`make_exchanged_step` gives it.
      split: whose examples.
      each: the input.
      random: what decides the exchange.
    """
    config, dataset = trained.run.config, trained.dataset
    ours = dataset.splits[split]
    other = ours.take(random.permutation(len(ours.label)))
    if each.history == "exchanged":
        ours = ours._replace(sequence=other.sequence, history_end=other.history_end)
    theirs = ours._replace(item=other.item, user=other.user, context=other.context)
    first, second = (
        evaluation_loader(replace(dataset, splits={split: examples}), split, config.train)
        for examples in (ours, theirs)  # in one order, which the histories alone decide
    )
    exchanged = {
        group: np.array([feature.name in getattr(each, group) for feature in features], np.bool_)
        for group, features in vars(dataset.schema).items()
    }

    def predict_step(
        params: Any, batch_stats: Any, features: FeatureTables, pair: Any
    ) -> jax.Array:
        return step(params, batch_stats, features, *pair, exchanged)

    pairs = _Exchanged(first, second, random if each.history == "order" else None)
    return score_batches(predict_step, trained.params, trained.batch_stats, features, pairs)


def make_exchanged_step(config: Config, schema: Schema) -> Callable[..., jax.Array]:
    """Jitted ``score(params, batch_stats, features, batch, other, exchanged)``, probabilities [B].

    ``other`` has the histories of ``batch`` and candidates, users and contexts of other examples;
    ``exchanged`` has bool ``[F]`` by group: which of its features are taken from there.
    """
    model = InterestModel(config.model, schema)

    def logits(
        module: InterestModel,
        features: FeatureTables,
        batch: Batch,
        other: Batch,
        exchanged: dict[str, jax.Array],
    ) -> jax.Array:
        def mixed(group: str, ours: Any, theirs: Any) -> Any:
            if ours is None:  # no context features
                return None
            is_theirs = jnp.repeat(jnp.asarray(exchanged[group]), config.model.embedding_size)
            return jnp.where(is_theirs[None], theirs, ours)

        ours, theirs = (module.embed_rows(part, features) for part in (batch, other))
        rows = RowEmbeddings(
            mixed("item", ours.candidate, theirs.candidate),
            mixed("user", ours.user, theirs.user),
            mixed("context", ours.context, theirs.context),
        )
        lengths = jnp.asarray(batch.lengths)
        history = module.embed_items(jnp.asarray(batch.history), features)
        encoded = module.encode_history(history, lengths)
        real = jnp.asarray(batch.weight) > 0
        return module.score(encoded.states, history, lengths, rows, real)[0]

    def score(
        params: Any,
        batch_stats: Any,
        features: FeatureTables,
        batch: Batch,
        other: Batch,
        exchanged: dict[str, jax.Array],
    ) -> jax.Array:
        variables = {"params": params, "batch_stats": batch_stats}
        arguments = (features, batch, other, exchanged)
        found: Any = model.apply(variables, *arguments, method=logits)
        return jax.nn.sigmoid(found)

    return jax.jit(score)


def as_table(found: Importance) -> str:
    """What every input is worth, for a terminal."""
    permutations = len(found.inputs[0].aucs)
    width = max(len("input"), *(len(each.input) for each in found.inputs))
    lines = [
        f"AUC {found.auc:.4f} on {found.examples:,} {found.split} examples; what is lost when an "
        f"input is exchanged among them:",
        "",
        f"{'input':{width}}  AUC drop  95% interval        sd over {permutations}",
    ]
    for each in found.inputs:
        drop = each.drop
        deviation = f"{np.std(each.aucs, ddof=1):.4f}" if permutations > 1 else "-"
        note = "  the same in all examples" if each.is_constant else ""
        lines.append(
            f"{each.input:{width}}  {_signed(drop.value):>8}  {_signed(drop.low)} to "
            f"{_signed(drop.high)}  "
            f"{deviation:>9}{note}"
        )
    return "\n".join(lines)


def _signed(value: float) -> str:
    return f"{round(value, 4) + 0.0:+.4f}"  # 0 has no sign to speak of


def write_importance(found: Importance, trained: TrainedModel, file: Path) -> None:
    """Writes the figures as JSON.

    Raises:
      OSError: when the file cannot be written.
    """
    inputs = [
        {
            "input": each.input,
            "auc_drop": each.drop.value,
            "standard_error": each.drop.standard_error,
            "low": each.drop.low,
            "high": each.drop.high,
            "permuted_auc": each.aucs,
            "is_constant": each.is_constant,
        }
        for each in found.inputs
    ]
    write_json(
        file,
        {
            "preset": trained.run.preset,
            "data": str(trained.dataset.path.absolute()),
            "split": found.split,
            "examples": found.examples,
            "auc": found.auc,
            "seed": SEED,
            "inputs": inputs,
        },
    )


def draw_importance(found: Importance) -> "Figure":
    """Drops in AUC with their 95% intervals, the largest on top; needs matplotlib."""
    from matplotlib.figure import Figure

    count = len(found.inputs)
    figure = Figure(figsize=(7.5, 1.3 + 0.32 * count), layout="constrained")
    axes = figure.subplots()
    places = range(count)
    axes.barh(places, [each.drop.value for each in found.inputs], color="C0", height=0.6)
    for place, each in zip(places, found.inputs, strict=True):
        axes.plot([each.drop.low, each.drop.high], [place, place], color="0.2", lw=1.5)
    axes.set_yticks(places, [each.input for each in found.inputs], parse_math=False)
    axes.invert_yaxis()
    axes.axvline(0, color="0.3", lw=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("AUC lost when the input is exchanged among examples (lines: 95% intervals)")
    axes.set_title(
        f"AUC {found.auc:.4f} on {found.examples:,} {found.split} examples, mean of "
        f"{len(found.inputs[0].aucs)} permutations",
        fontsize="medium",
    )
    return figure
