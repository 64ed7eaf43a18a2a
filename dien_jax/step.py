"""The training step: one jitted, donated, pure function of state, tables and batch.

    sample auxiliary negatives -> forward -> both losses -> gradients -> optimiser update

With ``optim.embedding_update`` other than ``dense``, all but the sampling works on the rows that
the batch looks up; see :mod:`dien_jax.embedding_rows`.

Randomness is ``fold_in(state.key, state.step)``, so a step depends on nothing but its arguments.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dien_jax.config import Config, OptimConfig
from dien_jax.dataset import Dataset
from dien_jax.embedding_rows import (
    Table,
    large_tables,
    look_up,
    put_rows,
    scale_by_rowwise_adagrad,
    table_of,
    take_rows,
)
from dien_jax.errors import UserError
from dien_jax.losses import click_loss, halved_click_loss
from dien_jax.models import InterestModel, ModelOutput
from dien_jax.sampling import Sampler, auxiliary_negatives, make_sampler
from dien_jax.schema import UNKNOWN, Batch, FeatureTables, MultiValued, Schema

Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
    """Everything a run carries from step to step.

    Attributes:
      params: the model's parameters, a plain tree of float32 arrays.
      batch_stats: running statistics; empty where the model has none.
      optimizer_state: optax's.
      step: int32 scalar, steps taken.
      key: typed PRNG key, never changed: step k uses ``fold_in(key, k)``.
    """

    params: Any
    batch_stats: Any
    optimizer_state: Any
    step: jax.Array
    key: jax.Array


class Tables(NamedTuple):
    """What a step reads besides state and batch, on the device once."""

    features: FeatureTables
    sampler: Sampler


def device_tables(dataset: Dataset, config: Config) -> Tables:
    """Feature tables and the auxiliary sampler of a dataset, copied to the default device."""
    features = FeatureTables(dataset.item_tables(), dataset.user_tables())
    return Tables(
        jax.tree.map(jnp.asarray, features),
        make_sampler(dataset.popularity, config.model.auxiliary_distribution),
    )


def learning_rate(config: OptimConfig, steps_per_epoch: int, epochs: int) -> optax.Schedule:
    """The learning rate at each step, warm-up included."""
    peak = config.learning_rate
    if config.schedule == "halving":
        schedule = optax.exponential_decay(peak, steps_per_epoch, 0.5, staircase=True)
    elif config.schedule == "cosine":
        total = steps_per_epoch * epochs
        schedule = optax.cosine_decay_schedule(peak, max(total - config.warmup_steps, 1))
    else:
        schedule = optax.constant_schedule(peak)
    if not config.warmup_steps:
        return schedule
    rise = optax.linear_schedule(0.0, peak, config.warmup_steps)
    return optax.join_schedules([rise, schedule], [config.warmup_steps])


def make_optimizer(
    config: Config, schema: Schema, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Adam or AdamW with the configured schedule, clipping and decay.

    Large embedding tables have row-wise Adagrad instead where ``embedding_update`` says so.
    """
    optim = config.optim
    schedule = learning_rate(optim, steps_per_epoch, config.train.epochs)
    if optim.name == "adam":
        update = optax.adam(schedule)
    else:
        update = optax.adamw(schedule, weight_decay=optim.weight_decay, mask=_decayed)
    if optim.embedding_update == "rowwise_adagrad":
        of_tables = dataclasses.replace(optim, learning_rate=optim.embedding_learning_rate)
        of_rows = optax.chain(
            scale_by_rowwise_adagrad(),
            optax.scale_by_learning_rate(
                learning_rate(of_tables, steps_per_epoch, config.train.epochs)
            ),
        )
        large = large_tables(schema)

        def kinds(params: Any) -> Any:
            return jax.tree_util.tree_map_with_path(
                lambda path, _: "table" if table_of(path) in large else "rest", params
            )

        update = optax.partition({"table": of_rows, "rest": update}, kinds)
    if optim.clip_norm is not None:
        update = optax.chain(optax.clip_by_global_norm(optim.clip_norm), update)

    def lenient(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # Optax raises floats to an int32 count, which strict dtype promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            return update.update(gradients, state, params)

    return optax.GradientTransformation(update.init, lenient)


def _decayed(params: Any) -> Any:
    """Weight decay touches matrices, but neither embeddings nor vectors."""

    def decays(path: tuple, leaf: jax.Array) -> bool:
        return leaf.ndim > 1 and not str(path[0].key).endswith("_embeddings")

    return jax.tree_util.tree_map_with_path(decays, params)


def example_batch(schema: Schema, *, batch_size: int = 1, steps: int = 2) -> Batch:
    """A batch of filler in the shapes that a dataset of this schema gives."""

    def values(kind: str, max_values: int | None) -> Any:
        if kind == "numeric":
            return np.zeros(batch_size, np.float32)
        ids = np.zeros(batch_size, np.int32)
        if kind == "categorical":
            return ids
        return MultiValued(np.zeros((batch_size, max_values or 1), np.int32), ids)

    return Batch(
        history=np.zeros((batch_size, steps), np.int32),
        lengths=np.zeros(batch_size, np.int32),
        item=np.zeros(batch_size, np.int32),
        user=np.zeros(batch_size, np.int32),
        label=np.zeros(batch_size, np.float32),
        weight=np.zeros(batch_size, np.float32),
        context={f.name: values(f.kind, f.max_values) for f in schema.context},
    )


def create_state(config: Config, schema: Schema, steps_per_epoch: int, seed: int) -> TrainState:
    """A fresh state; every array is a function of the configuration, the schema and the seed.

    Raises:
      UserError: where the configured implementation of the recurrences cannot run here.
    """
    key = jax.random.key(seed)
    init_key, run_key = jax.random.split(key)
    model = InterestModel(config.model, schema)
    optimizer = make_optimizer(config, schema, steps_per_epoch)

    def initialise(key: jax.Array) -> tuple[Any, Any, Any]:
        def zeros(size: int, kind: str, max_values: int | None) -> Any:
            ids = jnp.zeros(size, jnp.int32)
            if kind == "numeric":
                return jnp.zeros(size, jnp.float32)
            if kind == "categorical":
                return ids
            return MultiValued(jnp.zeros((size, max_values or 1), jnp.int32), ids)

        tables = FeatureTables(
            {f.name: zeros(1, f.kind, f.max_values) for f in schema.item[1:]},
            {f.name: zeros(1, f.kind, f.max_values) for f in schema.user[1:]},
        )
        negatives = jnp.zeros((1, 1, config.model.auxiliary_negatives), jnp.int32)
        batch = example_batch(schema)
        variables = model.init({"params": key, "dropout": key}, batch, tables, negatives)
        params = variables["params"]
        return params, variables.get("batch_stats", {}), optimizer.init(params)

    try:
        params, batch_stats, optimizer_state = jax.jit(initialise)(init_key)
    except NotImplementedError as error:
        raise UserError(f"model.recurrence: {error}") from error
    return TrainState(params, batch_stats, optimizer_state, jnp.zeros((), jnp.int32), run_key)


def make_loss(config: Config, schema: Schema) -> Callable[..., tuple[jax.Array, tuple]]:
    """``loss(params, batch_stats, tables, batch, key) -> (loss, (batch_stats, metrics))``."""
    of_drawn = _loss_of_drawn(config, schema)

    def loss(
        params: Any, batch_stats: Any, tables: Tables, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, Metrics]]:
        batch, negatives, dropout_key = _draw(config, tables.sampler, batch, key)
        return of_drawn(params, batch_stats, tables.features, batch, negatives, dropout_key)

    return loss


def _draw(
    config: Config, sampler: Sampler, batch: Batch, key: jax.Array
) -> tuple[Batch, jax.Array | None, jax.Array]:
    """The batch with some users unknown, the auxiliary negatives, and the key of dropout."""
    sample_key, dropout_key, user_key = jax.random.split(key, 3)
    negatives = None
    if config.model.auxiliary_weight > 0 and batch.history.shape[1] > 1:
        negatives = auxiliary_negatives(
            sampler, sample_key, jnp.asarray(batch.history), config.model.auxiliary_negatives
        )
        if config.model.auxiliary_distribution == "shown":
            if batch.shown is None:
                raise ValueError("auxiliary_distribution 'shown' needs batch.shown, got None")
            shown = jnp.asarray(batch.shown)
            negatives = jnp.where(shown >= 0, shown, negatives)
    if config.train.unknown_users:
        user = jnp.asarray(batch.user)
        unknown = jax.random.bernoulli(user_key, config.train.unknown_users, user.shape)
        batch = batch._replace(user=jnp.where(unknown, UNKNOWN, user))
    return batch, negatives, dropout_key


def _loss_of_drawn(config: Config, schema: Schema) -> Callable[..., tuple[jax.Array, tuple]]:
    """``loss(params, batch_stats, features, batch, negatives, dropout_key)``."""
    model = InterestModel(config.model, schema)
    of_clicks = halved_click_loss if config.model.classifier == "softmax" else click_loss

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
        click = of_clicks(output.logits, labels, weights)
        total = click + config.model.auxiliary_weight * output.auxiliary_loss
        if config.optim.embedding_l2:
            total = total + config.optim.embedding_l2 * output.embedding_norm
        hits = (output.logits > 0) == (labels > 0.5)
        real = jnp.maximum(weights.sum(), 1)
        metrics = {
            "loss": total,
            "click_loss": click,
            "auxiliary_loss": output.auxiliary_loss,
            "accuracy": (hits.astype(jnp.float32) * weights).sum() / real,
            "weight": weights.sum(),
        }
        return total, (changed.get("batch_stats", batch_stats), metrics)

    return loss


def make_train_step(
    config: Config, schema: Schema, steps_per_epoch: int
) -> Callable[[TrainState, Tables, Batch], tuple[TrainState, Metrics]]:
    """The jitted step. It donates the state: the one passed in must not be used again.

    Metrics are device scalars: ``loss`` (with weights and penalty), ``click_loss``,
    ``auxiliary_loss`` (unweighted), ``accuracy`` at a probability of one half, ``weight`` (real
    rows of the batch) and ``gradient_norm``; means are over real rows.
    """
    optimizer = make_optimizer(config, schema, steps_per_epoch)
    is_dense = config.optim.embedding_update == "dense"
    compact = frozenset[Table]() if is_dense else large_tables(schema)

    def train_step(state: TrainState, tables: Tables, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        batch, negatives, dropout_key = _draw(config, tables.sampler, batch, key)
        found = look_up(schema, compact, tables.features, batch, negatives)
        whole = (state.params, state.optimizer_state)
        params, optimizer_state = take_rows(whole, found.rows)
        loss = _loss_of_drawn(config, found.schema)
        gradients, (batch_stats, metrics) = jax.grad(loss, has_aux=True)(
            params, state.batch_stats, found.features, found.batch, found.negatives, dropout_key
        )
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        params = optax.apply_updates(params, updates)
        params, optimizer_state = put_rows(whole, (params, optimizer_state), found.rows)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        return TrainState(params, batch_stats, optimizer_state, state.step + 1, state.key), metrics

    return jax.jit(train_step, donate_argnums=0)


def _forward(config: Config, schema: Schema) -> Callable[..., ModelOutput]:
    model = InterestModel(config.model, schema)

    def forward(params: Any, batch_stats: Any, tables: Tables, batch: Batch) -> ModelOutput:
        variables = {"params": params, "batch_stats": batch_stats}
        return cast(ModelOutput, model.apply(variables, batch, tables.features))

    return forward


def make_predict_step(
    config: Config, schema: Schema
) -> Callable[[Any, Any, Tables, Batch], jax.Array]:
    """Jitted ``predict(params, batch_stats, tables, batch)``: click probabilities ``[B]``."""
    forward = _forward(config, schema)

    def predict(params: Any, batch_stats: Any, tables: Tables, batch: Batch) -> jax.Array:
        return jax.nn.sigmoid(forward(params, batch_stats, tables, batch).logits)

    return jax.jit(predict)


def make_summary_step(
    config: Config, schema: Schema
) -> Callable[[Any, Any, Tables, Batch], dict[str, jax.Array]]:
    """Jitted ``summarise(params, batch_stats, tables, batch)``: what histograms are drawn of.

    Gives ``interest_states`` ``[B, T, H]`` and, where the model has them, ``attention``
    ``[B, T]`` and ``final_state`` ``[B, H]``; entries past a row's length are not live.
    """
    forward = _forward(config, schema)

    def summarise(params: Any, batch_stats: Any, tables: Tables, batch: Batch) -> Metrics:
        output = forward(params, batch_stats, tables, batch)
        found = {
            "interest_states": output.interest_states,
            "attention": output.attention,
            "final_state": output.final_state,
        }
        return {name: value for name, value in found.items() if value is not None}

    return jax.jit(summarise)
