"""Tools without a subject: files, console, plots, memory, compile cache, optional dependencies.

Nothing here knows models, data or settings. One function is public.
"""

from dien_jax.utils.memory import keep_freed_memory

__all__ = ["keep_freed_memory"]
