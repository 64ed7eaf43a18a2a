"""Memory that a process frees, and the refusal of work that exceeds that of the machine."""

import contextlib
import ctypes
import os

from dien_jax.errors import UserError

GLIBC_VARIABLES = (
    "GLIBC_TUNABLES",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
)
"""Variables by which a user sets glibc's allocator."""

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # options of mallopt(3)
_NEVER = -1


def keep_freed_memory() -> bool:
    """Keep memory that the process frees; return True if that could be set.

    XLA's CPU backend allocates the temporaries of a program at every call and frees them after it.
    The allocator of glibc takes large blocks from the system and gives them back, so that each
    training step touches all of their pages for the first time. With this setting the pages stay:
    steps are faster, and the resident memory of the process stays at its peak.

    The commands call this when they start. Functions of the package never do: it changes the
    allocator of the whole process. Call it before the first computation.

    Nothing changes, and the result is False, where the C library is not glibc, and where the
    environment sets the allocator: ``GLIBC_TUNABLES`` or a ``MALLOC_...`` variable.

    >>> isinstance(keep_freed_memory(), bool)
    True
    """
    if any(name in os.environ for name in GLIBC_VARIABLES):
        return False
    try:
        library = ctypes.CDLL(None)
        mallopt = library.gnu_get_libc_version and library.mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or a system without dlopen
        return False
    # One arena: heaps of other threads hold no block over 64 MB, which would be mapped after all.
    settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER))
    return all(mallopt(option, value) for option, value in settings)


def trim_memory() -> None:
    """Give freed memory back to the system, where the C library is glibc."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def machine_bytes() -> int | None:
    """Return the memory of this machine in bytes; None where it is unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def require_memory(needed: int, available: int | None, subject: str, advice: str) -> None:
    """Refuse work whose least memory, in bytes, is more than there is.

    Args:
      needed: an estimate that the work cannot stay below.
      available: the memory; None where it is unknown, and nothing is refused.
      subject: what takes the memory, in the plural, with the settings that decide it.
      advice: the remedy.

    Raises:
      UserError: with both sizes.
    """
    if available is not None and needed > available:
        raise UserError(
            f"{subject} take at least {needed / 1e9:,.1f} GB, "
            f"more than the {available / 1e9:,.1f} GB of memory; {advice}"
        )
