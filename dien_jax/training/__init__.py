"""Training runs: the loop, its reports, and warm starts.

Flags, signals and the printing of results do not enter: ``dien_jax/train.py`` has them.
"""

from dien_jax.training.run import RunResult, fit, resume

__all__ = ["RunResult", "fit", "resume"]
