"""Click models over behaviour histories: DIEN and its family, in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dien_jax.exported_ranker import ExportedRanker, load_ranker
    from dien_jax.ranker import Ranker

__version__ = "0.1.0"
__all__ = ["ExportedRanker", "Ranker", "__version__", "load_ranker"]
_MODULES = {
    "ExportedRanker": "dien_jax.exported_ranker",
    "Ranker": "dien_jax.ranker",
    "load_ranker": "dien_jax.exported_ranker",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is first: a command's ``--help`` should not wait."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
