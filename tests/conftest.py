"""For every test: strict dtypes and ranks, so that nothing is promoted or broadcast by accident.

Programs are compiled once a session, whichever test and process asks for them again, and quickly
rather than well where only behaviour is tested.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator

import jax
import pytest

OPTIMISED = {"test_golden", "test_kernels"}
"""Modules that hold figures to a tolerance: they run what users run."""
CACHE = "JAX_COMPILATION_CACHE_DIR"
IS_OWNER = CACHE not in os.environ

if IS_OWNER:  # other processes of the session inherit it
    os.environ[CACHE] = tempfile.mkdtemp(prefix="dien_jax-compiled-")
jax.config.update("jax_compilation_cache_dir", os.environ[CACHE])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_unconfigure() -> None:
    """Removes the compiled programs."""
    if IS_OWNER:
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compiles in half the time, to slower programs."""
    jax.config.update("jax_disable_most_optimizations", request.module.__name__ not in OPTIMISED)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
