"""Training runs: the loop, its reports, and warm starts.

Flags, signals and the printing of results are in ``dien_jax/train.py``.
"""

from dien_jax.training.run import RunResult, fit, resume

__all__ = ["RunResult", "fit", "resume"]
