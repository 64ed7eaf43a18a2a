"""What JAX compiled, kept on disk, so that the next process loads it."""

import hashlib
import platform
from pathlib import Path

import jax

from dien_jax.utils.files import user_cache

LEAST_SECONDS = 0.3
"""What compiled faster is not worth a file."""


def keep_compiled() -> None:
    """Turns JAX's persistent cache on, in the user's cache folder.

    A folder that the user chose (``JAX_COMPILATION_CACHE_DIR``) stays, and so does a cache that
    was turned off (``JAX_ENABLE_COMPILATION_CACHE=false``). Each kind of processor has a folder of
    its own, as a home folder may be shared between machines that run different instructions.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = user_cache() / "compiled" / _processor()
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        features = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
