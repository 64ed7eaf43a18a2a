"""Ranking with the one file that ``python -m dien_jax.export`` writes.

ranker = load_ranker("model.dien")  # or a run folder
ranker.rank(["item 1", "item 7"], ["item 3", "item 4"], user="Ann").ids
"""

from typing import Any, NamedTuple

import jax

from dien_jax.config.settings import Config
from dien_jax.data.schema import Schema
from dien_jax.data.vocabularies import SEPARATOR, Vocabularies
from dien_jax.inference.archive import Artifact
from dien_jax.inference.exported_programs import ranking_programs
from dien_jax.runs.trained import TrainedModel
from dien_jax.steps.rank import Programs, make_programs


class RankedModel(NamedTuple):
    """What a ranker works with.

    Attributes:
      schema: of the model.
      step: of the checkpoint.
      max_history: events kept of a history.
      buckets: lengths that histories are padded to, the last one ``max_history``.
      vocabularies: rows of raw ids.
      arguments: the first arguments of every program, on the device.
      programs: of the model.
    """

    schema: Schema
    step: int
    max_history: int
    buckets: tuple[int, ...]
    vocabularies: Vocabularies
    arguments: tuple[Any, ...]
    programs: Programs


def exported_model(artifact: Artifact, separator: str = SEPARATOR) -> RankedModel:
    """An exported model as a ranker takes it."""
    return RankedModel(
        artifact.schema,
        artifact.manifest["step"],
        artifact.manifest["max_history"],
        tuple(artifact.manifest["history_buckets"]),
        Vocabularies(artifact, separator),
        (jax.device_put(artifact.weights),),
        ranking_programs(artifact.programs),
    )


def ranked_model(trained: TrainedModel, separator: str = SEPARATOR) -> RankedModel:
    """A trained model as a ranker takes it."""
    config, dataset = trained.run.config, trained.dataset
    variables = {"params": trained.params, "batch_stats": trained.batch_stats}
    return RankedModel(
        dataset.schema,
        trained.step,
        config.train.max_history,
        history_buckets(config),
        Vocabularies(dataset, separator),
        jax.device_put((variables, dataset.feature_tables())),
        make_programs(config, dataset.schema),
    )


def history_buckets(config: Config) -> tuple[int, ...]:
    """Lengths that histories are padded to, ``max_history`` the last."""
    train = config.train
    return (*(edge for edge in train.buckets if edge < train.max_history), train.max_history)
