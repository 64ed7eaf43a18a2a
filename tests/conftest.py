"""Strict dtypes and ranks for every test: nothing is promoted or broadcast by accident."""

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
