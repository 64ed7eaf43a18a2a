"""DIEN, the click model around it, and the Flax modules that they are assembled from.

Modules own parameters; :mod:`dien_kernels` computes recurrences, attention and auxiliary loss.
Nothing here depends on optimizers, datasets on disk or run folders.

Add attentions, recurrences and auxiliary losses of your own to ``ATTENTIONS``, ``EVOLUTIONS`` and
``AUXILIARIES``. :func:`from_authors` reads the weights of the authors' program.
"""

from dien_jax.model.authors import from_authors
from dien_jax.model.auxiliary import (
    AuxiliaryNetwork,
    BinaryAuxiliaryLoss,
    SoftmaxAuxiliaryLoss,
    auxiliary_positions,
)
from dien_jax.model.click_model import ClickModel, ModelOutput
from dien_jax.model.dien import DIEN, DIENOutput
from dien_jax.model.embeddings import FeatureEmbeddings
from dien_jax.model.factors import factor_names
from dien_jax.model.family import ATTENTIONS, AUXILIARIES, EVOLUTIONS, make_network
from dien_jax.model.interest import AGRU, AIGRU, AUGRU, GRU, BilinearAttention, MLPAttention
from dien_jax.model.layers import MLP, BatchNorm, Dice, PReLU
from dien_jax.model.statistics import statistics_names
from dien_jax.model.tower import Tower

__all__ = [
    "AGRU",
    "AIGRU",
    "ATTENTIONS",
    "AUGRU",
    "AUXILIARIES",
    "DIEN",
    "EVOLUTIONS",
    "GRU",
    "MLP",
    "AuxiliaryNetwork",
    "BatchNorm",
    "BilinearAttention",
    "BinaryAuxiliaryLoss",
    "ClickModel",
    "DIENOutput",
    "Dice",
    "FeatureEmbeddings",
    "MLPAttention",
    "ModelOutput",
    "PReLU",
    "SoftmaxAuxiliaryLoss",
    "Tower",
    "auxiliary_positions",
    "factor_names",
    "from_authors",
    "make_network",
    "statistics_names",
]
