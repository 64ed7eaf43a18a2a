"""The folder of a baseline: the scores of a simple model, which comparisons read as those of a run.

FOLDER/scores-<split>.npy   float32 [n], click probabilities of valid and of test
FOLDER/result.json          metrics, in the form of a run's
FOLDER/baseline.json        name, data and settings; written last: without it, no baseline
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dien_jax.data.arrays import read_probabilities
from dien_jax.data.dataset import Dataset
from dien_jax.errors import UserError, writing
from dien_jax.runs.folder import RESULT_FILE
from dien_jax.utils.files import atomic_path, read_json, write_json
from dien_jax.utils.json_values import LargeCount

BASELINE_FILE = "baseline.json"


@dataclass(frozen=True)
class BaselineRun:
    """The content of ``baseline.json``.

    Attributes:
      preset: name of the baseline, in the place of a run's preset.
      seed: random seed.
      data: absolute path of the dataset folder.
      data_digest: sha256 of its ``meta.json``.
      settings: the settings that were fixed or chosen on the validation split.
      versions: of Python and the packages that decide the outcome.
    """

    preset: str
    seed: LargeCount
    data: str
    data_digest: str
    settings: dict[str, Any]
    versions: dict[str, str]

    @property
    def warm_start(self) -> None:
        """None: a baseline starts from nothing."""
        return None

    def save(self, folder: Path, result: dict[str, Any], scores: dict[str, np.ndarray]) -> None:
        """Create the folder and write its files; ``scores`` are float32 ``[n]`` by split."""
        with writing(folder, "--out"):
            folder.mkdir(parents=True)
            for split, values in scores.items():
                file = folder / _scores_name(split)
                with atomic_path(file) as partial, partial.open("wb") as stream:
                    np.save(stream, values)
            write_json(folder / RESULT_FILE, result)
            write_json(folder / BASELINE_FILE, dataclasses.asdict(self))

    @classmethod
    def load(cls, folder: Path) -> "BaselineRun":
        """Read ``baseline.json``."""
        return read_json(folder / BASELINE_FILE, cls)


def is_baseline(folder: Path) -> bool:
    """Return whether a folder is that of a complete baseline."""
    return (folder / BASELINE_FILE).is_file()


def read_scores(file: Path, dataset: Dataset, split: str) -> np.ndarray:
    """Read scores of the examples of a split; a file that has others is a ``UserError``."""
    try:
        return read_probabilities(file, len(dataset.splits[split].label))
    except UserError as error:
        raise UserError(f"{error}; remove it") from error


def stored_scores(folder: Path, dataset: Dataset, split: str) -> np.ndarray:
    """Return a baseline's scores of a split, float32 ``[n]``."""
    return read_scores(folder / _scores_name(split), dataset, split)


def _scores_name(split: str) -> str:
    return f"scores-{split}.npy"
