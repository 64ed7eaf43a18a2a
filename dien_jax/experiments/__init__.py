"""Experiments over several runs: comparison, baselines and the paper's table.

Training and scoring of models is left to :mod:`dien_jax.training` and :mod:`dien_jax.runs`.
"""

from dien_jax.experiments.baselines import BaselineResult, baseline_table, run_baselines
from dien_jax.experiments.comparison import compare_runs
from dien_jax.experiments.reproduction import paper_tables, reproduce_table

__all__ = [
    "BaselineResult",
    "baseline_table",
    "compare_runs",
    "paper_tables",
    "reproduce_table",
    "run_baselines",
]
