"""DeepCTR-Torch's DIEN on the same batches, see :mod:`benchmarks.peers`.

Components and sizes are ours where it supports them: AUGRU, auxiliary loss, attention (80, 40), MLP
(200, 80) with PReLU (its Dice refuses the shape), dense Adam, no penalty on embeddings. Initial
parameters have standard deviation .01, because with its default .0001 it hardly learns for epochs.
A model has one history length, so each of our buckets has its own model with shared parameters.
"""

import os
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat, build_input_features
from deepctr_torch.models import DIEN

from benchmarks.peers import Arrays
from dien_jax.config.settings import Config
from dien_jax.model.interest import ATTENTION_LAYERS

VERSIONS = {package: version(package) for package in ("deepctr-torch", "torch")}


class DeepCtrTorch:
    """A model for each history length, and one optimizer, see :class:`benchmarks.peers.Peer`."""

    def __init__(
        self, config: Config, sizes: dict[str, int], category: np.ndarray, seed: int
    ) -> None:
        torch.manual_seed(seed)
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._config, self._sizes, self._category = config, sizes, category
        self._models: dict[int, Any] = {}
        self._optimizer: torch.optim.Optimizer | None = None

    def _columns(self, steps: int) -> list[Any]:
        dimension = self._config.model.embedding_size
        columns: list[Any] = [
            SparseFeat(name, size, embedding_dim=dimension) for name, size in self._sizes.items()
        ]
        for kind in ("hist_", "neg_hist_"):
            for name in ("item", "category"):
                feature = SparseFeat(
                    kind + name, self._sizes[name], embedding_dim=dimension, embedding_name=name
                )
                # One column of lengths serves all four.
                length = "seq_length" if kind == "hist_" else None
                columns.append(VarLenSparseFeat(feature, maxlen=steps, length_name=length))
        return columns

    def _model(self, steps: int) -> Any:
        if steps in self._models:
            return self._models[steps]
        config = self._config.model
        model = DIEN(
            self._columns(steps),
            ["item", "category"],
            gru_type="AUGRU",
            use_negsampling=True,
            alpha=config.auxiliary_weight,
            dnn_hidden_units=config.layers,
            dnn_activation="prelu",
            att_hidden_units=ATTENTION_LAYERS,
            att_activation="sigmoid",
            l2_reg_embedding=0,
            init_std=0.01,
        )
        if self._optimizer is None:
            rate = self._config.optim.learning_rate
            self._optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        else:
            first = next(iter(self._models.values()))
            for name, module in first.named_children():
                setattr(model, name, module)
        self._models[steps] = model
        return model

    def prepare(self, arrays: Arrays) -> tuple[int, torch.Tensor, torch.Tensor]:
        """Return the history length, inputs ``[B, F]`` and labels ``[B]``."""
        steps = arrays.history.shape[1]
        values = {
            "user": arrays.user,
            "item": arrays.item,
            "category": self._category[arrays.item],
            "hist_item": arrays.history,
            "hist_category": self._category[arrays.history],
            "neg_hist_item": arrays.negatives,
            "neg_hist_category": self._category[arrays.negatives],
            "seq_length": arrays.lengths,
        }
        names = build_input_features(self._columns(steps))
        inputs = np.concatenate([values[name].reshape(len(arrays.item), -1) for name in names], 1)
        return steps, torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(arrays.label)

    def step(self, steps: int, inputs: torch.Tensor, label: torch.Tensor) -> float:
        """Run one update, as in its own training loop."""
        model = self._model(steps).train()
        assert self._optimizer is not None
        probability = model(inputs).squeeze(-1)
        self._optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy(probability, label, reduction="sum")
        total = (loss + model.get_regularization_loss() + model.aux_loss).sum()
        total.backward()
        self._optimizer.step()
        return float(total.detach())

    def predict(self, steps: int, inputs: torch.Tensor, label: torch.Tensor) -> np.ndarray:
        """Return click probabilities."""
        with torch.no_grad():
            return self._model(steps).eval()(inputs).squeeze(-1).numpy()


make_peer = DeepCtrTorch
