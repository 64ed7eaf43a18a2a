"""Optional dependencies, by the extra of the package that installs them."""

import importlib

from dien_jax.errors import UserError

EXTRAS = {
    "baselines": ("lightgbm",),
    "data": ("ibis", "duckdb", "pooch", "pyarrow"),
    "export": ("flatbuffers",),
    "mlflow": ("mlflow",),
    "onnx": ("jax2onnx", "onnxruntime"),
    "plot": ("matplotlib",),
    "spark": ("pyspark",),
    "serve": ("prometheus_client", "starlette", "uvicorn"),
    "wandb": ("wandb",),
}
"""The modules that each extra brings."""


def require(extra: str, work: str) -> None:
    """Check that an extra is installed, before a module that needs it is imported.

    ``work`` is the subject of the error message, e.g. ``"--out"`` or ``"exporting"``.
    """
    for module in EXTRAS[extra]:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(
                f"{work} needs the extra {extra!r} ({module} is not installed): "
                f"pip install 'dien_jax[{extra}]'"
            ) from error
