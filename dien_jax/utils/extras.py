"""What sources of logs need beyond the package's own dependencies."""

import importlib

from dien_jax.errors import UserError


def require_data_extra(work: str = "preparing logs") -> None:
    """Checks that the extra ``data`` is there, before a module that imports it is.

    Args:
      work: what needs it.

    Raises:
      UserError: naming what is missing, and what to install.
    """
    for name in ("ibis", "duckdb", "pyarrow"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"{work} needs the extra 'data' ({name} is not installed): "
                "pip install 'dien_jax[data]'"
            ) from error


def require_flatbuffers() -> None:
    """Checks that what ``jax.export`` serialises with is there.

    Raises:
      UserError: saying what to install.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise UserError(
            "exported models need the extra 'export' (flatbuffers is not installed): "
            "pip install 'dien_jax[export]'"
        ) from error
