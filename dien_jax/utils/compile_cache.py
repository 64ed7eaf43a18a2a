"""JAX's persistent compile cache, in the user's cache folder."""

import errno
import hashlib
import os
import platform
from pathlib import Path

from dien_jax.errors import UserError
from dien_jax.utils.console import say
from dien_jax.utils.files import user_cache

LEAST_SECONDS = 0.3
"""Programs that compile faster than this are not cached."""


def enable_compile_cache() -> None:
    """Keep compiled programs on disk, so that the next process loads them.

    A folder given by ``JAX_COMPILATION_CACHE_DIR`` is kept, and a cache turned off by
    ``JAX_ENABLE_COMPILATION_CACHE=false`` stays off. Each kind of processor has its own folder:
    a home folder may be shared by machines with different instruction sets. A user without a home
    folder has no cache, nor has one whose cache folder cannot be written, and is told.

    The commands call this when they start. Functions of the package never do: it changes the
    configuration of JAX for the whole process.

    >>> enable_compile_cache()
    """
    import jax  # here, so that importing dien_jax.utils does not import it

    if jax.config.values["jax_compilation_cache_dir"] is None:
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
            features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        except OSError:
            features = platform.processor()
        kind = f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
        try:
            folder = user_cache() / "compiled" / kind
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except UserError:
            return
        except OSError as error:
            say(f"compiled programs are not kept: {folder} cannot be written: {error.strerror}")
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
