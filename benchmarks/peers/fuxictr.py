"""FuxiCTR's DIEN on the same batches, see :mod:`benchmarks.peers`.

Components and sizes are ours where it supports them: AUGRU, attention (80, 40), the sum of the
history and its product with the candidate, MLP (200, 80) with BatchNorm and Dice, dense Adam. The
DIEN in its packages (from 2.3.9 on) has no auxiliary loss, and that in its repository raises. It is
added here from its own layers: an MLP (100, 50) reads a state of the extractor and the next or a
sampled behaviour; losses are averaged over live positions. Gradients are clipped at norm 10, as in
its trainer. Its model takes histories of any length, so our length buckets apply to it unchanged.
"""

import functools
import os
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import MLP_Block
from model_zoo.LongCTR.DIEN.DIEN import DIEN
from torch.nn.functional import softplus

from benchmarks.peers import Arrays
from dien_jax.config.settings import Config
from dien_jax.model.auxiliary import AUXILIARY_LAYERS
from dien_jax.model.interest import ATTENTION_LAYERS

VERSIONS = {package: version(package) for package in ("fuxictr", "torch")}
Inputs = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]


def feature_map(sizes: dict[str, int], embedding_size: int) -> FeatureMap:
    """Return FuxiCTR's description of the features; item 0 pads histories."""
    result = FeatureMap("benchmark", "")
    for name, size in sizes.items():
        source = "user" if name == "user" else "item"
        kind = {"type": "categorical", "source": source, "vocab_size": size}
        result.features[name] = kind if source == "user" else {**kind, "padding_idx": 0}
    result.labels, result.default_emb_dim = ["label"], embedding_size
    return result


class FuxiCtr(DIEN):
    """FuxiCTR's model and optimizer, see :class:`benchmarks.peers.Peer`."""

    def __init__(
        self, config: Config, sizes: dict[str, int], category: np.ndarray, seed: int
    ) -> None:
        torch.manual_seed(seed)
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        model, rate = config.model, config.optim.learning_rate
        super().__init__(
            feature_map(sizes, model.embedding_size),
            dnn_hidden_units=list(model.layers),
            dnn_activations="Dice",
            learning_rate=rate,
            embedding_dim=model.embedding_size,
            net_dropout=model.dropout,
            enable_sum_pooling=True,
            attention_type="din_attention",
            attention_hidden_units=list(ATTENTION_LAYERS),
            attention_activation="sigmoid",
            item_info_fields=2,
            optimizer="adam",
            loss="binary_crossentropy",
            verbose=0,
            model_root="",
            metrics=[],
        )
        self.auxiliary_network = MLP_Block(
            input_dim=2 * self.item_info_dim,
            hidden_units=list(AUXILIARY_LAYERS),
            hidden_activations="sigmoid",
            output_dim=1,
        )
        self._auxiliary_weight, self._category = model.auxiliary_weight, category
        self._extracted: Any = None
        self.compile("adam", "binary_crossentropy", rate)  # with the added parameters
        self.reset_parameters()
        self._max_gradient_norm, self._batch_index = 10.0, 0  # as its trainer sets them

    def interest_extraction(self, *arguments: Any) -> tuple[Any, torch.Tensor]:
        """Extract interests, and store the inputs of the auxiliary loss."""
        packed, interests = super().interest_extraction(*arguments)
        self._extracted = SimpleNamespace(states=interests, history=arguments[1], mask=arguments[2])
        return packed, interests

    def add_loss(self, return_dict: dict[str, Any], y_true: torch.Tensor) -> torch.Tensor:
        """Return the click loss and the auxiliary loss."""
        click = super().add_loss(return_dict, y_true)
        return click + self._auxiliary_weight * self._auxiliary_loss()

    def _auxiliary_loss(self) -> torch.Tensor:
        kept = self._extracted
        live = kept.mask[:, 1:].float()
        sampled = self.embedding_layer(self._negatives, flatten_emb=True)
        sampled = sampled.view(*kept.states.shape[:2], -1)

        def logits(behaviours: torch.Tensor) -> torch.Tensor:
            pairs = torch.cat([kept.states[:, :-1], behaviours[:, 1:]], dim=-1)
            return self.auxiliary_network(pairs).squeeze(-1)

        losses = softplus(-logits(kept.history)) + softplus(logits(sampled))
        return (losses * live).sum() / live.sum().clamp(min=1)

    def prepare(self, arrays: Arrays) -> tuple[Inputs, dict[str, torch.Tensor]]:
        """Return a batch in the form of its loader of long histories, and sampled behaviours.

        The items of a row are its history followed by its candidate.
        """

        def items(ids: np.ndarray) -> dict[str, torch.Tensor]:
            flat = ids.reshape(-1)
            return {"item": _tensor(flat), "category": _tensor(self._category[flat])}

        steps = arrays.history.shape[1]
        mask = torch.from_numpy(np.arange(steps)[None] < arrays.lengths[:, None])
        rows = {"user": _tensor(arrays.user), "label": torch.from_numpy(arrays.label)}
        own = items(np.concatenate([arrays.history, arrays.item[:, None]], axis=1))
        return (rows, own, mask), items(arrays.negatives)

    def step(self, inputs: Inputs, negatives: dict[str, torch.Tensor]) -> float:
        """Run one update with its own train step."""
        self.train()
        self._negatives = negatives
        return float(self.train_step(inputs).detach())

    def predict(self, inputs: Inputs, negatives: dict[str, torch.Tensor]) -> np.ndarray:
        """Return click probabilities."""
        self.eval()
        with torch.no_grad():
            return self.forward(inputs)["y_pred"].squeeze(-1).numpy()


_tensor = functools.partial(torch.tensor, dtype=torch.int64)
make_peer = FuxiCtr
