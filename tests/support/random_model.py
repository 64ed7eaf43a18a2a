"""Models of random parameters that no run folder holds: nothing is initialised, saved or read."""

import functools
from pathlib import Path

from dien_jax.config.presets import member
from dien_jax.config.settings import Config, ModelConfig, TrainConfig
from dien_jax.data.dataset import open_dataset
from dien_jax.runs.folder import Run
from dien_jax.runs.trained import TrainedModel
from support import untrained_run


@functools.cache
def trained(data: Path, model: str, **changes: object) -> TrainedModel:
    """A member of the family, some fields of its model changed; all batches have one shape."""
    settings = member(model, untrained_run.SMALL)
    config = Config(
        model=ModelConfig(**(vars(settings) | changes)),
        train=TrainConfig(batch_size=3, max_history=6, buckets=()),
    )
    dataset = open_dataset(data)
    run = Run.create(preset=model, seed=0, dataset=dataset, config=config)
    state = untrained_run.random_state(config, dataset.schema)
    return TrainedModel(run, dataset, state.params, state.batch_stats, step=0)
