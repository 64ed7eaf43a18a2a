"""The folder in which the package keeps files for later processes."""

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """Return ``$DIEN_KERNELS_CACHE``, or a folder in the user's cache; None without a home."""
    if chosen := os.environ.get("DIEN_KERNELS_CACHE"):
        return Path(chosen)
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without an entry, and no HOME
        return None
    return Path(cache) / "dien_kernels"
