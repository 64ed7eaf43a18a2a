"""Run folders: settings, checkpoints and evaluations of a run, and scores of its trained model.

Training does not enter: this package reads and writes what a run keeps.
"""

from dien_jax.runs.trained import SplitScores, TrainedModel, load_run, score_split

__all__ = ["SplitScores", "TrainedModel", "load_run", "score_split"]
