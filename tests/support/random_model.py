"""Models of random parameters that no run folder holds: nothing is initialised, saved or read."""

import functools
from pathlib import Path

import numpy as np

from dien_jax.config.presets import member
from dien_jax.config.settings import Config, ModelConfig, TrainConfig
from dien_jax.data.dataset import open_dataset
from dien_jax.inference.ranker import Ranker
from dien_jax.runs.folder import Run
from dien_jax.runs.scoring import trained_scores
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


def check_ranking(model: TrainedModel) -> None:
    """Rankings of some test examples have the scores of an evaluation."""
    dataset, scores = model.dataset, trained_scores(model, "test")
    test, items = dataset.splits["test"], dataset.vocabulary("item")
    ranker = Ranker(model)
    for row in range(5):
        start, end = dataset.event_offsets[test.sequence[row]], test.history_end[row]
        history = [items[item] for item in dataset.event_item[start:end]]
        user = dataset.vocabulary("user")[test.user[row]]
        ranking = ranker.rank(history, [items[test.item[row]]], user)
        np.testing.assert_allclose(ranking.scores[0], scores[row], atol=1e-6)
