"""Ranking with the one file that ``python -m dien_jax.export`` writes.

ranker = load_ranker("model.dien")  # or a run folder
ranker.rank(["item 1", "item 7"], ["item 3", "item 4"], user="Ann").ids
"""

from pathlib import Path

import jax

from dien_jax.artifact import Artifact, read_artifact
from dien_jax.base_ranker import BaseRanker
from dien_jax.errors import UserError
from dien_jax.portable import ranking_programs
from dien_jax.rank_calls import RankedModel
from dien_jax.ranker import Ranker
from dien_jax.raw_values import SEPARATOR, Vocabularies


class ExportedRanker(BaseRanker):
    """Ranks candidates with an exported model, alone in its file; see :class:`BaseRanker`.

    Args:
      file: written by ``python -m dien_jax.export``.
      max_users: remembered users; of more, those least recently used are forgotten.
      separator: between the values of a multi-valued context feature that comes as one text.

    Raises:
      UserError: when the file is missing, another kind of file, damaged or too new.
      ValueError: for ``max_users`` below 1.
    """

    def __init__(
        self, file: str | Path, *, max_users: int = 1000, separator: str = SEPARATOR
    ) -> None:
        super().__init__(exported_model(read_artifact(Path(file)), separator), max_users)


def exported_model(artifact: Artifact, separator: str = SEPARATOR) -> RankedModel:
    """An exported model as a ranker takes it."""
    return RankedModel(
        artifact.schema,
        artifact.manifest["step"],
        artifact.manifest["max_history"],
        tuple(artifact.manifest["history_buckets"]),
        Vocabularies(artifact, separator),
        (jax.device_put(artifact.weights),),
        ranking_programs(artifact.programs),
    )


def load_ranker(
    path: str | Path,
    data: str | Path | None = None,
    *,
    max_users: int = 1000,
    separator: str = SEPARATOR,
) -> BaseRanker:
    """What ranks with a run folder or with an exported model, whichever lies there.

    Args:
      path: a run folder, for a :class:`Ranker`; a file, for an :class:`ExportedRanker`.
      data: the run's dataset folder, where that has moved; a file needs none.
      max_users: as both take it.
      separator: as both take it.

    Raises:
      UserError: when there is neither, what lies there cannot be used, or a file is given data.
      ValueError: for ``max_users`` below 1.
    """
    path = Path(path)
    if path.is_dir():
        return Ranker(path, data, max_users=max_users, separator=separator)
    if not path.exists():
        raise UserError(
            f"{path} does not exist; expected a run folder, or a file that "
            f"python -m dien_jax.export wrote"
        )
    if data is not None:
        raise UserError(f"{path} is an exported model, which needs no data; leave {data} out")
    return ExportedRanker(path, max_users=max_users, separator=separator)
