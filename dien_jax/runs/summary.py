"""Summaries of several runs: their settings and metrics, short names, and groups of seeds.

A baseline has a folder too, with the scores of a simple model. Comparisons read these like the
scores of a run:

    FOLDER/scores-<split>.npy   float32 [n], click probabilities of valid and of test
    FOLDER/result.json          metrics, in the form of a run's
    FOLDER/baseline.json        name, data and settings; written last, marks a complete folder

``lists.json`` of a run has the metrics of its lists for the test split, from the end of ``train``
or the latest ``evaluate``, and the rank of each target, for comparisons.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dien_jax.errors import UserError, writing
from dien_jax.metrics.scores import selection_score
from dien_jax.runs.folder import (
    CONFIG_FILE,
    RESULT_FILE,
    ListMetrics,
    Run,
    StoredResult,
    read_evaluations,
    read_result,
)
from dien_jax.utils.files import read_json, write_array, write_json
from dien_jax.utils.json_values import Count, LargeCount

BASELINE_FILE, SCORES_FILE = "baseline.json", "scores-{}.npy"
LISTS_FILE = "lists.json"


class StoredLists(ListMetrics):
    """Content of ``lists.json``: a checkpoint's step, and the metrics of its lists."""

    step: Count


def save_lists(
    folder: Path, step: int, metrics: Mapping[str, Any], ranks: Mapping[int, float]
) -> None:
    """Write ``lists.json`` of a run folder."""
    places = {example: int(r) if math.isfinite(r) else None for example, r in ranks.items()}
    write_json(folder / LISTS_FILE, {"step": step, **metrics, "ranks": places})


@dataclass(frozen=True)
class BaselineRun:
    """The content of ``baseline.json``; fields that :class:`Run` also has mean the same.

    ``preset`` is the name of the baseline; ``settings`` were fixed or chosen on validation.
    """

    preset: str
    seed: LargeCount
    data: str
    data_digest: str
    settings: dict[str, Any]
    versions: dict[str, str]

    def save(self, folder: Path, result: dict[str, Any], scores: dict[str, np.ndarray]) -> None:
        """Create the folder and write its files; ``scores`` are float32 ``[n]`` by split."""
        with writing(folder, "--out"):
            folder.mkdir(parents=True)
            for split, values in scores.items():
                write_array(folder / SCORES_FILE.format(split), values)
            write_json(folder / RESULT_FILE, result)
            write_json(folder / BASELINE_FILE, dataclasses.asdict(self))


@dataclass(frozen=True)
class RunSummary:
    """The content of the folder of a run, without checkpoints, or of a baseline.

    ``name`` is the end of the path, as long as it takes to distinguish runs. ``evaluations`` is the
    content of ``metrics.jsonl``, ``result`` that of ``result.json``; None for an unfinished run.
    """

    name: str
    folder: Path
    run: Run | BaselineRun
    evaluations: Sequence[Mapping[str, Any]]
    result: StoredResult | None

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The best evaluation so far, by the score that training uses; None before the first."""
        scores = [selection_score(record["valid"]) for record in self.evaluations]
        ranked = ((s, r) for s, r in zip(scores, self.evaluations, strict=True) if s is not None)
        return max(ranked, key=lambda pair: pair[0], default=(None, None))[1]

    @property
    def best_step(self) -> int | None:
        """Step of the best checkpoint; None before the first evaluation."""
        if self.result is not None:
            return self.result["best_step"]
        return None if self.best is None else self.best["step"]

    @property
    def speed(self) -> float | None:
        """Training examples per second; None if unknown."""
        return None if self.result is None else self.result["train_examples_per_second"]

    @property
    def lists(self) -> ListMetrics | None:
        """Metrics of lists of the best checkpoint for the test split; None if not measured."""
        file = self.folder / LISTS_FILE
        stored = read_json(file, StoredLists) if os.path.lexists(file) else None
        if stored is not None and stored["step"] == self.best_step:
            return stored
        return None if self.result is None else self.result.get("lists")

    def metrics(self, split: str) -> dict[str, Any] | None:
        """Return the metrics of ``valid`` or ``test`` by name; None before they exist."""
        if self.result is not None:
            return {"valid": self.result["valid"], "test": self.result["test"]}[split]
        return self.best["valid"] if split == "valid" and self.best is not None else None


@dataclass(frozen=True)
class SeedGroup:
    """Runs with the same settings, data and warm start, which differ at most by seed.

    ``name`` is that of its only run, or the common start of the names and ``*`` if that is unique.
    """

    name: str
    members: tuple[RunSummary, ...]

    @property
    def finished(self) -> dict[int, RunSummary]:
        """The first finished run of each seed."""
        by_seed: dict[int, RunSummary] = {}
        for run in self.members:
            if run.result is not None:
                by_seed.setdefault(run.run.seed, run)
        return by_seed

    def by_seed(self, split: str, metric: str) -> dict[int, float]:
        """Return a metric by seed, for the seeds where it is defined."""
        metrics = {seed: run.metrics(split) or {} for seed, run in self.finished.items()}
        values = {seed: of_run.get(metric) for seed, of_run in metrics.items()}
        return {seed: value for seed, value in values.items() if value is not None}


def load_summaries(folders: Sequence[Path]) -> list[RunSummary]:
    """Read folders of runs and of baselines; refuse other folders, and duplicates."""
    resolved = [Path(os.path.realpath(folder)) for folder in folders]
    for number, path in enumerate(resolved):
        if path in resolved[:number]:
            raise UserError(f"run folder {folders[number]} is given twice")
    parts = 1  # number of trailing path parts that distinguishes them
    while len({path.parts[-parts:] for path in resolved}) < len(resolved):
        parts += 1
    names = ["/".join(path.parts[-parts:]) for path in resolved]
    runs = []
    for name, folder in zip(names, folders, strict=True):
        if not _is_run(folder) and (inside := sorted(filter(_is_run, folder.glob("*")))):
            found = f"found a folder of {len(inside)}, {inside[0]} for example"
            raise UserError(f"{folder}: expected the folder of a run or baseline, {found}")
        about = folder / BASELINE_FILE
        run = read_json(about, BaselineRun) if about.is_file() else Run.load(folder)
        evaluations, result = read_evaluations(folder), read_result(folder, StoredResult)
        runs.append(RunSummary(name, folder, run, evaluations, result))
    return runs


def setting_text(value: Any) -> str:
    """Return the value of a setting as text for a table."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else str(value).lower()


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (BASELINE_FILE, CONFIG_FILE))


def seed_groups(runs: Sequence[RunSummary]) -> list[SeedGroup]:
    """Group runs by settings, data and warm start, in the order of their first runs."""
    members: dict[tuple[Any, str, str], list[RunSummary]] = {}
    for summary in runs:
        run = summary.run
        settings = run.config if isinstance(run, Run) else (run.preset, str(run.settings))
        start = str(getattr(run, "warm_start", None))
        members.setdefault((settings, run.data_digest, start), []).append(summary)
    groups = []
    for group in members.values():
        name = group[0].name
        if len(group) > 1:
            start = os.path.commonprefix([run.name for run in group])  # noqa: RUF071
            others = [run for run in runs if run not in group]
            ambiguous = not start or any(run.name.startswith(start) for run in others)
            name = f"{name} +{len(group) - 1}" if ambiguous else f"{start}*"
        groups.append(SeedGroup(name, tuple(group)))
    return groups
