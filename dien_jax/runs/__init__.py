"""Run folders: settings, checkpoints, evaluations, and scores of their trained models.

Training itself does not enter: this package reads and writes what a run keeps.
"""
