"""Ranking with the best checkpoint of a run.

ranker = Ranker("runs/first")
ranker.rank(["item 1", "item 7"], ["item 3", "item 4"], user="Ann").ids
"""

from pathlib import Path

import jax

from dien_jax.base_ranker import BaseRanker
from dien_jax.config import Config
from dien_jax.rank_calls import RankedModel
from dien_jax.rank_programs import make_programs
from dien_jax.raw_values import SEPARATOR, Vocabularies
from dien_jax.schema import FeatureTables
from dien_jax.trained import Trained, load_trained


class Ranker(BaseRanker):
    """Ranks candidates with the best checkpoint of a run.

    Methods are those of :class:`~dien_jax.base_ranker.BaseRanker`.

    Args:
      run_folder: made by ``dien_jax.train``.
      data: its dataset folder, where that has moved; of which vocabularies and features are read.
      max_users: remembered users; of more, those least recently used are forgotten.
      separator: between the values of a multi-valued context feature that comes as one text.

    Raises:
      UserError: when the run, its checkpoint or the data is at fault.
      ValueError: for ``max_users`` below 1.
    """

    def __init__(
        self,
        run_folder: str | Path,
        data: str | Path | None = None,
        *,
        max_users: int = 1000,
        separator: str = SEPARATOR,
    ) -> None:
        trained = load_trained(Path(run_folder), None if data is None else Path(data))
        super().__init__(ranked_model(trained, separator), max_users)


def ranked_model(trained: Trained, separator: str = SEPARATOR) -> RankedModel:
    """A trained model as a ranker takes it."""
    config, dataset = trained.run.config, trained.dataset
    variables = {"params": trained.params, "batch_stats": trained.batch_stats}
    tables = FeatureTables(dataset.item_tables(), dataset.user_tables())
    return RankedModel(
        dataset.schema,
        trained.step,
        config.train.max_history,
        history_buckets(config),
        Vocabularies(dataset, separator),
        jax.device_put((variables, tables)),
        make_programs(config, dataset.schema),
    )


def history_buckets(config: Config) -> tuple[int, ...]:
    """Lengths that histories are padded to, ``max_history`` the last."""
    train = config.train
    return (*(edge for edge in train.buckets if edge < train.max_history), train.max_history)
