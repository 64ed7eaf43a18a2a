"""A model to rank with, from a run folder or an exported file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset
from dien_jax.data.loader import BUCKETS
from dien_jax.data.schema import Schema
from dien_jax.data.value_text import SEPARATOR
from dien_jax.data.vocabularies import Vocabularies
from dien_jax.errors import UserError
from dien_jax.inference.archive import ExportedModel, read_archive
from dien_jax.inference.exported_programs import ranking_programs
from dien_jax.model.tower import of_part
from dien_jax.runs.checkpoints import named_leaves
from dien_jax.runs.list_weights import ListWeights
from dien_jax.runs.trained import TrainedModel, load_run
from dien_jax.steps.rank import Programs, make_programs

LEAST_RATIO = 3
"""Least ratio of two lengths of histories that programs are compiled for."""


class LoadedModel(NamedTuple):
    """A model to rank with; ``arguments`` are the first ones of every program, on the device.

    The last of ``history_buckets`` is the longest history. If the model can ``follow_authors``,
    scores depend on the other candidates of a slice, and on the length that a history is padded to.
    ``list_offsets`` are those of :func:`dien_jax.runs.calibration.list_offsets`, if there are any.
    ``tables`` are what lists over all items read, in host memory: arrays by names such as
    ``tables/item/category`` and ``params/tower/item_weights/item``. ``knows_repeats`` is false if
    no negative of training was in the history of its user.
    """

    schema: Schema
    step: int
    history_buckets: tuple[int, ...]
    follow_authors: bool
    vocabularies: Vocabularies
    arguments: tuple[Any, ...]
    programs: Programs
    list_offsets: np.ndarray | None
    list_weights: ListWeights | None
    tables: Mapping[str, np.ndarray]
    knows_repeats: bool

    @classmethod
    def from_run(cls, trained: TrainedModel, separator: str = SEPARATOR) -> "LoadedModel":
        config, dataset, tables = trained.run.config, trained.dataset, trained.feature_tables()
        variables = jax.device_put(trained.variables())
        read = {"tables": tables, "params": of_part(variables["params"], "tower")}
        return cls(
            dataset.schema,
            trained.step,
            history_buckets(config),
            config.model.follow_authors,
            Vocabularies(dataset.schema, dataset.vocabulary, separator),
            (variables, tables),
            make_programs(config, dataset.schema),
            trained.list_offsets,
            trained.list_weights,
            # Not those of the folder, whose files may change.
            host_arrays(read),
            knows_repeats(dataset),
        )

    @classmethod
    def from_export(cls, exported: ExportedModel, separator: str = SEPARATOR) -> "LoadedModel":
        manifest = exported.manifest
        return cls(
            exported.schema,
            manifest["step"],
            tuple(manifest["history_buckets"]),
            manifest["settings"]["model"]["follow_authors"],
            Vocabularies(exported.schema, exported.vocabularies.__getitem__, separator),
            (jax.device_put(exported.weights),),
            ranking_programs(exported.programs),
            exported.list_offsets,
            exported.list_weights,
            exported.weights,
            manifest["knows_repeats"],
        )


def host_arrays(tree: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a tree in host memory, by their names; those of a CPU are not copied."""
    return {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}


def knows_repeats(dataset: Dataset) -> bool:
    """Return whether negatives may be in the history of their user."""
    return dataset.meta.get("split", {}).get("allow_own_negatives") is not False


def load_model(
    path: str | Path | TrainedModel, data: str | Path | None, separator: str
) -> LoadedModel:
    """Load the best checkpoint of a run folder, or an exported file; see :class:`Ranker`."""
    if isinstance(path, TrainedModel):
        return LoadedModel.from_run(path, separator)
    if not isinstance(path, str | os.PathLike):
        expected = "a run folder such as result.run_dir, an exported file, or what load_run returns"
        raise TypeError(f"path must be {expected}, got {type(path).__name__}")
    path = Path(path)
    if path.is_dir():
        return LoadedModel.from_run(load_run(path, data), separator)
    if not path.exists():
        raise UserError(
            f"{path} does not exist; expected a run folder, or a file written by "
            f"python -m dien_jax.export"
        )
    if data is not None:
        raise UserError(f"{path} is an exported model, which needs no data; leave out {data}")
    return LoadedModel.from_export(read_archive(path), separator)


def history_buckets(config: Config) -> tuple[int, ...]:
    """Return the padded lengths of histories, the last of which is ``max_history``.

    They are few, as programs are compiled for each; all where scores depend on the padding.
    """
    edges, least = [config.train.max_history], 1 if config.model.follow_authors else LEAST_RATIO
    buckets = BUCKETS if config.train.buckets is None else config.train.buckets
    for edge in reversed(buckets):
        if edge < edges[0] and least * edge <= edges[0]:
            edges.insert(0, edge)
    return tuple(edges)
