"""The interest model and the Flax modules that it is assembled from.

Modules own parameters; the recurrences themselves are computed by :mod:`dien_kernels`. Nothing
here knows optimizers, datasets on disk or run folders.

Add attentions and recurrences of your own to ``ATTENTIONS`` and ``EVOLUTIONS``.
"""

from dien_jax.model.activations import Dice, PReLU
from dien_jax.model.attention import ATTENTIONS, BilinearAttention, MLPAttention
from dien_jax.model.auxiliary import AuxiliaryNetwork, auxiliary_loss, auxiliary_positions
from dien_jax.model.batch_norm import BatchNorm
from dien_jax.model.click_network import MLP
from dien_jax.model.embeddings import FeatureEmbeddings
from dien_jax.model.factors import factor_names
from dien_jax.model.interest import InterestModel
from dien_jax.model.logistic_regression import LogisticRegression
from dien_jax.model.recurrence import AGRU, AIGRU, AUGRU, EVOLUTIONS, GRU
from dien_jax.model.statistics import statistics_names
from dien_jax.model.statistics_network import StatisticsNetwork

__all__ = [
    "AGRU",
    "AIGRU",
    "ATTENTIONS",
    "AUGRU",
    "EVOLUTIONS",
    "GRU",
    "MLP",
    "AuxiliaryNetwork",
    "BatchNorm",
    "BilinearAttention",
    "Dice",
    "FeatureEmbeddings",
    "InterestModel",
    "LogisticRegression",
    "MLPAttention",
    "PReLU",
    "StatisticsNetwork",
    "auxiliary_loss",
    "auxiliary_positions",
    "factor_names",
    "statistics_names",
]
