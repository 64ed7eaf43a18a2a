"""The same command takes over the parts that a killed `prepare` had finished, to the last bit."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.equal_folders import assert_equal
from support.split_logs import SPLITS, log_of

from dien_jax.data.dataset import open_dataset
from dien_jax.preparation.pipeline import events as pipeline_events
from dien_jax.preparation.sources import impressions, interactions

pytestmark = pytest.mark.fast

PART_EVENTS = 25
KILLED = """
import os, signal, sys
from pathlib import Path
from dien_jax.preparation.writer import DatasetWriter
from dien_jax.preparation.pipeline import events
from dien_jax.preparation.sources import impressions, interactions
events.PART_EVENTS = {part_events}
next_part, parts = DatasetWriter.next_part, []
def killed(self, *note):
    next_part(self, *note)
    parts.append(note)
    if len(parts) == {finished}:
        os.kill(os.getpid(), signal.SIGKILL)
DatasetWriter.next_part = killed
from pathlib import PosixPath
{source}.prepare({source}.{options})
"""


def kill_after(finished: int, options: interactions.InteractionsOptions, source: str) -> None:
    """Run a preparation that is killed when a number of parts are finished."""
    program = KILLED.format(
        part_events=PART_EVENTS, finished=finished, source=source, options=options
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


@pytest.fixture
def written(monkeypatch) -> list[int]:
    """Return the first sequences of the parts that this process makes."""
    monkeypatch.setattr(pipeline_events, "PART_EVENTS", PART_EVENTS)
    made: list[int] = []
    for source in ("from_interactions", "from_impressions"):
        module = sys.modules.get(f"dien_jax.preparation.pipeline.{source}")
        if module is None:
            module = __import__(f"dien_jax.preparation.pipeline.{source}", fromlist=["_"])

        def part(first: int, *columns, make=module.FolderPart):
            made.append(first)
            return make(first, *columns)

        monkeypatch.setattr(module, "FolderPart", part)
    return made


@pytest.mark.long
@pytest.mark.parametrize(
    ("source", "split"), [("interactions", "train-from"), ("impressions", "last-event")]
)
def test_finished_parts_are_not_made_again(source, split, tmp_path, written, capsys):
    settings = dict(SPLITS[split])
    if source == "interactions":
        settings["negatives"] = 2
    else:
        settings.pop("max_examples", None)
    module = {"interactions": interactions, "impressions": impressions}[source]
    kind = module.InteractionsOptions if source == "interactions" else module.ImpressionsOptions
    options = kind(
        file=log_of(tmp_path, label=True),
        out=tmp_path / "whole",
        item_features=("kind", "price:numeric"),
        **settings,
    )
    summary = module.prepare(options)
    whole, parts = open_dataset(options.out), list(written)
    assert len(parts) > 3
    again = dataclasses.replace(options, out=tmp_path / "again")
    for finished in (2, len(parts)):
        written.clear()
        kill_after(finished, again, source)
        assert list(tmp_path.glob(".again.partial-*"))
        assert module.prepare(again) == summary
        assert written == parts[finished:]
        assert "parts that a process had written before it was stopped: " in capsys.readouterr().err
        assert_equal(whole, open_dataset(again.out))
        assert_same_files(options.out, again.out)
        assert not list(tmp_path.glob(".again.partial-*"))
        os.rename(again.out, tmp_path / f"after {finished}")  # noqa: PTH104


def assert_same_files(left: Path, right: Path) -> None:
    """Compare all files of two folders."""
    files = [
        {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        for folder in (left, right)
    ]
    assert files[0] == files[1]


def test_other_options_or_another_log_take_nothing_over(tmp_path, written):
    options = interactions.InteractionsOptions(
        file=log_of(tmp_path), out=tmp_path / "data", split="last-event"
    )
    kill_after(2, options, "interactions")
    interactions.prepare(dataclasses.replace(options, seed=1))
    assert written[0] == 0
    assert not list(tmp_path.glob(".data.partial-*"))
    options.out.rename(tmp_path / "other")
    kill_after(2, options, "interactions")
    log_of(tmp_path, users=31)
    written.clear()
    interactions.prepare(options)
    assert written[0] == 0
    assert len(np.load(options.out / "popularity.npy")) > 1
