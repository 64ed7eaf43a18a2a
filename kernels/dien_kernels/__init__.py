"""GRU, AGRU and AUGRU over masked histories, for JAX: functions that own no parameters.

``gru``, ``agru`` and ``augru`` run over histories; ``last_states`` runs over one history with many
attentions. ``attention_weights``, ``candidate_attention`` (many candidates of one history) and
``auxiliary_loss`` are the other networks of DIEN; ``adam_update`` is the optimizer. ``explain`` and
``explain_network`` return the implementation that they take. ``instruction_set`` returns the
instruction set of the native CPU kernels, which ``load_native_in_background`` compiles in advance.
Implementations are in ``backends/``. The package depends only on jax, and imports each name at its
first use: ``dien_kernels.options`` works without JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dien_kernels.adam import AdamUpdate
    from dien_kernels.agreement import Network
    from dien_kernels.api import agru, augru, explain, gru
    from dien_kernels.choice import Choice, load_native_in_background
    from dien_kernels.contract import Blocks
    from dien_kernels.devices import Device, assume, interpreted
    from dien_kernels.native.library import instruction_set
    from dien_kernels.networks import (
        SharedCell,
        adam_update,
        attention_weights,
        auxiliary_loss,
        candidate_attention,
        explain_network,
        last_states,
    )
    from dien_kernels.options import Form, Implementation, NetworkImplementation, Precision
    from dien_kernels.reference import Dense, Weights, masked_softmax

_MODULES = (
    "options", "reference", "contract", "devices", "choice", "api", "adam", "networks",
    "native.library",
)  # fmt: skip

__all__ = [
    "AdamUpdate",
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
    "adam_update",
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    modules = (importlib.import_module(f"{__name__}.{module}") for module in _MODULES)
    globals()[name] = next(vars(module)[name] for module in modules if name in vars(module))
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
