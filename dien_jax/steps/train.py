"""The training step: one jitted, donated, pure function of state, tables and batch.

    random numbers of the whole batch
    on each device, for its rows of the batch:
      auxiliary negatives -> rows looked up -> forward -> both losses -> gradients -> update

A step trains one part of the model: the tower alone, or the network with the tower frozen. A
device's loss is its share of the loss of the whole batch, so gradients summed over devices are
those of the whole batch. On one device, nothing is summed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dien_jax.config.settings import Config
from dien_jax.data.schema import UNKNOWN, Schema
from dien_jax.data.tables import Batch, FeatureTables
from dien_jax.model.click_model import ClickModel
from dien_jax.model.layers import Axis, total
from dien_jax.model.tower import Part, of_part
from dien_jax.steps.negatives import RandomColumns, Sampler, random_columns, unequal
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.rows import look_up
from dien_jax.steps.state import Tables, TrainState, compiler_options

Metrics = dict[str, jax.Array]

WEIGHT_PENALTY = 0.03
"""Factor of the mean squared terms of feature values in the loss of the tower."""
LEARNED_PENALTY = 30.0
"""Factor of the mean squared distance of item embeddings from their initial vectors."""


def click_loss(
    logits: Float[Array, " B"],
    labels: Float[Array, " B"],
    weights: Float[Array, " B"],
    axis: Axis = None,
) -> Float[Array, ""]:
    """Return the cross-entropy of click logits in nats, a weighted mean over rows.

    It is finite for any finite logit. Filler rows have weight 0; a batch of filler alone gives 0.
    With ``axis``, the mesh axis of the rows, it is this device's share. Other shapes than ``[B]``
    are a ``ValueError``.

    >>> import jax.numpy as jnp
    >>> from dien_jax.steps import click_loss
    >>> round(float(click_loss(jnp.zeros(2), jnp.array([0.0, 1.0]), jnp.ones(2))), 4)  # log 2
    0.6931
    """
    _check_rows(logits, labels, weights)
    per_row = jax.nn.softplus(logits) - labels * logits
    return (per_row * weights).sum() / jnp.maximum(total(weights.sum(), axis), 1)


def halved_click_loss(
    logits: Float[Array, " B"],
    labels: Float[Array, " B"],
    weights: Float[Array, " B"],
    axis: Axis = None,
) -> Float[Array, ""]:
    """Return the click loss of the authors' program, a mean over rows and over two columns.

    The columns are softmax probabilities of click and no click, with 1e-8 added to each. The loss
    is half of :func:`click_loss`, except for confident mistakes, whose gradient vanishes.

    >>> import jax.numpy as jnp
    >>> from dien_jax.steps import halved_click_loss
    >>> round(float(halved_click_loss(jnp.zeros(2), jnp.array([0.0, 1.0]), jnp.ones(2))), 4)
    0.3466
    """
    _check_rows(logits, labels, weights)
    clicked = jax.nn.sigmoid(logits) + 1e-8
    passed = jax.nn.sigmoid(-logits) + 1e-8
    per_row = -(labels * jnp.log(clicked) + (1 - labels) * jnp.log(passed))
    return 0.5 * (per_row * weights).sum() / jnp.maximum(total(weights.sum(), axis), 1)


def _check_rows(*columns: jax.Array) -> None:
    """Check that logits, labels and weights are ``[B]``; broadcast, they would give a number."""
    shapes = [column.shape for column in columns]
    if len({(columns[0].size,), *shapes}) > 1:
        raise ValueError(f"logits, labels and weights: expected equal shapes [B], got {shapes}")


def randomised(
    config: Config, schema: Schema, batch: Batch, key: jax.Array, part: Part = "network"
) -> tuple[Batch, RandomColumns | None, jax.Array]:
    """Return the batch with some ids made unknown, random numbers of negatives, dropout's key."""
    train, random = config.train, None
    sample_key, dropout_key, user_key = jax.random.split(key, 3)
    if train.unknown_items:
        batch = replaced_items(batch, jax.random.fold_in(user_key, 1), train.unknown_items)
    is_auxiliary = part == "network" and config.model.auxiliary_weight > 0
    if is_auxiliary and batch.history.shape[1] > 1:
        history, count = jnp.asarray(batch.history), config.model.auxiliary_negatives
        random = random_columns(sample_key, schema.num_items, history, count)
    if train.unknown_users:
        user = jnp.asarray(batch.user)
        is_unknown = jax.random.bernoulli(user_key, train.unknown_users, user.shape)
        batch = batch._replace(user=jnp.where(is_unknown, UNKNOWN, user))
    return batch, random, dropout_key


def replaced_items(batch: Batch, key: jax.Array, share: float) -> Batch:
    """Return the batch with some candidates and behaviours replaced by the unknown item."""
    item, history = jnp.asarray(batch.item), jnp.asarray(batch.history)
    item_key, history_key = jax.random.split(key)
    is_unknown = jax.random.bernoulli(item_key, share, item.shape)
    is_hidden = jax.random.bernoulli(history_key, share, history.shape)
    own = batch.own  # bits of the original candidate
    if own is not None:
        own = jnp.where(is_unknown[:, None], jnp.zeros_like(own), jnp.asarray(own))
    item, history = jnp.where(is_unknown, UNKNOWN, item), jnp.where(is_hidden, UNKNOWN, history)
    return batch._replace(item=item, history=history, own=own)


def make_loss(
    config: Config, schema: Schema, axis: Axis = None, part: Part = "network"
) -> Callable[..., tuple[jax.Array, tuple]]:
    """Return ``loss(params, fixed, batch_stats, features, batch, negatives, dropout_key)``.

    The function returns the loss of a part of the model, and new running statistics with metrics.
    ``params`` are its trained parameters, ``fixed`` the frozen ones. With a mesh ``axis``, loss and
    metrics are this device's shares. The tower's loss adds :data:`WEIGHT_PENALTY` times the squared
    terms of feature values, which keeps weights of rare values near 0.
    """
    model = ClickModel(config.model, schema, axis)
    click_loss_of = halved_click_loss if config.model.follow_authors else click_loss

    def loss(
        params: Any,
        fixed: Any,
        batch_stats: Any,
        features: FeatureTables,
        batch: Batch,
        negatives: jax.Array | None,
        dropout_key: jax.Array,
    ) -> tuple[jax.Array, tuple[Any, Metrics]]:
        labels, weights = jnp.asarray(batch.label), jnp.asarray(batch.weight)
        variables = {"params": {**params, **fixed}, "batch_stats": batch_stats}
        options: Any = {"rngs": {"dropout": dropout_key}, "mutable": ["batch_stats"]}
        real = jnp.maximum(total(weights.sum(), axis), 1)
        if part == "tower":
            options["method"] = "tower_terms"
            terms, changed = model.apply(variables, batch, features, train=True, **options)
            logits, auxiliary = terms.sum(1), jnp.zeros(())
            penalty = WEIGHT_PENALTY * ((terms[:, :-1] ** 2).sum(1) * weights).sum() / real
        else:
            output, changed = model.apply(
                variables, batch, features, negatives, train=True, **options
            )
            logits, auxiliary = output.logits, output.auxiliary_loss
            penalty = config.model.auxiliary_weight * auxiliary + LEARNED_PENALTY * output.learned
        click = click_loss_of(logits, labels, weights, axis)
        hits = (logits > 0) == (labels > 0.5)
        accuracy = (hits.astype(jnp.float32) * weights).sum() / real
        losses = {"loss": click + penalty, "click_loss": click, "auxiliary_loss": auxiliary}
        metrics = {**losses, "accuracy": accuracy, "weight": weights.sum()}
        return losses["loss"], (changed.get("batch_stats", batch_stats), metrics)

    return loss


def make_train_step(
    config: Config,
    schema: Schema,
    steps_per_epoch: int,
    place: OneDevice | None = None,
    part: Part = "network",
) -> Callable[[TrainState, Tables, Batch], tuple[TrainState, Metrics]]:
    """Return the jitted step, which trains a part of the model.

    It donates its state: do not use the state that you passed in again.

    >>> from dien_jax import Loader, open_dataset, preset
    >>> from dien_jax.steps import create_state, make_train_step, training_tables
    >>> config, dataset = preset("din"), open_dataset("data")
    >>> loader = Loader(dataset, "train", config.train)
    >>> state = create_state(config, dataset.schema, loader.steps_per_epoch, seed=0)
    >>> step = make_train_step(config, dataset.schema, loader.steps_per_epoch)
    >>> state, metrics = step(state, training_tables(dataset, config), loader.batch(0, 0))
    >>> int(state.step), sorted(metrics)[:2]
    (1, ['accuracy', 'auxiliary_loss'])

    Metrics are device scalars, means over real rows: ``loss``, ``click_loss``,
    ``auxiliary_loss`` (unweighted), ``accuracy``, ``weight`` (real rows) and ``gradient_norm``.

    With a ``place`` of several devices, state, tables and batch must be placed by it. Parameters
    and metrics equal those of one device up to rounding. A further metric, ``further_rounds``,
    counts the exchanges of rows beyond the first one of each table.
    """
    place = place or OneDevice(schema)
    by_row = place.tables_by_row(config.optim.embedding_update)
    gradient = jax.grad(make_loss(config, schema, place.axis, part), has_aux=True)
    update = place.make_update(config, steps_per_epoch, part)

    def on_device(
        trained: tuple[Any, Any, Any],
        features: FeatureTables,
        sampler: Sampler | None,
        batch: Batch,
        random: RandomColumns | None,
        dropout_key: jax.Array,
    ) -> tuple[tuple[Any, Any, Any], Metrics]:
        params, batch_stats, slots = trained
        read = of_part(params, part) if part == "tower" else params
        negatives = None
        if random is not None:
            assert sampler is not None
            following = jnp.asarray(batch.history)[:, 1:, None]
            negatives = unequal(place.drawn(sampler, random), following)
        gather = place.gather(read, by_row)
        found = look_up(config.model, schema, gather, features, batch, negatives)
        rows, of_slots = gather.compact(read, slots[part])
        learned = of_part(rows, part)
        fixed = {name: leaf for name, leaf in rows.items() if name not in learned}
        inputs = (found.features, found.batch, found.negatives, dropout_key)
        gradients, (batch_stats, metrics) = gradient(learned, fixed, batch_stats, *inputs)
        whole = (of_part(params, part), slots[part])
        changed, changed_slots, norm = update(whole, (learned, of_slots), gather, gradients)
        metrics = {**place.total(metrics), "gradient_norm": norm, **gather.metrics()}
        return ({**params, **changed}, batch_stats, {**slots, part: changed_slots}), metrics

    kinds = ("state", "features", "items", "batch", "draws", "whole")
    on_devices = place.mapped(on_device, kinds, ("state", "whole"))

    def train_step(state: TrainState, tables: Tables, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        batch, random, dropout_key = randomised(config, schema, batch, key, part)
        trained = (state.params, state.batch_stats, state.optimizer_state)
        trained, metrics = on_devices(trained, *tables, batch, random, dropout_key)
        params, batch_stats, slots = trained
        return TrainState(params, batch_stats, slots, state.step + 1, state.key), metrics

    return jax.jit(train_step, donate_argnums=0, compiler_options=compiler_options(config))
