"""Statistics of training events: counts of values and of pairs of values, and vectors of values.

:class:`dien_jax.DatasetWriter` writes them into the dataset folder. Plain NumPy and SciPy.
"""

__all__: list[str] = []
