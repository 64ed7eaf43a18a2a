"""The folder in which the package keeps files for later processes."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``$DIEN_KERNELS_CACHE``, or a folder in the user's cache."""
    if chosen := os.environ.get("DIEN_KERNELS_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dien_kernels"
