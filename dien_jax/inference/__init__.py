"""Inference: rank candidates, score tables of requests, and export a model to one file.

All functions take run folders; those that rank or list items take exported files too. HTTP, flags
and training state do not belong here. Names are imported when they are first used, so that commands
show their flags without JAX.
"""

from typing import TYPE_CHECKING

from dien_jax._lazy import lazy_names

if TYPE_CHECKING:
    from dien_jax.inference.bucketed_programs import RankRequest
    from dien_jax.inference.export import export_run
    from dien_jax.inference.list_metrics import measure_lists
    from dien_jax.inference.lists import Ranking
    from dien_jax.inference.ranker import Ranker
    from dien_jax.inference.request_tables import RequestColumns, UserColumns
    from dien_jax.inference.score_table import list_for_users, score_requests

__all__ = [
    "RankRequest",
    "Ranker",
    "Ranking",
    "RequestColumns",
    "UserColumns",
    "export_run",
    "list_for_users",
    "measure_lists",
    "score_requests",
]

__getattr__, __dir__ = lazy_names(__name__, __file__)
