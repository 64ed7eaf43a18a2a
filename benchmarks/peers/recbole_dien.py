"""RecBole's DIEN on the same batches, see :mod:`benchmarks.peers`.

Parts and sizes are ours where it has them: AUGRU, auxiliary loss, BatchNorm in the MLP, dense Adam.
One list of sizes serves attention, auxiliary network and MLP: ours of the MLP, (200, 80). Other
differences are its own: an auxiliary network without activations, attention scores divided by the
root of the candidate's size, a Dice without a learnt slope, dropout before each layer of the MLP,
AUGRU weights that start with a deviation of 1, and no sum of the history or product with the
candidate. Its loader pads histories with item 0, on the right, to one length, which its attention
expects; here that is the batch's, at least 2: length buckets are our policy applied to it. An
update is that of its trainer.
"""

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

# One of its other models turns this on when imported, for the process: other peers are slower too.
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
"""Its names of the fields of a batch."""


def features(sizes: dict[str, int], category: np.ndarray) -> SimpleNamespace:
    """Return what the model asks of a dataset: the sizes, and the features of users and items."""
    items = {"item": torch.arange(sizes["item"]), "category": _tensor(category)}
    return SimpleNamespace(
        num=sizes.__getitem__,
        field2type=dict.fromkeys(sizes, FeatureType.TOKEN),
        get_user_feature=lambda: Interaction({"user": torch.arange(sizes["user"])}),
        get_item_feature=lambda: Interaction(items),
    )


class RecBole(DIEN):
    """Its model and optimizer, see :class:`benchmarks.peers.Peer`."""

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
            "pooling_mode": "mean",  # of features that are lists; here there are none
        }
        super().__init__(FIELDS | settings, features(sizes, category))
        self._optimizer = torch.optim.Adam(self.parameters(), lr=config.optim.learning_rate)

    def prepare(self, arrays: Arrays) -> tuple[Interaction]:
        """Return a batch by its names of fields."""
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
        """Return logits and the auxiliary loss; attention has the batch's length of histories."""
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


def _tensor(ids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(ids.astype(np.int64))


make_peer = RecBole
