"""Memory of the machine, and the refusal of work that exceeds it before anything is allocated."""

import os

from dien_jax.errors import UserError


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
