"""Click models over behaviour histories: DIEN and its family, in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dien_jax.ranker import Ranker

__version__ = "0.1.0"
__all__ = ["Ranker", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports ``Ranker`` when it is first asked for: a command's ``--help`` should not wait."""
    if name == "Ranker":
        from dien_jax.ranker import Ranker

        return Ranker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
