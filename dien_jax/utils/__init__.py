"""Tools without a subject: files, console, plots, compile cache, optional dependencies.

Nothing here knows models, data or settings, and nothing is public.
"""

__all__: list[str] = []
