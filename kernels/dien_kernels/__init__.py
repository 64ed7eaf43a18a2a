"""GRU, AGRU and AUGRU over masked histories, for JAX: functions that own no parameters.

``gru``, ``agru`` and ``augru`` run over histories, ``last_states`` over one history under many
attentions. ``attention_weights``, ``candidate_attention`` (many candidates of one history) and
``auxiliary_loss`` are the networks beside them.
``explain`` and ``explain_network`` return the implementation that they choose, ``instruction_set``
that of the native kernels for CPUs, which ``load_native_in_background`` compiles beforehand.
Implementations are in ``backends/``. This package imports jax and nothing else.
"""

from dien_kernels.agreement import Network
from dien_kernels.api import Precision, agru, augru, explain, gru
from dien_kernels.choice import Choice, Implementation, load_native_in_background
from dien_kernels.contract import Blocks
from dien_kernels.devices import Device, assume, interpreted
from dien_kernels.native.library import instruction_set
from dien_kernels.networks import (
    NetworkImplementation,
    attention_weights,
    auxiliary_loss,
    candidate_attention,
    explain_network,
)
from dien_kernels.reference import Dense, Form, Weights, masked_softmax
from dien_kernels.shared_history import SharedCell, last_states

__all__ = [
    "Blocks",
    "Choice",
    "Dense",
    "Device",
    "Form",
    "Implementation",
    "Network",
    "NetworkImplementation",
    "Precision",
    "SharedCell",
    "Weights",
    "agru",
    "assume",
    "attention_weights",
    "augru",
    "auxiliary_loss",
    "candidate_attention",
    "explain",
    "explain_network",
    "gru",
    "instruction_set",
    "interpreted",
    "last_states",
    "load_native_in_background",
    "masked_softmax",
]
