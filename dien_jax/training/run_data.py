"""The data of a run: what training needs of it, what it decides, and its simple models."""

import numpy as np

from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset
from dien_jax.errors import UserError
from dien_jax.metrics.scores import auc
from dien_jax.utils.console import say

BEST_POSSIBLE = "best possible"
"""Name among simple models of the AUC of true probabilities."""


def check_splits(dataset: Dataset, config: Config) -> None:
    """Refuse data without the examples that training needs; warn where AUC is undefined."""
    for split, purpose in (("train", "train on"), ("valid", "choose the best checkpoint by")):
        if not len(dataset.splits[split].label):
            raise UserError(f"{dataset.path} has no {split} examples to {purpose}")
    labels = np.unique(dataset.splits["train"].label)
    if len(labels) < 2:
        problem = f"the train split has label {labels[0]} only, and no model can learn from it"
        raise UserError(f"{dataset.path}: {problem}")
    for split in ("valid", "test"):
        labels = np.unique(dataset.splits[split].label)
        if len(labels) < 2:
            content = f"label {labels[0]} only" if len(labels) else "no examples"
            if split == "valid" and config.train.click_rate is not None:
                raise UserError(
                    f"train.click_rate needs validation examples of both labels to be compared "
                    f"with, {dataset.path} has {content}"
                )
            instead = "; log loss chooses the best checkpoint" if split == "valid" else ""
            say(f"warning: the {split} split has {content}, so it has no AUC{instead}")


def simple_baselines(dataset: Dataset) -> dict[str, float | None]:
    """Return the AUC on the test split without histories: popularity, and the best possible."""
    test = dataset.splits["test"]
    labels = np.asarray(test.label)
    baselines = {"popularity": auc(labels, dataset.popularity[np.asarray(test.item)])}
    dataset.check_files()
    best = dataset.meta.get("best_possible", {}).get("test", {})
    if "auc" in best:
        baselines[BEST_POSSIBLE] = best["auc"]
    return baselines
