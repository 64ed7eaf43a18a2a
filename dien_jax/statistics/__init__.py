"""Statistics of training events: counts of values and of pairs of values, and vectors of values.

:class:`dien_jax.DatasetWriter` writes them into the dataset folder. Plain NumPy and SciPy.
"""

from dien_jax.statistics.features import count_training_events, factorise_training_events

__all__ = ["count_training_events", "factorise_training_events"]
