"""States, models and run folders of random parameters: all of trained ones but the time."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dien_jax.config.presets import member
from dien_jax.config.settings import Config, ModelConfig, TrainConfig
from dien_jax.data.dataset import open_dataset
from dien_jax.data.schema import Schema
from dien_jax.inference.ranker import Ranker
from dien_jax.runs.calibration import OFFSETS_FILE, list_offsets
from dien_jax.runs.checkpoints import Checkpoints
from dien_jax.runs.folder import CHECKPOINTS_FOLDER, Run
from dien_jax.runs.trained import TrainedModel, score_split
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.state import TrainState, create_state
from dien_jax.utils.files import write_array

TOLERANCE = {"rtol": 2e-5, "atol": 1e-7}
"""Of probabilities: a few roundings of float32 in logits of a few units."""
SMALL = ModelConfig(embedding_size=3, hidden_size=4, layers=(6, 4), statistics=True)


def random_state(config: Config, schema: Schema) -> TrainState:
    """Parameters and statistics that no initial value has, and nothing compiled to draw them."""
    like = jax.eval_shape(lambda: create_state(config, schema, 1, seed=0))
    random = np.random.default_rng(0)

    def drawn(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.device_put(np.float32(random.normal(size=leaf.shape) / 2))

    params = jax.tree.map(drawn, like.params)
    if "tower" in params:  # its many inputs would make logits of dozens
        params["tower"] = jax.tree.map(lambda leaf: leaf / 4, params["tower"])
    return TrainState(
        params=params,
        batch_stats=jax.tree.map(lambda leaf: abs(drawn(leaf)) + 0.5, like.batch_stats),
        optimizer_state=jax.tree.map(
            lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype)), like.optimizer_state
        ),
        step=jax.device_put(np.int32(0)),
        key=jax.random.key(0),
    )


@functools.cache
def random_variables(config: ModelConfig, schema: Schema) -> dict[str, Any]:
    """The parameters and statistics of such a state, as a model takes them."""
    state = random_state(Config(model=config), schema)
    return {"params": state.params, "batch_stats": state.batch_stats}


def config_of(model: str, buckets: tuple[int, ...], **changes: object) -> Config:
    """The settings of a member of the family, some fields of its model changed."""
    train = TrainConfig(batch_size=3, max_history=6, buckets=buckets)
    return Config(model=ModelConfig(**(vars(member(model, SMALL)) | changes)), train=train)


def write(
    folder: Path,
    data: Path,
    *,
    model: str = "dien",
    buckets: tuple[int, ...] = (2, 4),
    **changes: object,
) -> Path:
    """A run folder of a member of the family, some fields of its model changed."""
    config, dataset = config_of(model, buckets, **changes), open_dataset(data)
    Run.create(preset=model, seed=0, dataset=dataset, config=config).save(folder)
    write_array(folder / OFFSETS_FILE, list_offsets(dataset))
    state = random_state(config, dataset.schema)
    saved = OneDevice(dataset.schema).to_save(state)
    Checkpoints(folder / CHECKPOINTS_FOLDER).save(1, saved, {}, best=True)
    return folder


@functools.cache
def trained(data: Path, model: str, **changes: object) -> TrainedModel:
    """A member of the family, some fields of its model changed; all batches have one shape."""
    config, dataset = config_of(model, (), **changes), open_dataset(data)
    run = Run.create(preset=model, seed=0, dataset=dataset, config=config)
    state = random_state(config, dataset.schema)
    parameters = state.params, state.batch_stats
    return TrainedModel(run, dataset, *parameters, step=0, list_offsets=list_offsets(dataset))


def check_ranking(model: TrainedModel, split: str = "test", most: int = 5) -> np.ndarray:
    """Rankings of some examples have the scores of an evaluation, which are returned."""
    dataset, scores = model.dataset, score_split(model, split).scores
    examples, items = dataset.splits[split], dataset.vocabulary("item")
    names = {feature: dataset.vocabulary(feature) for feature in examples.columns}
    ranker = Ranker(model)
    for row in range(min(most, len(scores))):
        start, end = dataset.event_offsets[examples.sequence[row]], examples.history_end[row]
        history = [items[item] for item in dataset.event_item[start:end]]
        context: dict[str, object] = {}
        for feature, (values, offsets) in examples.columns.items():
            places = values[row : row + 1] if offsets is None else values[slice(*offsets[row:][:2])]
            texts = [names[feature][value] or "never seen" for value in places]
            context[feature] = texts[0] if offsets is None else texts
        user = dataset.vocabulary("user")[examples.user[row]]
        ranking = ranker.rank(history, [items[examples.item[row]]], user, context)
        np.testing.assert_allclose(ranking.scores[0], scores[row], atol=1e-6)
        assert ranking.unknown_candidates == (examples.item[row] == 0)
    return scores
