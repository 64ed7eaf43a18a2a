"""A training run, from its first step or its latest checkpoint to its result"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np

from dien_jax.data.dataset import Dataset
from dien_jax.errors import UserError
from dien_jax.runs.folder import Run
from dien_jax.training.loop import Trainer
from dien_jax.training.warm_start import Source, grown, load_source


def _start_from(run: Run, dataset: Dataset, trainer: Trainer, source: Source | None) -> None:
    """Gives the trainer what another run has learned; from then on that is its own checkpoint.

    Raises:
      UserError: when a run that was killed before that finds it changed or gone.
    """
    assert run.warm_start is not None
    folder, step = Path(run.warm_start["run"]), run.warm_start["step"]
    if source is None:
        source = load_source(folder, dataset, run.config)
    if source.step != step:
        raise UserError(
            f"--warm-start {folder}: this run began from its checkpoint of step {step}, but its "
            f"best one is now that of step {source.step}; start anew"
        )
    found = grown(source, dataset, trainer.state)
    trainer.start_from(found.state)
    _say(f"starting from {folder}, step {step:,}; {found}")


def _check_splits(dataset: Dataset) -> None:
    """Refuses data that cannot be trained or validated on; tells what cannot be measured."""
    for split, purpose in (("train", "train on"), ("valid", "choose the best checkpoint by")):
        if not len(dataset.splits[split].label):
            raise UserError(f"{dataset.path} has no {split} examples to {purpose}")
    for split in ("valid", "test"):
        found = np.unique(dataset.splits[split].label)
        if len(found) < 2:
            what = f"label {found[0]} only" if len(found) else "no examples"
            instead = "; the best checkpoint is chosen by log loss" if split == "valid" else ""
            _say(f"warning: the {split} split has {what}, so it has no AUC{instead}")


@dataclass
class _Stop:
    """Which signal asked the run to stop, if one did."""

    number: int | None = None


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Notes the first SIGINT or SIGTERM; a second one ends the process at once."""
    stop = _Stop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def note(number: int, frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        stop.number = number
        os.write(2, b"\nstopping once the state is saved; again to stop at once\n")

    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
