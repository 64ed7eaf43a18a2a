"""RecBole's DIEN on the same batches, see :mod:`benchmarks.peers`.

Parts and sizes are ours where it has them: AUGRU, auxiliary loss, attention (80, 40), auxiliary
network (100, 50), MLP (200, 80) with BatchNorm and Dice, dense Adam. Its one list of layer sizes is
for three networks, so two are replaced by its own classes with our sizes. Its auxiliary network has
no activation between layers, its MLP no pooled history, attention is scaled, one table holds items
and categories, losses are means. It reads names, sizes and feature tables from a configuration and
a dataset; substitutes have just these, and its loaders and trainer are not used. Its attention
masks positions of one history length, which are cut to each batch: length buckets are our policy
applied to it.
"""

import functools
import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from recbole.model.sequential_recommender.dien import (
    DIEN,
    InterestEvolvingLayer,
    InterestExtractorNetwork,
)
from recbole.utils import FeatureType

from benchmarks.peers import Arrays, arrays_of, table_sizes
from dien_jax.config.settings import Config
from dien_jax.data.batch import Batch
from dien_jax.data.schema import Schema

# Importing its models turns this on, which makes PyTorch's steps several times slower.
torch.autograd.set_detect_anomaly(False)

VERSIONS = {package: version(package) for package in ("recbole", "torch")}
NAMES = {
    "USER_ID_FIELD": "user",
    "ITEM_ID_FIELD": "item",
    "LABEL_FIELD": "label",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "lengths",
    "NEG_PREFIX": "negative_",
}
"""Names of the arrays of a batch in RecBole's configuration."""


class Features:
    """A table of features with columns by name."""

    def __init__(self, **columns: torch.Tensor) -> None:
        self.interaction = columns

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.interaction[name]

    def to(self, device: str) -> "Features":
        """Return itself: all is on the CPU."""
        return self


class Dataset:
    """The part of a dataset that the model reads."""

    def __init__(self, sizes: dict[str, int], category: np.ndarray) -> None:
        self.field2type = dict.fromkeys(sizes, FeatureType.TOKEN)
        self._sizes, self._category = sizes, category

    def num(self, name: str) -> int:
        """Return the number of ids of a feature, 0 included."""
        return self._sizes[name]

    def get_user_feature(self) -> Features:
        """Return the features of all users."""
        return Features(user=torch.arange(self._sizes["user"]))

    def get_item_feature(self) -> Features:
        """Return the features of all items."""
        item = torch.arange(self._sizes["item"])
        return Features(item=item, category=torch.from_numpy(self._category.astype(np.int64)))


class RecBole:
    """A model and its optimizer; :meth:`step` trains on a batch from :func:`interaction`."""

    def __init__(self, config: Config, dataset: Dataset) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        model = config.model
        settings = {
            **NAMES,
            "MAX_ITEM_LIST_LENGTH": config.train.max_history,
            "device": "cpu",
            "alpha": model.auxiliary_weight,
            "gru_type": "AUGRU",
            "pooling_mode": "mean",
            "dropout_prob": model.dropout,
            "embedding_size": model.embedding_size,
            "mlp_hidden_size": list(model.layers),
        }
        self._model: Any = DIEN(settings, dataset).train()
        size = 2 * model.embedding_size  # item and category
        self._positions = torch.arange(config.train.max_history)[None]
        self._model.interset_extractor = InterestExtractorNetwork(
            size, size, [2 * size, *model.auxiliary_layers, 1]
        )
        self._model.interest_evolution = InterestEvolvingLayer(
            self._positions, size, size, [4 * size, *model.attention_layers], gru="AUGRU"
        )
        rate = config.optim.learning_rate
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=rate)

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        """Run one update, as its own trainer does."""
        steps = batch["item_list"].shape[1]
        self._model.interest_evolution.attention_layer.mask_mat = self._positions[:, :steps]
        self._optimizer.zero_grad()
        loss = self._model.calculate_loss(batch)
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())


def interaction(arrays: Arrays) -> dict[str, torch.Tensor]:
    """Return a batch under the names of :data:`NAMES`."""
    ids = {
        "user": arrays.user,
        "item": arrays.item,
        "item_list": arrays.history,
        "negative_item_list": arrays.negatives,
        "lengths": arrays.lengths,
    }
    batch = {name: torch.from_numpy(values.astype(np.int64)) for name, values in ids.items()}
    return {**batch, "label": torch.from_numpy(arrays.label)}


def steps_of(
    config: Config, schema: Schema, category: np.ndarray, batches: list[Batch]
) -> list[Callable[[], float]]:
    """Return a train step for each batch; ``category`` is that of each item, ``[items]``."""
    sizes = table_sizes(schema)
    peer = RecBole(config, Dataset(sizes, category))
    prepared = [interaction(arrays) for arrays in arrays_of(batches, sizes["item"])]
    return [functools.partial(peer.step, batch) for batch in prepared]
