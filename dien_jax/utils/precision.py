"""Numbers of 32 bits: what checkpoints, exported files and all measurements here have."""

from dien_jax.errors import UserError


def require_32_bits() -> None:
    """Refuse JAX's mode of 64-bit numbers, in which parameters would have another type.

    A run trained in it could be read by no other process, and no other run by its process.

    >>> require_32_bits()

    Raises:
      UserError: when the mode is on.
    """
    import jax  # here, so that importing dien_jax.utils does not import it

    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        problem = "JAX computes in 64 bits (JAX_ENABLE_X64, or jax_enable_x64 of its configuration)"
        raise UserError(f"{problem}; expected 32 bits, which runs are trained and saved in")
