"""Ranking over HTTP: ``python -m dien_jax.serve``."""
