"""The training step: one jitted, donated, pure function of state, tables and batch.

    sample auxiliary negatives -> forward -> both losses -> gradients -> optimiser update

Where ``optim.embedding_update`` is not dense, it works on :mod:`~dien_jax.steps.embedding_rows`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dien_jax.config.settings import Config
from dien_jax.data.batch import Batch
from dien_jax.data.schema import UNKNOWN, Schema
from dien_jax.data.tables import FeatureTables
from dien_jax.model import devices
from dien_jax.model.interest import InterestModel, with_statistics
from dien_jax.steps.embedding_rows import look_up, put_rows, tables_by_row, take_rows
from dien_jax.steps.losses import click_loss, halved_click_loss
from dien_jax.steps.negatives import Sampler, auxiliary_negatives
from dien_jax.steps.optimizer import make_optimizer
from dien_jax.steps.state import Tables, TrainState

Metrics = dict[str, jax.Array]


def draw(
    config: Config, sampler: Sampler | None, batch: Batch, key: jax.Array
) -> tuple[Batch, jax.Array | None, jax.Array]:
    """Return the batch with some ids unknown, the auxiliary negatives, and the key of dropout."""
    sample_key, dropout_key, user_key = jax.random.split(key, 3)
    batch = with_unknown_items(config, batch, user_key)
    negatives = None
    if draws_negatives(config, batch):
        assert sampler is not None
        negatives = auxiliary_negatives(
            sampler, sample_key, jnp.asarray(batch.history), config.model.auxiliary_negatives
        )
        negatives = shown_instead(config, batch, negatives)
    return with_unknown_users(config, batch, user_key), negatives, dropout_key


def draws_negatives(config: Config, batch: Batch) -> bool:
    """Return whether a step on batches of this shape has an auxiliary loss."""
    return config.model.auxiliary_weight > 0 and batch.history.shape[1] > 1


def shown_instead(config: Config, batch: Batch, negatives: jax.Array) -> jax.Array:
    """Return the negatives, those of the batch where the configuration and the batch have them."""
    if config.model.auxiliary_distribution != "shown":
        return negatives
    if batch.shown is None:
        raise ValueError("auxiliary_distribution 'shown' needs batch.shown, got None")
    shown = jnp.asarray(batch.shown)
    return jnp.where(shown >= 0, shown, negatives)


def with_unknown_users(config: Config, batch: Batch, key: jax.Array) -> Batch:
    """Return the batch with some users replaced by the unknown user."""
    if not config.train.unknown_users:
        return batch
    user = jnp.asarray(batch.user)
    unknown = jax.random.bernoulli(key, config.train.unknown_users, user.shape)
    return batch._replace(user=jnp.where(unknown, UNKNOWN, user))


def with_unknown_items(config: Config, batch: Batch, user_key: jax.Array) -> Batch:
    """Return the batch with some candidates and behaviours replaced by the unknown item."""
    if not config.train.unknown_items:
        return batch
    return _with_unknown_items(batch, jax.random.fold_in(user_key, 1), config.train.unknown_items)


def _with_unknown_items(batch: Batch, key: jax.Array, share: float) -> Batch:
    """Return the batch with some candidates and behaviours replaced by the unknown item."""
    item, history = jnp.asarray(batch.item), jnp.asarray(batch.history)
    item_key, history_key = jax.random.split(key)
    is_unknown = jax.random.bernoulli(item_key, share, item.shape)
    own = batch.own  # of the item that was replaced
    if own is not None:
        own = jnp.where(is_unknown[:, None], jnp.zeros_like(own), jnp.asarray(own))
    return batch._replace(
        item=jnp.where(is_unknown, UNKNOWN, item),
        history=jnp.where(
            jax.random.bernoulli(history_key, share, history.shape), UNKNOWN, history
        ),
        own=own,
    )


def make_loss(
    config: Config, schema: Schema, axis: devices.Axis = None
) -> Callable[..., tuple[jax.Array, tuple]]:
    """Return ``loss(params, batch_stats, features, batch, negatives, dropout_key)`` of a network.

    It gives the loss, and the new running statistics with the metrics; loss and metrics are this
    device's shares if there is a mesh ``axis``.
    """
    model = InterestModel(config.model, schema, axis)
    click_loss_of = halved_click_loss if config.model.classifier == "softmax" else click_loss

    def loss(
        params: Any,
        batch_stats: Any,
        features: FeatureTables,
        batch: Batch,
        negatives: jax.Array | None,
        dropout_key: jax.Array,
    ) -> tuple[jax.Array, tuple[Any, Metrics]]:
        labels, weights = jnp.asarray(batch.label), jnp.asarray(batch.weight)
        output, changed = model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch,
            features,
            negatives,
            train=True,
            rngs={"dropout": dropout_key},
            mutable=["batch_stats"],
        )
        click = click_loss_of(output.logits, labels, weights, axis)
        total = click + config.model.auxiliary_weight * output.auxiliary_loss
        if config.optim.embedding_l2:
            total = total + config.optim.embedding_l2 * output.embedding_norm
        hits = (output.logits > 0) == (labels > 0.5)
        real = jnp.maximum(devices.total(weights.sum(), axis), 1)
        accuracy = (hits.astype(jnp.float32) * weights).sum() / real
        losses = {"loss": total, "click_loss": click, "auxiliary_loss": output.auxiliary_loss}
        metrics = {**losses, "accuracy": accuracy, "weight": weights.sum()}
        return total, (changed.get("batch_stats", batch_stats), metrics)

    return loss


def make_train_step(
    config: Config, schema: Schema, steps_per_epoch: int
) -> Callable[[TrainState, Tables, Batch], tuple[TrainState, Metrics]]:
    """Return the jitted step. It donates the state: the one passed in must not be used again.

    >>> from dien_jax import Loader, open_dataset, preset
    >>> from dien_jax.steps import create_state, make_train_step, training_tables
    >>> config, dataset = preset("din"), open_dataset("data")
    >>> loader = Loader(dataset, "train", config.train)
    >>> state = create_state(config, dataset.schema, loader.steps_per_epoch, seed=0)
    >>> step = make_train_step(config, dataset.schema, loader.steps_per_epoch)
    >>> state, metrics = step(state, training_tables(dataset, config), loader.batch(0, 0))
    >>> int(state.step), sorted(metrics)[:2]
    (1, ['accuracy', 'auxiliary_loss'])

    Metrics are device scalars, means over real rows: ``loss`` (with penalty), ``click_loss``,
    ``auxiliary_loss`` (unweighted), ``accuracy``, ``weight`` (real rows) and ``gradient_norm``.
    """
    optimizer = make_optimizer(config, schema, steps_per_epoch)
    compact = tables_by_row(config.optim.embedding_update, schema)

    def train_step(state: TrainState, tables: Tables, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        batch, negatives, dropout_key = draw(config, tables.sampler, batch, key)
        batch = with_statistics(config.model, schema, tables.features, batch)
        looked_up = look_up(schema, compact, tables.features, batch, negatives)
        loss = make_loss(config, looked_up.schema)

        whole = (state.params, state.optimizer_state)
        params, optimizer_state = take_rows(whole, looked_up.rows)
        inputs = (looked_up.features, looked_up.batch, looked_up.negatives, dropout_key)
        gradient = jax.grad(loss, has_aux=True)
        gradients, (batch_stats, metrics) = gradient(params, state.batch_stats, *inputs)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        params = optax.apply_updates(params, updates)
        params, optimizer_state = put_rows(whole, (params, optimizer_state), looked_up.rows)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        return TrainState(params, batch_stats, optimizer_state, state.step + 1, state.key), metrics

    return jax.jit(train_step, donate_argnums=0)
