"""Loggers of a run behind one protocol: TensorBoard, MLflow and Weights & Biases.

A logger that keeps runs elsewhere connects before the slow work of a run, so that a server that
cannot be reached is refused at once. Later nothing that a server does stops or slows training.
"""

from dien_jax.training.loggers.trackers import LOGGERS_FILE, Logger, opened_loggers

__all__ = ["LOGGERS_FILE", "Logger", "opened_loggers"]
