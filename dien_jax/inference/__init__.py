"""Inference: ranking candidates, scoring tables of requests, and exporting a model to one file.

All of it works with run folders, and ranking with exported files too. HTTP, flags and training
state may not enter.
"""

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
