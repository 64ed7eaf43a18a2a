"""The runs of a comparison: what their folders hold, their names, and which belong together."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dien_jax.errors import UserError
from dien_jax.metrics.scores import selection_score
from dien_jax.runs.evaluations import read_evaluations
from dien_jax.runs.folder import Run, read_result


@dataclass(frozen=True)
class RunSummary:
    """One run of a comparison.

    Attributes:
      name: the end of its path that tells it from the others.
      folder: the run folder.
      run: its settings, seed and data.
      evaluations: what ``metrics.jsonl`` holds.
      result: what ``result.json`` holds; None for an unfinished run.
    """

    name: str
    folder: Path
    run: Run
    evaluations: list[dict[str, Any]]
    result: dict[str, Any] | None

    @property
    def best(self) -> dict[str, Any] | None:
        """The best evaluation so far, as training chooses it; None before the first."""
        best, best_score = None, None
        for record in self.evaluations:
            score = selection_score(record.get("valid", {}))
            if score is not None and (best_score is None or score > best_score):
                best, best_score = record, score
        return best

    @property
    def best_step(self) -> int | None:
        """Step of the best checkpoint; None before the first evaluation."""
        if self.result is not None:
            return self.result["best_step"]
        return None if self.best is None else self.best["step"]

    @property
    def speed(self) -> float | None:
        """Training examples a second; None where that is unknown."""
        return None if self.result is None else self.result["train_examples_per_second"]

    def metrics(self, split: str) -> dict[str, Any] | None:
        """Metrics of ``valid`` or ``test`` by name; None for those that do not exist yet."""
        if self.result is not None:
            return self.result[split]
        return self.best["valid"] if split == "valid" and self.best is not None else None


@dataclass(frozen=True)
class SeedGroup:
    """Runs of the same settings, data and start, which differ by seed at most.

    Attributes:
      name: that of its only run, or what the names of its runs begin with and ``*``.
      members: its runs.
    """

    name: str
    members: tuple[RunSummary, ...]

    @property
    def finished(self) -> dict[int, RunSummary]:
        """The first finished run of each seed."""
        found: dict[int, RunSummary] = {}
        for member in self.members:
            if member.result is not None:
                found.setdefault(member.run.seed, member)
        return found

    def by_seed(self, split: str, metric: str) -> dict[int, float]:
        """A metric of each seed that has it."""
        found = {}
        for seed, member in self.finished.items():
            value = (member.metrics(split) or {}).get(metric)
            if value is not None:
                found[seed] = value
        return found


def load_summaries(folders: Sequence[Path]) -> list[RunSummary]:
    """Reads run folders.

    Raises:
      UserError: for a folder that is no run, is damaged or comes twice.
    """
    resolved = [folder.resolve() for folder in folders]
    for number, path in enumerate(resolved):
        if path in resolved[:number]:
            raise UserError(f"run folder {folders[number]} is given twice")
    return [
        RunSummary(name, folder, Run.load(folder), read_evaluations(folder), read_result(folder))
        for name, folder in zip(_names(resolved), folders, strict=True)
    ]


def seed_groups(members: Sequence[RunSummary]) -> list[SeedGroup]:
    """The runs by settings, data and start, in the order in which these first come."""
    found: dict[tuple[Any, str, str], list[RunSummary]] = {}
    for member in members:
        run = member.run
        found.setdefault((run.config, run.data_digest, str(run.warm_start)), []).append(member)
    groups = []
    for each in found.values():
        name = each[0].name
        if len(each) > 1:
            start = os.path.commonprefix([member.name for member in each])  # noqa: RUF071
            others = [member for member in members if member not in each]
            unclear = not start or any(member.name.startswith(start) for member in others)
            name = f"{name} +{len(each) - 1}" if unclear else f"{start}*"
        groups.append(SeedGroup(name, tuple(each)))
    return groups


def _names(paths: Sequence[Path]) -> list[str]:
    """As many last parts of the paths as tell them apart."""
    count = 1
    while len({path.parts[-count:] for path in paths}) < len(paths):
        count += 1
    return ["/".join(path.parts[-count:]) for path in paths]
