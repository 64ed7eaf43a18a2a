"""Click models over behaviour histories: DIEN and its family, in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dien_jax.inference.ranker import ExportedRanker, Ranker, load_ranker

__version__ = "0.1.0"
__all__ = ["ExportedRanker", "Ranker", "__version__", "load_ranker"]
_MODULES = {
    "ExportedRanker": "dien_jax.inference.loaded_model",
    "Ranker": "dien_jax.inference.run_ranker",
    "load_ranker": "dien_jax.inference.loaded_model",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is first: a command's ``--help`` should not wait."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
