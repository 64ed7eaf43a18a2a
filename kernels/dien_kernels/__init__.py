"""GRU, AGRU and AUGRU over masked histories, for JAX: functions that own no parameters.

``gru``, ``agru`` and ``augru`` run over histories, ``last_states`` over one history under many
attentions. ``explain`` returns the implementation that the first three choose,
``instruction_set`` that of the native kernels for CPUs.
Implementations are in ``backends/``. This package imports jax and nothing else.
"""

from dien_kernels.api import Precision, agru, augru, explain, gru
from dien_kernels.choice import Choice, Implementation
from dien_kernels.contract import Blocks
from dien_kernels.devices import Device, assume, interpreted
from dien_kernels.native.library import instruction_set
from dien_kernels.reference import Form, Weights
from dien_kernels.shared_history import SharedCell, last_states

__all__ = [
    "Blocks",
    "Choice",
    "Device",
    "Form",
    "Implementation",
    "Precision",
    "SharedCell",
    "Weights",
    "agru",
    "assume",
    "augru",
    "explain",
    "gru",
    "instruction_set",
    "interpreted",
    "last_states",
]
