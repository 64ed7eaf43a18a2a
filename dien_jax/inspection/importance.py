"""Permutation importance: the AUC that each input of a model contributes on a split.

An input is exchanged at random among the examples: its distribution stays, and it says nothing
about the label any more. The AUC that is lost is its importance. An input that others can replace
loses little: a candidate's id tells its category.

Source: Breiman, "Random Forests", Machine Learning 45, 2001; Fisher, Rudin and Dominici, JMLR 20,
2019 (arXiv:1801.01489).

Dimensions: n examples of the split, B rows of a batch, T steps, F features of a group.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dien_jax.config.settings import Config
from dien_jax.data.batch import Batch, is_live
from dien_jax.data.loader import evaluation_loader
from dien_jax.data.schema import Feature, Schema
from dien_jax.data.tables import FeatureTables
from dien_jax.errors import UserError
from dien_jax.metrics.intervals import Difference, delong
from dien_jax.metrics.scores import auc
from dien_jax.model.click_model import ClickModel, RowInputs
from dien_jax.runs.trained import TrainedModel, check_examples, score_batches, trained_scores
from dien_jax.utils.console import aligned, stage
from dien_jax.utils.machine import machine_bytes, require_memory
from dien_jax.utils.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEED = 0
"""Random seed of the permutations."""


class Input(NamedTuple):
    """Features that are exchanged together, or histories, which have no ``features``.

    ``kind`` is ``"item"`` for features of the candidate, ``"user"``, ``"context"``, ``"history"``
    for whole histories, ``"order"`` for the order within each history, or ``"statistics"`` for the
    counts of training events, which become those of another example's candidate.
    """

    name: str
    kind: str
    features: tuple[str, ...] = ()


class InputImportance(NamedTuple):
    """AUC lost when an input is exchanged, on average, and the AUC of each permutation."""

    input: str
    drop: Difference
    aucs: list[float]


class Importance(NamedTuple):
    """Importance of the inputs of a model, the most important first.

    ``split`` and ``examples`` name and count what is scored; ``auc`` is that without an exchange.
    """

    split: str
    examples: int
    auc: float
    inputs: list[InputImportance]


def model_inputs(schema: Schema, statistics: bool) -> list[Input]:
    """Return the inputs of a model with these features, and with or without statistics."""

    def whole_and_parts(title: str, kind: str, features: Sequence[Feature]) -> list[Input]:
        names = tuple(feature.name for feature in features)
        parts = [Input(f"{title}: {n}{' id' * (n == kind)}", kind, (n,)) for n in names]
        return [Input(title, kind, names), *(parts if len(parts) > 1 else [])]

    return [
        *whole_and_parts("candidate", "item", schema.item),
        *whole_and_parts("user", "user", schema.user),
        *(Input(f"context: {f.name}", "context", (f.name,)) for f in schema.context),
        Input("history", "history"),
        Input("history order", "order"),
        *([Input("statistics", "statistics")] if statistics else []),
    ]


def permutation_importance(
    trained: TrainedModel, split: str = "valid", permutations: int = 5
) -> Importance:
    """Measure the importance of every input, and show progress on standard error.

    Args:
      trained: the model and its data.
      split: ``"train"``, ``"valid"`` or ``"test"``.
      permutations: number of random exchanges of each input, at least 1.

    Raises:
      UserError: if the split has fewer than two examples of either label, or the scores exceed
        the memory.

    >>> from dien_jax import load_run
    >>> importance = permutation_importance(load_run("runs/first"), "valid", permutations=1)
    >>> len(importance.inputs[0].aucs), importance.split
    (1, 'valid')
    """
    dataset = trained.dataset
    check_examples(dataset, split)
    labels = np.asarray(dataset.splits[split].label)
    clicks = int(labels.sum())
    if min(clicks, len(labels) - clicks) < 2:
        raise UserError(
            f"{dataset.path}: the {split} split has {clicks} clicks among {len(labels)} examples; "
            f"the importance of inputs needs two or more of either label"
        )
    needed, subject = 4 * permutations * len(labels), f"the scores of {permutations:,} permutations"
    require_memory(needed, machine_bytes(), subject, "choose fewer --permutations")
    config = trained.run.config
    inputs, measured = model_inputs(dataset.schema, config.model.statistics), []
    features, step = trained.feature_tables(), make_exchanged_step(config, dataset.schema)
    with stage(f"scoring {len(labels):,} {split} examples") as current:
        unchanged = trained_scores(trained, split)
        area = auc(labels, unchanged)
        assert area is not None
        for number, input_ in enumerate(inputs):
            scores = np.empty((permutations, len(labels)), np.float32)
            for turn in range(permutations):
                current.note = f"{input_.name}, permutation {turn + 1} of {permutations}"
                current.share = (number + turn / permutations) / len(inputs)
                random = np.random.default_rng((SEED, number, turn))
                scores[turn] = exchanged_scores(trained, features, step, split, input_, random)
            drop = delong(labels, unchanged, scores)
            assert drop is not None
            aucs = [value for row in scores if (value := auc(labels, row)) is not None]
            measured.append(InputImportance(input_.name, drop, aucs))
        current.note = f"{len(inputs)} inputs, permutations of each: {permutations}"
    measured.sort(key=lambda importance: -importance.drop.value)
    return Importance(split, len(labels), area, measured)


def _shuffled(batch: Batch, random: np.random.Generator) -> np.ndarray:
    """Return the live steps of each history in a random order, int32 ``[B, T]``."""
    history = np.asarray(batch.history)
    live = is_live(np.asarray(batch.lengths), history.shape[1])
    keys = np.where(live, random.random(history.shape), 2.0)
    return np.take_along_axis(history, np.argsort(keys, axis=1), axis=1)


def exchanged_scores(
    trained: TrainedModel,
    features: FeatureTables,
    step: Callable[..., jax.Array],
    split: str,
    input_: Input,
    random: np.random.Generator,
) -> np.ndarray:
    """Return the click probabilities of a split with an input exchanged, float32 ``[n]``.

    ``features`` are those of :meth:`TrainedModel.feature_tables`; see :func:`make_exchanged_step`.
    """
    config, dataset = trained.run.config, trained.dataset
    ours = dataset.splits[split]
    other = ours.take(random.permutation(len(ours.label)))
    if input_.kind == "history":
        ours = ours._replace(sequence=other.sequence, history_end=other.history_end)
    theirs = ours._replace(item=other.item, user=other.user, context=other.context)
    loader, other_loader = (  # batches of the same rows, because histories alone decide the order
        evaluation_loader(replace(dataset, splits={split: examples}), split, config.train)
        for examples in (ours, theirs)
    )
    exchanged = {
        kind: np.array([kind == input_.kind and f.name in input_.features for f in group], bool)
        for kind, group in vars(dataset.schema).items()
    }
    exchanged["statistics"] = np.array([input_.kind == "statistics"])
    with closing(other_loader.epoch(0)) as others:

        def predict_step(params: Any, stats: Any, features: Any, batch: Batch) -> jax.Array:
            if input_.kind == "order":
                batch = batch._replace(history=_shuffled(batch, random))
            return step(params, stats, features, batch, next(others), exchanged)

        return score_batches(predict_step, trained.params, trained.batch_stats, features, loader)


def make_exchanged_step(config: Config, schema: Schema) -> Callable[..., jax.Array]:
    """Return the jitted ``score(params, batch_stats, features, batch, other, exchanged)``, ``[B]``.

    ``other`` has the histories of ``batch`` with candidates, users and contexts of other examples;
    ``exchanged`` says for each feature of the groups ``item``, ``user`` and ``context`` whether it
    is taken from there, bool ``[F]``; so does ``statistics``, bool ``[1]``, of all of them.
    """
    model = ClickModel(config.model, schema)

    def logits(
        module: ClickModel, features: FeatureTables, batch: Batch, other: Batch, exchanged: dict
    ) -> jax.Array:
        def mixed(group: str, ours: Any, theirs: Any) -> Any:
            if ours is None:  # no context features, or no tower
                return None
            is_theirs = jnp.asarray(exchanged[group])
            if group != "terms":
                is_theirs = jnp.repeat(is_theirs, config.model.embedding_size)
            return jnp.where(is_theirs[None], theirs, ours)

        ours, theirs = (module.row_inputs(given, features) for given in (batch, other))
        terms = jnp.concatenate([exchanged[g] for g in ("item", "user", "context", "statistics")])
        exchanged = exchanged | {"terms": terms}
        rows = RowInputs(*map(mixed, ("item", "user", "context", "terms"), ours, theirs))
        lengths = jnp.asarray(batch.lengths)
        history = module.embed_items(jnp.asarray(batch.history), features)
        encoded = module.encode_history(history, lengths)
        real = jnp.asarray(batch.weight) > 0
        return module.score(encoded.states, history, lengths, rows, real)[0]

    def score(params: Any, batch_stats: Any, *inputs: Any) -> jax.Array:
        variables = {"params": params, "batch_stats": batch_stats}
        return jax.nn.sigmoid(jnp.asarray(model.apply(variables, *inputs, method=logits)))

    return jax.jit(score)


def importance_table(importance: Importance) -> str:
    """Return the importance of every input as a table for a terminal."""
    permutations = len(importance.inputs[0].aucs)
    rows = [["input", "AUC drop", "95% interval", f"sd over {permutations}"]]
    for name, drop, aucs in importance.inputs:
        deviation = f"{np.std(aucs, ddof=1):.4f}" if permutations > 1 else "-"
        interval = f"{_signed(drop.low)} to {_signed(drop.high)}"
        rows.append([name, _signed(drop.value), interval, deviation])
    title = f"{_title(importance)}; AUC lost when an input is exchanged among them:"
    return f"{title}\n\n{aligned(rows, left=1)}"


def _title(importance: Importance) -> str:
    return f"AUC {importance.auc:.4f} on {importance.examples:,} {importance.split} examples"


def _signed(value: float) -> str:
    return f"{round(value, 4) + 0.0:+.4f}"  # adding 0.0 turns -0.0 into 0.0


def draw_importance(importance: Importance) -> "Figure":
    """Draw the drops in AUC with their 95% intervals, the largest on top; needs matplotlib."""
    inputs = importance.inputs
    figure, [axes] = new_figure(7.5, 1.3 + 0.32 * len(inputs))
    places = range(len(inputs))
    axes.barh(places, [measured.drop.value for measured in inputs], color="C0", height=0.6)
    for place, measured in enumerate(inputs):
        axes.plot([measured.drop.low, measured.drop.high], [place, place], color="0.2", lw=1.5)
    axes.set_yticks(places, [measured.input for measured in inputs], parse_math=False)
    axes.invert_yaxis()
    axes.axvline(0, color="0.3", lw=0.8)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("AUC lost when the input is exchanged among examples (lines: 95% intervals)")
    title = f"{_title(importance)}, mean of {len(inputs[0].aucs)} permutations"
    axes.set_title(title, fontsize="medium")
    return figure
