"""Several devices: batches and large tables are divided over them, all else is on each.

The steps themselves are those of :mod:`dien_jax.steps`, given a :class:`Placement`.
"""

from dien_jax.devices.placement import Placement

__all__ = ["Placement"]
