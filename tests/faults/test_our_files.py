"""Files of ours that were edited, were cut or come from another version.

Every key of every JSON file is removed, and gets a value of another type and one out of range;
files of every kind are cut at three places, and replaced by a link to themselves. Changes that keep
a file valid are no cases.
"""

import json
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import faults
from support.faults import TRAIN, Case
from support.json_files import REMOVED, edit, edit_json

pytestmark = pytest.mark.long

HOST = "run/checkpoints/13/host/metadata"
LOGGERS = "run/loggers.json"
Keys = tuple[str | int, ...]
CHANGES = {"removed": REMOVED, "a list": [[]], "a huge number": 10**30, "a negative number": -7}
FRESH = ("train", *TRAIN[1:3], "--run-dir", "new")
RESUME, EVALUATE = ("train", "--resume", "run"), ("evaluate", "run")
SERVE = ("serve", "model.dien", "--port=0")
READERS = {
    "data/meta.json": FRESH,
    "data/statistics/item/counts.json": FRESH,
    "run/config.json": EVALUATE,
    "run/result.json": RESUME,
    "run/calibration.json": EVALUATE,
    "run/list_weights.json": EVALUATE,
    "run/metrics.jsonl": ("compare", "run"),
    HOST: RESUME,
    LOGGERS: RESUME,
    "model.dien": SERVE,
}
"""JSON files, and the command that reads each; of an exported file, the manifest."""
MESSAGES = {
    # Where it and an array disagree, the array is named, and what meta.json says of it.
    "data/meta.json": r"meta\.json|\w\.(txt|npy): expected .*\b10{29}[01]\b.* found \d",
    "run/config.json": r"config\.json|does not fit the run",
    HOST: "checkpoint",
    "model.dien": r"model\.dien",
}
FREE = {
    "data/meta.json": ("split", "source.files", "source.time_unit", "source.settings."),
    "run/config.json": ("versions.",),
    "run/result.json": ("versions.", "valid.", "test.", "baselines."),
    "run/calibration.json": ("fitted_on.",),
    "run/list_weights.json": ("fitted_on.",),
    "run/metrics.jsonl": ("train.", "valid."),
    HOST: (),
}
"""Starts of keys whose values may be others, or missing: nothing is computed from them."""
ACCEPTED = {
    *(("data/meta.json", key, "removed") for key in ("source", "source.name", "source.settings")),
    ("data/meta.json", "schema.item.2.mean", "a negative number"),
    *(("data/meta.json", f"schema.item.{place}", "removed") for place in (1, 2, 3)),
    *(("run/calibration.json", key, "a negative number") for key in ("offset", "shift")),
    (LOGGERS, "loggers.0", "removed"),
    ("run/config.json", "train.buckets.0", "removed"),
}
"""Changes that leave a valid file, which says something else; by file, key and change."""


def is_refused(file: str, key: str, old: Any, change: str) -> bool:
    if (file, key, change) in ACCEPTED:
        return False
    if file in ("model.dien", HOST):  # a digest or test_progress.py sees the others
        return change == "a list" and not (key.startswith("programs.") and key.count(".") > 2)
    if key.startswith(FREE.get(file, ())):
        return False
    if change == "a huge number":  # as any number it may be that of a setting
        return isinstance(old, int) and not isinstance(old, bool)
    return change != "a negative number" or (type(old) in (int, float))


def keys_of(values: Any, above: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Yield the keys of all values inside a value, and the values; of many alike the first."""
    inner = list(values.items() if isinstance(values, dict) else enumerate(values))
    is_list_of_plain = isinstance(values, list) and not any(isinstance(v, dict) for v in values)
    if is_list_of_plain or all("/" in str(key) for key, _ in inner):
        inner = inner[:1]
    for key, value in inner:
        yield (*above, key), value
        if isinstance(value, dict | list):
            yield from keys_of(value, (*above, key))


def edited(file: str, keys: Keys, value: Any, folder: Path) -> None:
    """Edit a JSON file of a workspace, or the manifest of the exported file."""
    target = folder / file
    if file in (HOST, LOGGERS):
        faults.unfinish(folder)
    if file != "model.dien":
        edit_json(target, *keys, value=value)
        if target.suffix == ".jsonl":
            target.write_text(target.read_text() + "\n")
        return
    with zipfile.ZipFile(target) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(entries["manifest.json"])
    edit(manifest, keys, value)
    entries["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def content(workspace: Path, file: str) -> Any:
    if file == "model.dien":
        return json.loads(zipfile.ZipFile(workspace / file).read("manifest.json"))
    return json.loads((workspace / file).read_text())


def edits(file: str, values: Any) -> Iterator[Case]:
    command, *arguments = READERS[file]
    for keys, old in keys_of(values):
        key = ".".join(map(str, keys))
        for change, value in CHANGES.items():
            if is_refused(file, key, old, change):
                name = f"{file}: {key}: {change}"
                damage = partial(edited, file, keys, value)
                message = MESSAGES.get(file, Path(file).name.replace(".", r"\."))
                yield Case(command, name, tuple(arguments), damage, message)


OF_DATA = """
groups.txt vocab/item.txt popularity.npy items/tags/offsets.npy statistics/item/counts.json
meta.json
"""
"""One of each kind; ``tests/data/test_dataset.py`` removes, damages and changes all of them."""
CUT: dict[tuple[str, ...], tuple[str, ...]] = {
    EVALUATE: (
        *("run/config.json", "run/calibration.json", "run/list_weights.json"),
        *(f"data/{name}" for name in OF_DATA.split()),
    ),
    ("compare", "run"): ("run/result.json",),
    RESUME: (HOST, LOGGERS, "run/result.json"),
    SERVE: ("model.dien",),
}
"""Files by the command that reads them."""


def cut(file: str, share: float | None, folder: Path) -> None:
    """Leave a share of a file of a workspace, or a link to itself."""
    if file in (HOST, LOGGERS):
        faults.unfinish(folder)
    content, target = (folder / file).read_bytes(), folder / file
    target.unlink()
    if share is None:
        target.symlink_to(target.name)
    else:
        target.write_bytes(content[: int(share * len(content))])


def cuts() -> Iterator[Case]:
    """Yield every file cut to nothing, within its head and at its end."""
    for (command, *arguments), files in CUT.items():
        for file in files:
            for share in (0, 0.1, 0.9, None):
                message = "checkpoint" if file == HOST else Path(file).name.replace(".", r"\.")
                damage = partial(cut, file, share)
                yield Case(command, f"{share} of {file}", tuple(arguments), damage, message)


@pytest.mark.parametrize("file", READERS)
def test_edited_files_are_refused_by_name(file, workspace, copies):
    cases = list(edits(file, content(workspace, file)))
    assert cases
    for case in cases:
        faults.attempt(case, workspace)
        faults.restore(workspace, *copies[1:])


@pytest.mark.parametrize("case", list(cuts()), ids=str)
def test_cut_files_are_refused_by_name(case, workspace):
    faults.attempt(case, workspace)
