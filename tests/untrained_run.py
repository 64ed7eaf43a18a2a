"""Run folders whose best checkpoint holds random parameters: all of a trained one but the time."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dien_jax.checkpoint import Checkpoints
from dien_jax.config import Config, ModelConfig, TrainConfig, member
from dien_jax.dataset import open_dataset
from dien_jax.run_folder import CHECKPOINTS_FOLDER, Run
from dien_jax.step import create_state

SMALL = ModelConfig(
    embedding_size=3,
    hidden_size=4,
    attention_layers=(5, 3),
    auxiliary_layers=(5,),
    layers=(6, 4),
)


def write(
    folder: Path,
    data: Path,
    *,
    model: str = "dien",
    buckets: tuple[int, ...] = (2, 4),
    **changes: object,
) -> Path:
    """A run folder of a member of the family, some fields of its model changed."""
    train = TrainConfig(batch_size=3, max_history=6, buckets=buckets)
    settings = member(model, SMALL)
    config = Config(model=ModelConfig(**(vars(settings) | changes)), train=train)
    dataset = open_dataset(data)
    Run.create(preset=model, seed=0, dataset=dataset, config=config).save(folder)
    state = create_state(config, dataset.schema, 1, seed=0)
    rng = np.random.default_rng(0)

    def moved(leaf: jax.Array) -> jax.Array:
        return leaf + jnp.asarray(rng.normal(size=leaf.shape) / 2, jnp.float32)

    state = state._replace(
        params=jax.tree.map(moved, state.params),
        batch_stats=jax.tree.map(lambda leaf: jnp.abs(moved(leaf)), state.batch_stats),
    )
    Checkpoints(folder / CHECKPOINTS_FOLDER).save(1, state, {}, best=True)
    return folder
