"""Click models over behaviour histories: DIEN and its family, in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dien_jax.inference.ranker import Ranker, Ranking
    from dien_jax.inference.requests import RankRequest

__version__ = "0.1.0"
__all__ = ["RankRequest", "Ranker", "Ranking", "__version__"]
_MODULES = {
    "RankRequest": "dien_jax.inference.requests",
    "Ranker": "dien_jax.inference.ranker",
    "Ranking": "dien_jax.inference.ranker",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is first: a command's ``--help`` should not wait."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
