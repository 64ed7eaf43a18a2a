"""Jitted functions: the train step, scoring, ranking, and the state that they carry.

Functions of arrays and settings; files, run folders and progress do not enter.
"""

from dien_jax.steps.losses import click_loss, halved_click_loss
from dien_jax.steps.negatives import Sampler, auxiliary_negatives, make_sampler
from dien_jax.steps.optimizer import make_optimizer
from dien_jax.steps.rank import Interests, Programs, make_programs
from dien_jax.steps.score import make_predict_step, make_summary_step
from dien_jax.steps.state import Tables, TrainState, create_state, feature_tables, training_tables
from dien_jax.steps.train import make_loss, make_train_step

__all__ = [
    "Interests",
    "Programs",
    "Sampler",
    "Tables",
    "TrainState",
    "auxiliary_negatives",
    "click_loss",
    "create_state",
    "feature_tables",
    "halved_click_loss",
    "make_loss",
    "make_optimizer",
    "make_predict_step",
    "make_programs",
    "make_sampler",
    "make_summary_step",
    "make_train_step",
    "training_tables",
]
