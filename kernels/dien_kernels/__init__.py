"""GRU, AGRU and AUGRU over masked histories, for JAX. Imports jax and nothing else."""

from dien_kernels.api import agru, augru, gru
from dien_kernels.reference import Weights

__all__ = ["Weights", "agru", "augru", "gru"]
