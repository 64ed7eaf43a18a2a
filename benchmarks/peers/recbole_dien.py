"""RecBole's DIEN on the same batches, see :mod:`benchmarks.peers`.

Components and sizes are ours where it supports them: AUGRU, auxiliary loss, BatchNorm in the MLP,
dense Adam. It has one list of layer widths for attention, auxiliary network and MLP; it is that of
our MLP, (200, 80). Other differences: its auxiliary network has no activations, attention scores
are divided by the square root of the candidate's size, Dice has no learnt slope, dropout precedes
each layer of the MLP, AUGRU weights are initialized with standard deviation 1, and the MLP reads
neither the sum of the history nor its product with the candidate. Its attention expects histories
of one length, padded on the right with item 0. Here that is the length of the batch, at least 2, so
our length buckets apply. An update is that of its trainer.
"""

import functools
import os
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender.dien import DIEN
from recbole.utils import FeatureType

from benchmarks.peers import Arrays
from dien_jax.config.settings import Config

# Importing RecBole turns this on for the whole process, which slows other peers too.
torch.autograd.set_detect_anomaly(False)
VERSIONS = {package: version(package) for package in ("recbole", "torch")}
FIELDS = {
    "USER_ID_FIELD": "user",
    "ITEM_ID_FIELD": "item",
    "LABEL_FIELD": "label",
    "LIST_SUFFIX": "_list",
    "NEG_PREFIX": "negative_",
    "ITEM_LIST_LENGTH_FIELD": "length",
}
"""RecBole's names for the fields of a batch."""


def features(sizes: dict[str, int], category: np.ndarray) -> SimpleNamespace:
    """Return a stand-in for the dataset: table sizes, and the features of users and items."""
    items = {"item": torch.arange(sizes["item"]), "category": _tensor(category)}
    return SimpleNamespace(
        num=sizes.__getitem__,
        field2type=dict.fromkeys(sizes, FeatureType.TOKEN),
        get_user_feature=lambda: Interaction({"user": torch.arange(sizes["user"])}),
        get_item_feature=lambda: Interaction(items),
    )


class RecBole(DIEN):
    """RecBole's model and optimizer, see :class:`benchmarks.peers.Peer`."""

    def __init__(
        self, config: Config, sizes: dict[str, int], category: np.ndarray, seed: int
    ) -> None:
        torch.manual_seed(seed)
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        settings = {
            "device": torch.device("cpu"),
            "MAX_ITEM_LIST_LENGTH": config.train.max_history,
            "embedding_size": config.model.embedding_size,
            "mlp_hidden_size": list(config.model.layers),
            "dropout_prob": config.model.dropout,
            "alpha": config.model.auxiliary_weight,
            "gru_type": "AUGRU",
            "pooling_mode": "mean",  # of list features, of which there are none
        }
        super().__init__(FIELDS | settings, features(sizes, category))
        self._optimizer = torch.optim.Adam(self.parameters(), lr=config.optim.learning_rate)

    def prepare(self, arrays: Arrays) -> tuple[Interaction]:
        """Return a batch under RecBole's names of fields."""
        batch = {
            "user": _tensor(arrays.user),
            "item": _tensor(arrays.item),
            "item_list": _tensor(arrays.history),
            "negative_item_list": _tensor(arrays.negatives),
            "length": _tensor(arrays.lengths),
            "label": torch.from_numpy(arrays.label),
        }
        return (Interaction(batch),)

    def forward(self, user: torch.Tensor, item_seq: torch.Tensor, *others: Any) -> Any:
        """Return logits and the auxiliary loss; set attention to the batch's history length."""
        self.interest_evolution.attention_layer.mask_mat = torch.arange(item_seq.shape[1])[None]
        return super().forward(user, item_seq, *others)

    def step(self, batch: Interaction) -> float:
        """Run one update, as in its trainer."""
        self.train()
        self._optimizer.zero_grad()
        loss = self.calculate_loss(batch)
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())

    def predict(self, batch: Interaction) -> np.ndarray:
        """Return click probabilities."""
        self.eval()
        with torch.no_grad():
            return super().predict(batch).numpy()


_tensor = functools.partial(torch.tensor, dtype=torch.int64)
make_peer = RecBole
