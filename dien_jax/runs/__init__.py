"""Run folders: settings, checkpoints and evaluations of a run, and scores of its trained model.

Training does not enter: this package reads and writes what a run keeps.
"""

from dien_jax.runs.scoring import SplitScores, score_split
from dien_jax.runs.trained import TrainedModel, load_run

__all__ = ["SplitScores", "TrainedModel", "load_run", "score_split"]
