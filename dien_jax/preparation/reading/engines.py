"""The engines: DuckDB, the default, and Spark, which is imported where it is asked for."""

import contextlib
from collections.abc import Iterator

from dien_jax.errors import require, writing
from dien_jax.preparation.memory import reading_limit
from dien_jax.preparation.options import LogOptions
from dien_jax.preparation.reading.duckdb_engine import duckdb_workspace
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.preparation.writer import check_target
from dien_jax.utils.files import check_utf8, partial_folder


@contextlib.contextmanager
def open_workspace(options: LogOptions) -> Iterator[Workspace]:
    """Open the engine with a hidden folder next to ``--out``, the folder to create, and remove it.

    Tables of DuckDB beyond ``--memory`` spill to that disk. Errors of the engine that a user can
    act on leave the block as ``UserError``.
    """
    check_target(options.out)
    check_utf8(options.out, "--out")
    limit = f"{reading_limit(options.memory)}B"
    with (
        writing(options.out, "dataset folder"),
        partial_folder(options.out, "work-") as folder,
        duckdb_workspace(options.out, folder, limit) as local,
    ):
        if options.engine == "duckdb":
            yield local
            return
        require("spark", "--engine spark")
        from dien_jax.preparation.reading.spark_workspace import spark_workspace

        with spark_workspace(local, options.spark_url, options.spark_folder) as workspace:
            yield workspace
