"""Click models over behaviour histories: DIEN and its family, in JAX."""

__version__ = "0.1.0"
