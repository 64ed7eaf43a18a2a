"""The state that a train step carries, the tables it reads, and lower bounds on memory."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dien_jax.config.settings import Config, ModelConfig
from dien_jax.data.kinds import blank_values
from dien_jax.data.schema import Schema
from dien_jax.data.tables import FeatureTables, blank_counts, example_batch
from dien_jax.errors import UserError, require_unforked
from dien_jax.model.click_model import ClickModel
from dien_jax.model.interest import ATTENTION_LAYERS
from dien_jax.model.tower import Part, of_part
from dien_jax.steps.negatives import Sampler, make_sampler
from dien_jax.steps.optimizer import make_optimizer
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.rows import table_of
from dien_jax.utils.machine import require_memory

if TYPE_CHECKING:
    from dien_jax.data.dataset import Dataset


def parts(config: ModelConfig) -> tuple[Part, ...]:
    """Return the parts of a model in the order in which they are trained."""
    return ("tower", "network") if config.statistics else ("network",)


def compiler_options(config: Config) -> dict[str, Any] | None:
    """Return the options with which the programs of training are compiled, if there are any.

    XLA reads its flags once, and may have read them before the settings were known.
    """
    return {"xla_gpu_deterministic_ops": True} if config.train.deterministic else None


class TrainState(NamedTuple):
    """Everything a run carries from step to step; step k uses ``fold_in(key, k)``.

    ``optimizer_state`` has the state of each part of the model, by name.
    """

    params: Any
    batch_stats: Any
    optimizer_state: Any
    step: jax.Array
    key: jax.Array


class Tables(NamedTuple):
    """Constant inputs of a train step; the sampler is None without an auxiliary loss."""

    features: FeatureTables
    sampler: Sampler | None


def feature_tables(dataset: "Dataset", model: ModelConfig, *, folds: bool = False) -> FeatureTables:
    """Return the tables that a model reads, on the default device; ``folds`` adds training's.

    >>> from dien_jax import open_dataset, preset
    >>> from dien_jax.steps import feature_tables
    >>> sorted(feature_tables(open_dataset("data"), preset("dien").model).item)
    ['category']
    """
    require_unforked()
    return jax.tree.map(
        jnp.asarray, dataset.feature_tables(statistics=model.statistics, folds=folds)
    )


def training_tables(dataset: "Dataset", config: Config, place: OneDevice | None = None) -> Tables:
    """Return the feature tables, and the sampler of auxiliary negatives that training needs.

    They are on the devices of a ``place``, or on the default device.

    >>> from dien_jax import open_dataset, preset
    >>> from dien_jax.steps import training_tables
    >>> training_tables(open_dataset("data"), preset("din")).sampler is None  # no auxiliary loss
    True
    """
    require_unforked()
    place = place or OneDevice(dataset.schema)
    features = place.put_features(
        dataset.feature_tables(statistics=config.model.statistics, folds=True)
    )
    if not config.model.auxiliary_weight:
        return Tables(features, None)
    sampler = make_sampler(dataset.popularity)
    return Tables(features, Sampler(*map(place.put_items, sampler)))


def create_state(
    config: Config, schema: Schema, steps_per_epoch: int, seed: int, place: OneDevice | None = None
) -> TrainState:
    """Return the initial state, a function of configuration, schema and seed.

    A ``place`` of several devices shards it: each initializes its own rows of large tables.

    >>> from dien_jax import open_dataset, preset
    >>> from dien_jax.steps import create_state
    >>> state = create_state(preset("din"), open_dataset("data").schema, 10, seed=0)
    >>> int(state.step), sorted(state.params)[:2]
    (0, ['item_embeddings', 'mlp'])

    Raises:
      UserError: the configured implementation of the recurrences cannot run here, a configured
        attention or evolution does not exist, or the state exceeds the memory.
    """
    require_unforked()
    place = place or OneDevice(schema)
    init_key, run_key = jax.random.split(jax.random.key(seed))
    settings = config.model
    if settings.implementation == "auto":  # choosing one takes seconds; parameters are the same
        settings = dataclasses.replace(settings, implementation="xla")
    model = ClickModel(settings, schema, initial=place.initial)

    def initialise(key: jax.Array) -> tuple[Any, Any, Any]:
        item, user = (blank_values(features[1:], 1) for features in (schema.item, schema.user))
        counts: Any = blank_counts(schema) if config.model.statistics else ()
        tables = jax.tree.map(jnp.asarray, FeatureTables(item, user, *counts))
        negatives = jnp.zeros((1, 1, config.model.auxiliary_negatives), jnp.int32)
        batch = example_batch(schema)
        variables = model.init({"params": key, "dropout": key}, batch, tables, negatives)
        params = place.split(variables["params"])
        slots = {
            part: make_optimizer(config, steps_per_epoch, part).init(of_part(params, part))
            for part in parts(config.model)
        }
        return params, variables.get("batch_stats", {}), slots

    try:
        shapes = jax.jit(initialise).eval_shape(init_key)
        shardings = place.shardings(shapes)
        require_state_memory(shapes, config, place, shardings)
        params, batch_stats, slots = jax.jit(initialise, out_shardings=shardings)(init_key)
    except NotImplementedError as error:
        raise UserError(f"model.implementation: {error}") from error
    step = jnp.zeros((), jnp.int32)
    return TrainState(params, batch_stats, slots, place.on_each(step), place.on_each(run_key))


def tower_of(state: TrainState) -> tuple[Any, Any]:
    """Return a copy of the parameters and the running statistics of a state's tower."""
    tower = of_part(state.params, "tower"), of_part(state.batch_stats, "tower")
    return jax.tree.map(jnp.copy, tower)  # a step donates the state


def all_finite(tree: Any) -> bool:
    """Return whether every floating-point number of a tree is finite.

    On a CPU, NumPy checks the arrays, because a JAX program would take seconds to compile.
    """
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    if all(leaf.is_fully_addressable and leaf.platform() == "cpu" for leaf in floats):
        return all(np.isfinite(leaf).all() for leaf in floats)
    return bool(_all_finite(floats))


@jax.jit
def _all_finite(floats: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()


def require_state_memory(
    shapes: Any, config: Config, place: OneDevice, shardings: Any = None
) -> None:
    """Refuse parameters and optimizer state that are larger than the device's memory.

    ``shapes`` are parameters first, then everything else; ``shardings`` say which part of them each
    of several devices holds. Dense updates also need memory for gradients, at least for the largest
    one; tables that are updated by row do not.
    """
    counts = jax.tree.map(lambda leaf: leaf.size, shapes)
    if shardings is not None:
        counts = jax.tree.map(
            lambda leaf, split: math.prod(split.shard_shape(leaf.shape)), shapes, shardings
        )
    sizes = jax.tree.map(lambda count, leaf: count * leaf.dtype.itemsize, counts, shapes)
    by_row = place.tables_by_row(config.optim.embedding_update)
    named = jax.tree_util.tree_leaves_with_path(sizes[0])
    gradient = max(size for path, size in named if table_of(path) not in by_row)
    where = f" on each of {place.devices} devices" if place.devices > 1 else ""
    subject = f"{sum(jax.tree.leaves(counts[0])):,} parameters{where} and their optimizer state"
    advice = "choose smaller model sizes"
    needed = sum(jax.tree.leaves(sizes)) + gradient
    require_memory(needed, place.bytes_of_device(), subject, advice)


def require_step_memory(config: Config, place: OneDevice, rows: int, steps: int) -> None:
    """Refuse a training step on ``rows`` histories of ``steps`` events that exceeds the memory.

    Several devices have equal shares of the rows.
    """
    rows = -(-rows // place.devices)
    subject = f"the activations of {rows:,} histories of {steps:,} events"
    names = ["train.batch_size"] * (rows > 1) + ["train.max_history"]
    if config.model.auxiliary_weight:
        names.append("model.auxiliary_negatives")
    advice = f"choose a smaller {', '.join(names)} or model"
    needed = step_bytes(config, place.schema, rows, steps)
    require_memory(needed, place.bytes_of_device(), subject, advice)


def step_bytes(config: Config, schema: Schema, rows: int, steps: int) -> int:
    """Return the bytes of activations that a step's gradient reads: embeddings, states, layers.

    Arrays that a compiler may recompute or never store are left out.
    """
    model = config.model
    of_item = model.item_embedding_size or model.embedding_size
    embedding = (len(schema.item) - 1) * model.embedding_size + of_item
    numbers, ids = embedding, 1
    if model.extractor == "gru":
        numbers += model.hidden_size
    if model.evolution not in ("none", "attention"):
        numbers += model.hidden_size
    if model.evolution != "none" and model.attention == "mlp":
        numbers += sum(ATTENTION_LAYERS)
    if model.auxiliary_weight:
        numbers += (1 + model.auxiliary_negatives) * embedding
        ids += model.auxiliary_negatives
    size = jnp.dtype(model.compute).itemsize
    of_row = steps * numbers * size + sum(model.layers) * size
    return rows * (of_row + steps * 4 * ids)
