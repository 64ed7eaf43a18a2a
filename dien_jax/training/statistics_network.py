"""The fit of the statistics network, which follows that of the logistic regression.

It learns what the logistic regression leaves. Plain NumPy: the networks are small, and nothing has
to be compiled before the first training step.

Dimensions: R examples, F inputs, N networks, B examples of a step.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit
from threadpoolctl import threadpool_limits

from dien_jax.model.statistics_network import LIMIT, NETWORKS
from dien_jax.training.logistic_regression import selection, standard
from dien_jax.utils.console import Stage

BATCH = 256
LEARNING_RATE = 1e-3
DECAY = 0.05
"""Of AdamW (Loshchilov and Hutter, ICLR 2019, arXiv:1711.05101)."""
MOMENTS = (0.9, 0.999)
EPOCH = 1 << 18
"""Examples of an epoch at most; others are in the next ones."""
MAX_EPOCHS = 40
PATIENCE = 4
"""Epochs without a better validation score that end the fit."""


class Examples(NamedTuple):
    """Examples as the statistics network sees them.

    Attributes:
      inputs: float32 ``[R, F]``.
      logits: float32 ``[R]``, to which the network adds: those of the logistic regression.
      labels: int8 ``[R]``, 1 for a click.
    """

    inputs: np.ndarray
    logits: np.ndarray
    labels: np.ndarray


def fit_statistics_network(
    train: Examples,
    valid: Examples,
    layers: Sequence[int],
    current: Stage,
    before_epoch: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Return fitted parameters of :class:`dien_jax.model.StatisticsNetwork`.

    They are those of the epoch with the best validation score; if none is better than the given
    logits alone, the last layer is 0. ``before_epoch`` may raise to stop.
    """
    mean, deviation = standard(train.inputs)
    x, labels = _standardised(train.inputs, mean, deviation), train.labels.astype(np.float32)
    of_valid = _standardised(valid.inputs, mean, deviation)
    random = np.random.default_rng(0)
    networks = _Networks((x.shape[1], *layers, 1), random)
    best, score, worse = networks.copy(), selection(expit(valid.logits), valid.labels), 0
    size = min(BATCH, len(x))
    with threadpool_limits(1, "blas"):  # threads that wait for each other cost more
        for epoch in range(1, MAX_EPOCHS + 1):
            before_epoch()
            current.note = f"epoch {epoch}"
            order = random.permutation(len(x))[:EPOCH]
            for start in range(0, len(order) - size + 1, size):
                rows = order[start : start + size]
                networks.step(x[rows], train.logits[rows], labels[rows])
            now = selection(expit(networks.logits(of_valid) + valid.logits), valid.labels)
            if now > score:
                best, score, worse = networks.copy(), now, 0
            elif (worse := worse + 1) == PATIENCE:
                break
    current.note = f"validation score {score:.4f}"
    scale = (1 / deviation).astype(np.float32)
    return {"mean": mean, "scale": scale, **best}


def _standardised(inputs: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return np.clip((inputs - mean) / deviation, -LIMIT, LIMIT)


class _Networks:
    """N networks and their optimizer.

    Args:
      sizes: of the input, the hidden layers and the output.
      random: draws the kernels; the last ones are 0, so that the networks start from the logits.
    """

    def __init__(self, sizes: Sequence[int], random: np.random.Generator) -> None:
        shapes = [
            shape
            for before, after in itertools.pairwise(sizes)
            for shape in ((NETWORKS, before, after), (NETWORKS, 1, after))
        ]
        # All parameters are parts of one array, and so are their gradients: Adam is a few products.
        self._parameters = np.zeros(sum(map(np.prod, shapes)), np.float32)
        self._gradients = np.zeros_like(self._parameters)
        self._moments = [np.zeros_like(self._parameters) for _ in MOMENTS]
        self._steps = 0
        ends = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
        parts, of_gradients = (
            [part.reshape(shape) for part, shape in zip(np.split(flat, ends), shapes, strict=True)]
            for flat in (self._parameters, self._gradients)
        )
        self._kernels, self._biases = parts[::2], parts[1::2]
        self._of_kernels, self._of_biases = of_gradients[::2], of_gradients[1::2]
        for kernel in self._kernels[:-1]:
            deviation = np.sqrt(2 / kernel.shape[1])  # He et al., ICCV 2015
            kernel[...] = random.normal(0, deviation, kernel.shape)

    def copy(self) -> dict[str, np.ndarray]:
        """Return the parameters by the names that they have in the model."""
        named = {f"kernel_{place}": kernel.copy() for place, kernel in enumerate(self._kernels)}
        return named | {f"bias_{place}": bias.copy() for place, bias in enumerate(self._biases)}

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Return the mean logits of standardised inputs ``[R, F]``, float32 ``[R]``."""
        parts = np.array_split(x, -(-len(x) // BATCH))
        return np.concatenate([self._layers(part)[-1][..., 0].mean(0) for part in parts])

    def _layers(self, x: np.ndarray) -> list[np.ndarray]:
        """Return the inputs ``[N, B, F]``, the hidden layers and the logits ``[N, B, 1]``."""
        found = [np.broadcast_to(x, (NETWORKS, *x.shape))]
        for kernel, bias in zip(self._kernels, self._biases, strict=True):
            x = found[-1] @ kernel + bias
            found.append(np.maximum(x, 0) if kernel is not self._kernels[-1] else x)
        return found

    def step(self, x: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> None:
        """Take a step of AdamW on the log loss; each network learns from its own."""
        layers = self._layers(x)
        of_output = expit(layers[-1] + logits[:, None]) - labels[:, None]
        of_output /= np.float32(len(x))
        for place in reversed(range(len(self._kernels))):
            below = layers[place]
            np.matmul(below.swapaxes(1, 2), of_output, out=self._of_kernels[place])
            self._of_biases[place][...] = of_output.sum(1, keepdims=True)
            if place:
                of_output = (of_output @ self._kernels[place].swapaxes(1, 2)) * (below > 0)
        self._steps += 1
        powers = (self._gradients, self._gradients**2)
        unbiased = []
        for moment, power, keep in zip(self._moments, powers, MOMENTS, strict=True):
            moment *= np.float32(keep)
            moment += np.float32(1 - keep) * power
            unbiased.append(moment / np.float32(1 - keep**self._steps))
        change = unbiased[0] / (np.sqrt(unbiased[1]) + np.float32(1e-8))
        change += np.float32(DECAY) * self._parameters
        self._parameters -= np.float32(LEARNING_RATE) * change
