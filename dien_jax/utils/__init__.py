"""Tools without a subject: files, console, plots, memory, compile cache, optional dependencies.

Nothing here knows models, data or settings. Two functions are public; they are imported when they
are first used.
"""

from typing import TYPE_CHECKING

from dien_jax._lazy import lazy_names

if TYPE_CHECKING:
    from dien_jax.utils.machine import enable_compile_cache, keep_freed_memory

__all__ = ["enable_compile_cache", "keep_freed_memory"]

__getattr__, __dir__ = lazy_names(
    __name__, {"machine": ("enable_compile_cache", "keep_freed_memory")}
)
