"""Commands that faults and kills are tried on, with their results to the last bit.

They run under a preloaded library that fails or kills them at their n-th change of a folder.
"""

import csv
import hashlib
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from dien_jax.runs.checkpoints import Checkpoints, named_leaves
from support.faults import PREPARE, TRAIN, Ending, contents
from support.forks import Forks, Job

SOURCE = Path(__file__).with_name("disk_faults.c")
LIMIT = 600.0
"""Seconds after which a command hangs."""
TIMES = ("wall_seconds", "train_examples_per_second", "seconds", "examples_per_second")
Results = Callable[[Path], Any]


def file_results(file: Path) -> Any:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def run_results(folder: Path) -> Any:
    """Return result, evaluations, and the arrays of the best and the latest checkpoint."""
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    arrays = {}
    for name, step in (("best", checkpoints.best_step()), ("latest", checkpoints.latest_step())):
        saved = folder / "checkpoints"
        path = sorted([*saved.glob(f"{step}"), *saved.glob(f"{step}-*")])[-1]
        leaves = named_leaves(ocp.PyTreeCheckpointer().restore(path / "state"))
        arrays[name] = {key: np.asarray(leaf).tobytes() for key, leaf in leaves.items()}
    result = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    calibration = folder / "calibration.json"
    kept = calibration.read_bytes() if calibration.exists() else b""
    names = sorted(path.name for path in folder.iterdir())
    return [_untimed(result), list(map(_untimed, lines)), arrays, kept, names]


def table_results(folder: Path) -> Any:
    with (folder / "results.csv").open(newline="") as stream:
        lines = [_untimed(line) for line in csv.DictReader(stream)]
    return [lines, sorted(path.name for path in folder.iterdir())]


def _untimed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in TIMES}


@dataclass(frozen=True)
class Program:
    """A command that makes ``out`` in a workspace.

    Attributes:
      line: the command line.
      out: the file or folder it makes.
      results: of ``out``, without times.
      again: the command line that goes on where it was stopped, if ``out`` has that file.
      keeps: whether what a stopped command leaves in ``out`` is used by the next one.
    """

    line: tuple[str, ...]
    out: str
    results: Results
    again: tuple[str, tuple[str, ...]] | None = None
    keeps: bool = False

    def repeated(self, folder: Path) -> tuple[str, ...]:
        """Return the command line that ends the work of a stopped command."""
        if self.again is not None and (folder / self.out / self.again[0]).exists():
            return self.again[1]
        return self.line

    def leftovers(self, folder: Path, before: dict[str, str]) -> list[str]:
        """Return what a stopped command must not leave: partial files, or files out of place."""
        changed = [path for path, digest in contents(folder).items() if before.get(path) != digest]
        inside = f"{self.out}/"
        return [
            path
            for path in changed
            if ".partial-" in path
            or not (self.keeps and (path == self.out or path.startswith(inside)))
        ]


def _replaced(line: tuple[str, ...], **words: str) -> tuple[str, ...]:
    return tuple(words.get(word, word) for word in line)


REPRODUCE = ("reproduce", "--data", "data", "--out", "out", "--rows", "base_model", "--seeds", "1")
PROGRAMS = {
    "predict": Program(
        ("predict", "run", "--input", "queries.csv", "--out", "out"), "out", file_results
    ),
    "recommend": Program(
        ("recommend", "run", "--users", "queries.csv", "--out", "out"), "out", file_results
    ),
    "evaluate": Program(("evaluate", "run", "--predictions", "out"), "out", file_results),
    "export": Program(("export", "run", "--out", "out"), "out", file_results),
    "prepare": Program(_replaced(PREPARE, data="out"), "out", contents),
    "extend": Program(
        (*_replaced(PREPARE, **{"data": "out", "log.csv": "grown.csv"}), "--extend", "data"),
        "out",
        contents,
    ),
    "train": Program(
        (*_replaced(TRAIN, run="out"), "--train.epochs=2"),
        "out",
        run_results,
        ("config.json", ("train", "--resume", "out")),
        keeps=True,
    ),
    "reproduce": Program(REPRODUCE, "out", table_results, keeps=True),
}


def add_inputs(workspace: Path) -> None:
    log = (workspace / "log.csv").read_text()
    more = [f"u{user},i{user % 19},c1,2.5,t1,{1000 + user}" for user in range(10, 23)]
    (workspace / "grown.csv").write_text(log + "\n".join([*more, ""]))


def remove(folder: Path, before: dict[str, str]) -> None:
    """Remove everything that a workspace did not have before."""
    for path in sorted(contents(folder).keys() - before.keys()):
        target = folder / path
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


class Preloaded:
    """A process with the library, which runs commands in forks of itself."""

    def __init__(self, scratch: Path) -> None:
        library, self.log = scratch / "disk_faults.so", scratch / "log"
        compile_ = ["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"]
        subprocess.run(compile_, check=True)
        # Threads of boosted trees spin where cores are taken.
        self.forks = Forks(LD_PRELOAD=str(library), JAX_PLATFORMS="cpu", OMP_NUM_THREADS="1")

    def run(
        self,
        folder: Path,
        *command: str,
        at: int = 0,
        error: int = 0,
        stays: bool = False,
        seconds: float = LIMIT,
        kill: int = signal.SIGKILL,
    ) -> Ending:
        """Run a command in a folder, below which calls on files are counted.

        Call number ``at`` fails with errno ``error``, and later ones too if it ``stays``. Without
        an error the process gets the signal ``kill`` before that call, or after some seconds.
        """
        self.log.unlink(missing_ok=True)
        environment = {"FAULT_FOLDER": str(folder), "FAULT_LOG": str(self.log)}
        environment |= {"FAULT_AT": str(at), "FAULT_ERROR": str(error)}
        environment |= {"FAULT_STAYS": "1"} if stays else {}
        environment |= {"FAULT_SIGNAL": str(int(kill))}
        moments = ((seconds, int(kill)), (LIMIT, int(signal.SIGKILL)))
        (ended,) = self.forks.run(Job(command, str(folder), environment, moments))
        return Ending(ended.status, ended.output + ended.said)

    def calls(self) -> list[str]:
        """Return the calls of the last command that were counted, such as ``rename /data``."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.partition(" ")[2] for line in lines]
