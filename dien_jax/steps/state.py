"""The state that a train step carries, and the tables it reads."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dien_jax.config.settings import Config, ModelConfig
from dien_jax.data.batch import blank_values, example_batch
from dien_jax.data.dataset import Dataset
from dien_jax.data.schema import Schema
from dien_jax.data.tables import FeatureTables, blank_factors, blank_statistics
from dien_jax.errors import UserError
from dien_jax.model.embeddings import EMBEDDING_INITIAL
from dien_jax.model.interest import InterestModel
from dien_jax.steps.memory import require_state_memory, require_step_memory
from dien_jax.steps.negatives import Sampler, host_sampler, make_sampler
from dien_jax.steps.optimizer import make_optimizer
from dien_jax.steps.sharding import Placement


class TrainState(NamedTuple):
    """Everything a run carries from step to step; step k uses ``fold_in(key, k)``."""

    params: Any
    batch_stats: Any
    optimizer_state: Any
    step: jax.Array
    key: jax.Array


class Tables(NamedTuple):
    """Constant inputs of a train step; the sampler is None without an auxiliary loss."""

    features: FeatureTables
    sampler: Sampler | None


def feature_tables(dataset: Dataset, model: ModelConfig, *, folds: bool = False) -> FeatureTables:
    """Return the tables that a model reads, on the default device; ``folds`` are for training.

    >>> from dien_jax import open_dataset, preset
    >>> from dien_jax.steps import feature_tables
    >>> sorted(feature_tables(open_dataset("data"), preset("dien").model).item)
    ['category']
    """
    return jax.tree.map(jnp.asarray, dataset.feature_tables(**model.reads, folds=folds))


def training_tables(dataset: Dataset, config: Config, placement: Placement | None = None) -> Tables:
    """Return the feature tables, and the sampler of auxiliary negatives that training needs.

    They are on the devices of a placement, or on the default device.

    >>> from dien_jax import open_dataset, preset
    >>> from dien_jax.steps import training_tables
    >>> training_tables(open_dataset("data"), preset("din")).sampler is None  # no auxiliary loss
    True
    """
    distribution = config.model.auxiliary_distribution
    needs_sampler, sampler = config.model.auxiliary_weight > 0, None
    if placement is None:
        if needs_sampler:
            sampler = make_sampler(dataset.popularity, distribution)
        return Tables(feature_tables(dataset, config.model, folds=True), sampler)
    if needs_sampler:
        sampler = Sampler(*map(placement.put_items, host_sampler(dataset.popularity, distribution)))
    features = dataset.feature_tables(**config.model.reads, folds=True)
    return Tables(placement.put_features(features), sampler)


def create_state(
    config: Config,
    schema: Schema,
    steps_per_epoch: int,
    seed: int,
    placement: Placement | None = None,
) -> TrainState:
    """Return the initial state, which configuration, schema and seed determine.

    On several devices a ``placement`` splits it; each device draws its own rows of split tables.

    >>> from dien_jax import open_dataset, preset
    >>> from dien_jax.steps import create_state
    >>> state = create_state(preset("din"), open_dataset("data").schema, 10, seed=0)
    >>> int(state.step), sorted(state.params)[:2]
    (0, ['attention', 'item_embeddings'])

    Raises:
      UserError: where the configured implementation of the recurrences cannot run here, a
        configured attention or evolution does not exist, or the state, a batch of the shortest
        histories or one history of ``max_history`` events exceeds the memory.
    """
    longest = config.train.max_history
    shortest = min((*config.train.buckets, longest))
    devices = 1 if placement is None else placement.devices
    require_step_memory(config, schema, config.train.batch_size, shortest, devices)
    require_step_memory(config, schema, devices, longest, devices)
    init_key, run_key = jax.random.split(jax.random.key(seed))
    initial = EMBEDDING_INITIAL if placement is None else placement.initial
    model = InterestModel(config.model, schema, initial=initial)
    optimizer = make_optimizer(config, schema, steps_per_epoch)

    def network(key: jax.Array) -> tuple[Any, Any]:
        groups = (schema.item[1:], schema.user[1:])
        item, user = ({f.name: blank_values(f, 1) for f in group} for group in groups)
        statistics = blank_statistics(schema) if config.model.statistics else {}
        reads = config.model.reads
        factors = blank_factors(schema, reads["transitions"]) if reads["factors"] else {}
        tables = jax.tree.map(jnp.asarray, FeatureTables(item, user, statistics, factors))
        negatives = jnp.zeros((1, 1, config.model.auxiliary_negatives), jnp.int32)
        batch = example_batch(schema)
        variables = model.init({"params": key, "dropout": key}, batch, tables, negatives)
        return variables["params"], variables.get("batch_stats", {})

    def initialise(key: jax.Array) -> tuple[Any, Any, Any]:
        params, batch_stats = network(key)
        if placement is not None:
            params = placement.split(params)
        return params, batch_stats, optimizer.init(params)

    initialised = jax.jit(initialise)
    try:
        shapes = initialised.eval_shape(init_key)
        if placement is None:
            require_state_memory(shapes, config, schema)
        else:
            shardings = placement.shardings(placement.specs(shapes))
            require_state_memory(shapes, config, schema, shardings)
            initialised = jax.jit(initialise, out_shardings=shardings)
        params, batch_stats, optimizer_state = initialised(init_key)
    except NotImplementedError as error:
        raise UserError(f"model.recurrence: {error}") from error
    state = TrainState(params, batch_stats, optimizer_state, jnp.zeros((), jnp.int32), run_key)
    if placement is None:
        return state
    return state._replace(step=placement.on_each(state.step), key=placement.on_each(run_key))


def placed_like(tree: Any, others: Any) -> Any:
    """Return arrays on the devices of others, arrays or shapes, and committed only as these are.

    A program is compiled again for arrays that are committed to a device.
    """

    def placed(array: Any, other: Any) -> jax.Array:
        is_committed = isinstance(other, jax.Array) and other.committed
        return jax.device_put(array, other.sharding if is_committed else None)

    return jax.tree.map(placed, tree, others)


def with_params(state: TrainState, params: Any) -> TrainState:
    """Return a state with other parameters, on the devices of those that they replace."""
    return state._replace(params=placed_like(params, state.params))


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Return whether every floating-point number of a tree is finite, a scalar."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()
