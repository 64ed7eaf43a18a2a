"""Lines about the settings that large data decides."""

from dien_jax.config.preset_files import AUTO
from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset
from dien_jax.data.order import KEYED_EXAMPLES, automatic_order
from dien_jax.runs.folder import Run
from dien_jax.steps.embedding_rows import LAZY_ROWS, automatic_update, rows_of_large_tables


def large_data_choices(given: Config, run: Run, dataset: Dataset) -> list[str]:
    """Return a line for each setting that large data decided, or would have decided."""
    return [*_order_choice(given, dataset), *_update_choice(given, run, dataset)]


def _order_choice(given: Config, dataset: Dataset) -> list[str]:
    examples = len(dataset.splits["train"].label)
    if given.train.order != AUTO or automatic_order(examples) == "shuffled":
        return []
    reason = f"the order of more than {KEYED_EXAMPLES:,} training examples is not kept in memory"
    return [f"train.order is keyed: {reason}; --train.order shuffled keeps it"]


def _update_choice(given: Config, run: Run, dataset: Dataset) -> list[str]:
    if automatic_update(dataset.schema) == "dense":
        return []
    update, rows = run.config.optim.embedding_update, rows_of_large_tables(dataset.schema)
    about = f"optim.embedding_update is {update}"
    if given.optim.embedding_update == AUTO:
        reason = f"embedding tables have {rows:,} rows, more than {LAZY_ROWS:,}"
        other = "--optim.embedding-update dense updates all, which takes longer"
        return [f"{about}: {reason}, so a step updates only the rows of its batch; {other}"]
    if update == "dense":
        other = "--optim.embedding-update lazy_adam updates only those of its batch"
        return [f"{about}: each step updates all {rows:,} rows of embedding tables; {other}"]
    return []
