"""Values of the options of this package's functions; importing them imports no JAX."""

from typing import Literal

Form = Literal["paper", "authors"]
"""Published definitions of the gates: the paper's equations, and those of the authors' program."""
Implementation = Literal["auto", "reference", "xla", "native", "mosaic_tpu", "mosaic_gpu", "triton"]
"""Names of the implementations; auto chooses one for the device and the shape."""
NetworkImplementation = Literal["auto", "reference", "xla", "native"]
"""Implementations of networks; auto takes native on a CPU where it agrees with the oracle."""
Precision = Literal["default", "high", "highest"]
"""Precision of the matmuls, as in ``jax.default_matmul_precision``: highest is float32."""
