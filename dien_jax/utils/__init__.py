"""Tools without a subject: files, console, plots, memory, compile cache, optional dependencies.

Nothing here knows models, data or settings. Two functions are public; they are imported when they
are first used.
"""

from typing import TYPE_CHECKING

from dien_jax._lazy import lazy_names

if TYPE_CHECKING:
    from dien_jax.utils.compile_cache import enable_compile_cache
    from dien_jax.utils.machine import keep_freed_memory

__all__ = ["enable_compile_cache", "keep_freed_memory"]

__getattr__, __dir__ = lazy_names(
    __name__, {"compile_cache": ("enable_compile_cache",), "machine": ("keep_freed_memory",)}
)
