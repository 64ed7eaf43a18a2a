"""Models of random parameters that no run folder holds: nothing is initialised, saved or read."""

import functools
from pathlib import Path

import jax
import numpy as np
import untrained_run

from dien_jax.config import Config, ModelConfig, TrainConfig, member
from dien_jax.dataset import open_dataset
from dien_jax.run_folder import Run
from dien_jax.step import create_state
from dien_jax.trained import Trained


@functools.cache
def trained(data: Path, model: str, **changes: object) -> Trained:
    """A member of the family, some fields of its model changed; all batches have one shape."""
    settings = member(model, untrained_run.SMALL)
    config = Config(
        model=ModelConfig(**(vars(settings) | changes)),
        train=TrainConfig(batch_size=3, max_history=6, buckets=()),
    )
    dataset = open_dataset(data)
    run = Run.create(preset=model, seed=0, dataset=dataset, config=config)
    state = jax.eval_shape(lambda: create_state(config, dataset.schema, 1, 0))
    random = np.random.default_rng(0)

    def drawn(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.device_put(np.float32(random.normal(size=leaf.shape) / 2))

    params = jax.tree.map(drawn, state.params)
    batch_stats = jax.tree.map(lambda leaf: abs(drawn(leaf)) + 0.5, state.batch_stats)
    return Trained(run, dataset, params, batch_stats, step=0)
