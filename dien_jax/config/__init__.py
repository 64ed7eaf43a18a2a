"""Settings of a run: dataclasses checked at construction, named presets and preset files.

Nothing here reads data, compiles, or knows command-line flags.
"""
