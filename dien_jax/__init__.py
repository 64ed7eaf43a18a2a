"""Click models over behaviour histories: DIEN and its family, in JAX.

    import dien_jax

    result = dien_jax.fit(dien_jax.preset("wide_dien"), data="data", run_dir="runs/first")
    print(result.test["auc"])

Every file in this folder is a command (``python -m dien_jax`` lists them), and every folder is a
layer of the library. Names are imported at their first use: ``import dien_jax`` imports no JAX.
"""

import signal
import sys
from typing import TYPE_CHECKING

from dien_jax._lazy import lazy_names
from dien_jax._version import __version__
from dien_jax.errors import UserError

if TYPE_CHECKING:
    from dien_jax.config.presets import PRESETS, preset
    from dien_jax.config.settings import Config, MeshConfig, ModelConfig, OptimConfig, TrainConfig
    from dien_jax.data.dataset import Dataset, open_dataset
    from dien_jax.data.loader import Loader
    from dien_jax.data.schema import Feature, Schema
    from dien_jax.data.tables import Batch
    from dien_jax.inference.bucketed_programs import RankRequest
    from dien_jax.inference.lists import Ranking
    from dien_jax.inference.ranker import Ranker
    from dien_jax.metrics.scores import auc, gauc, logloss
    from dien_jax.model.click_model import ClickModel
    from dien_jax.preparation.own_log import make_dataset
    from dien_jax.preparation.writer import DatasetWriter
    from dien_jax.runs.trained import load_run, score_split
    from dien_jax.training.run import RunResult, fit, resume

__all__ = [
    "PRESETS", "Batch", "ClickModel", "Config", "Dataset", "DatasetWriter", "Feature", "Loader",
    "MeshConfig", "ModelConfig", "OptimConfig", "RankRequest", "Ranker", "Ranking", "RunResult",
    "Schema", "TrainConfig", "UserError", "__version__", "auc", "fit", "gauc", "load_run",
    "logloss", "make_dataset", "open_dataset", "preset", "resume", "score_split",
]  # fmt: skip


def _is_command() -> bool:
    """Return whether this process starts a command, ``python -m dien_jax...`` or ``dien-jax``."""
    if sys.argv[:1] == ["-m"]:  # until the module is found
        return any(part.removeprefix("-m").startswith(__name__) for part in sys.orig_argv[1:])
    return bool(sys.argv) and sys.argv[0].replace("\\", "/").rpartition("/")[2] == "dien-jax"


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Ctrl-C while a command imports its modules ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

__getattr__, __dir__ = lazy_names(__name__, __file__)
