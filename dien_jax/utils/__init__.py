"""Tools without a subject: files, console, plots, compile cache, optional dependencies.

Nothing here knows models, data or settings. Names are private to the project.
"""
