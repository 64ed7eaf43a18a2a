"""GRU, AGRU and AUGRU over masked histories, for JAX: functions that own no parameters.

``gru``, ``agru`` and ``augru`` compute, ``explain`` tells which implementation they choose.
Implementations are in ``backends/``. This package imports jax and nothing else.
"""

from dien_kernels.api import agru, augru, explain, gru
from dien_kernels.choice import Choice
from dien_kernels.contract import Blocks
from dien_kernels.devices import Device, assume, interpreted
from dien_kernels.reference import Weights

__all__ = [
    "Blocks",
    "Choice",
    "Device",
    "Weights",
    "agru",
    "assume",
    "augru",
    "explain",
    "gru",
    "interpreted",
]
