"""For every test: strict dtypes and ranks, so that nothing is promoted or broadcast by accident.

Programs are compiled once a session, whichever test and process asks for them again, and quickly
rather than well where only behaviour is tested.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import pytest
from jax._src import compiler

OPTIMISED = {"test_golden", "test_implementations"}
"""Modules that hold figures to a tolerance: they run what users run."""
CACHE = "JAX_COMPILATION_CACHE_DIR"
IS_OWNER = CACHE not in os.environ

if IS_OWNER:  # other processes of the session inherit it
    os.environ[CACHE] = tempfile.mkdtemp(prefix="dien_jax-compiled-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
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
    """Compiles in a fraction of the time, to slower programs, in children too."""
    if request.module.__name__.rpartition(".")[2] in OPTIMISED:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        if jax.__version_info__ < (0, 11):  # the last for Python 3.11; later ones have no such flag
            emit_as_before(patch)
        yield
    jax.config.update("jax_disable_most_optimizations", False)


def emit_as_before(patch: pytest.MonkeyPatch) -> None:
    """Without XLA's newer way to emit fusions, which takes most of the time of a compilation."""
    name = "xla_cpu_use_fusion_emitters"
    patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} --{name}=false")
    options = compiler.get_compile_options

    def quicker(*args: Any, env_options_overrides: Any = None, **rest: Any) -> Any:
        overrides = {**(env_options_overrides or {}), name: False}
        return options(*args, env_options_overrides=overrides, **rest)

    patch.setattr(compiler, "get_compile_options", quicker)
