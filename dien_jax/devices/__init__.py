"""Several devices: batches and large tables are sharded over them, other arrays are replicated.

The steps are those of :mod:`dien_jax.steps`, with a :class:`Placement`.
"""

from dien_jax.devices.placement import Placement

__all__ = ["Placement"]
