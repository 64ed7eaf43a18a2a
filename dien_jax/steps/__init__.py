"""Jitted functions: the train step, scoring, ranking, and the state that they carry.

They are functions of arrays and settings, without files, run folders or progress.
"""

from dien_jax.steps.negatives import auxiliary_negatives, make_sampler
from dien_jax.steps.score import make_predict_step
from dien_jax.steps.state import create_state, feature_tables, training_tables
from dien_jax.steps.train import click_loss, halved_click_loss, make_train_step

__all__ = [
    "auxiliary_negatives",
    "click_loss",
    "create_state",
    "feature_tables",
    "halved_click_loss",
    "make_predict_step",
    "make_sampler",
    "make_train_step",
    "training_tables",
]
