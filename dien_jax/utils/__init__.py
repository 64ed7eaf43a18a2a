"""General utilities: commands, console, files, JSON, plots, processes, memory."""

from dien_jax.utils.machine import enable_compile_cache, keep_freed_memory

__all__ = ["enable_compile_cache", "keep_freed_memory"]
