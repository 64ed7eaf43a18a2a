"""Tools without a subject: commands, console, files, JSON, plots, processes, memory, compile cache.

Nothing here knows models, data or settings. Two functions are public.
"""

from dien_jax.utils.machine import enable_compile_cache, keep_freed_memory

__all__ = ["enable_compile_cache", "keep_freed_memory"]
