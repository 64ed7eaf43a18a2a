"""Run folders: settings, checkpoints and evaluations of a run, and scores of its trained model.

This package reads and writes the files of runs. It does not train.
"""

from dien_jax.runs.trained import SplitScores, TrainedModel, load_run, score_split

__all__ = ["SplitScores", "TrainedModel", "load_run", "score_split"]
