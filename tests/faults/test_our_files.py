"""Files of ours that were edited, were cut or come from another version.

Every key of every JSON file is removed, and gets values of other types and out of range; every file
is cut at each power of two. A case in sixteen runs without ``-m slow``. Changes that keep a file
valid, such as another text in place of a text, are no cases.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import faults
from support.faults import TRAIN, Case
from support.our_files import FORMS, HOST, LOGGERS
from support.small_dataset import PART

pytestmark = pytest.mark.long

Keys = tuple[str | int, ...]
REMOVED, SLOW = object(), pytest.mark.slow
CHANGES = {
    "removed": REMOVED,
    "a number": 3.5,
    "text": "x",
    "a list": [[]],
    "null": None,
    "an object": {"x": 1},
    "a huge number": 10**30,
    "a negative number": -7,
}
FRESH = ("train", *TRAIN[1:3], "--run-dir", "new")
RESUME, EVALUATE = ("train", "--resume", "run"), ("evaluate", "run")
SERVE = ("serve", "model.dien", "--port=0")
READERS = {
    "data/meta.json": FRESH,
    "data/statistics/item/counts.json": FRESH,
    "run/config.json": EVALUATE,
    "run/result.json": RESUME,
    "run/calibration.json": EVALUATE,
    "run/metrics.jsonl": ("compare", "run"),
    HOST: RESUME,
    LOGGERS: RESUME,
    "model.dien": SERVE,
}
"""JSON files, and the command that reads each; of an exported file, the manifest."""
MESSAGES = {
    "run/config.json": r"config\.json|does not fit the run",
    HOST: "checkpoint",
    "model.dien": r"model\.dien",
}
FREE = {
    "data/meta.json": ("split", "source.files", "source.time_unit", "source.settings."),
    "run/config.json": ("versions.",),
    "run/result.json": ("versions.", "valid.", "test.", "baselines."),
    "run/calibration.json": ("fitted_on.", "cross_validated_log_loss."),
    "run/metrics.jsonl": ("train.", "valid."),
    HOST: (),
}
"""Starts of keys whose values may be others, or missing: nothing is computed from them."""
ACCEPTED = {
    *(("data/meta.json", key, "removed") for key in ("source", "source.name", "source.settings")),
    *(("data/meta.json", key, "an object") for key in ("source", "source.settings")),
    ("data/meta.json", "schema.item.2.mean", "a negative number"),
    *(("data/meta.json", f"schema.item.{place}", "removed") for place in (1, 2, 3)),
    ("run/result.json", "train_examples_per_second", "null"),
    *(("run/result.json", key, "an object") for key in ("valid", "test", "baselines")),
    *(
        ("run/calibration.json", f"{key}.0", "a negative number")
        for key in ("logits", "calibrated")
    ),
    ("run/calibration.json", "shift", "a negative number"),
    *(
        ("run/calibration.json", key, "an object")
        for key in ("fitted_on", "cross_validated_log_loss")
    ),
    *(("run/metrics.jsonl", key, "an object") for key in ("train", "valid")),
    (LOGGERS, "loggers.0", "removed"),
    (HOST, "host.best_score", "a negative number"),
    (HOST, "host.timed_examples", "a huge number"),
    (HOST, "host.timed_seconds", "a huge number"),
    (HOST, "host.wall_seconds", "a huge number"),
    ("run/config.json", "train.buckets.0", "removed"),
    ("run/config.json", "model.statistics_layers.0", "removed"),  # the run has no such network
}
"""Changes that leave a valid file, which says something else; by file, key and change."""


def is_refused(file: str, key: str, old: Any, change: str) -> bool:
    """Return whether a change makes a file invalid."""
    if (file, key, change) in ACCEPTED:
        return False
    if file == "model.dien":  # it has a digest
        return True
    if key.startswith(FREE.get(file, ())):
        return False
    if change == "a huge number":
        return True
    if change == "a negative number":
        return isinstance(old, int | float) and not isinstance(old, bool)
    kinds = {"a number": float, "text": str, "null": type(None)}
    return not (isinstance(old, kinds.get(change, ())) or (old is None and change == "a number"))


def keys_of(values: Any, above: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Yield the keys of all values inside a value, and the values."""
    inner = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in inner:
        yield (*above, key), value
        if isinstance(value, dict | list):
            yield from keys_of(value, (*above, key))


def edit(keys: Keys, value: Any, values: Any) -> None:
    """Replace the value with some keys, or remove it."""
    for key in keys[:-1]:
        values = values[key]
    if value is REMOVED:
        del values[keys[-1]]
    else:
        values[keys[-1]] = value


def edited(file: str, keys: Keys, value: Any, folder: Path) -> None:
    """Edit a JSON file of a workspace, or the manifest of the exported file."""
    target = folder / file
    if file in (HOST, LOGGERS):
        faults.unfinish(folder)
    if file != "model.dien":
        faults.edit_json(target, partial(edit, keys, value))
        if target.suffix == ".jsonl":
            target.write_text(target.read_text() + "\n")
        return
    with zipfile.ZipFile(target) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(entries["manifest.json"])
    edit(keys, value, manifest)
    entries["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def content(workspace: Path, file: str) -> Any:
    """Return the object in a file of the workspace."""
    if file == "model.dien":
        return json.loads(zipfile.ZipFile(workspace / file).read("manifest.json"))
    return json.loads((workspace / file).read_text())


def edits() -> Iterator[Case]:
    """Yield the changes of every key that make a file invalid."""
    for file, form in FORMS.items():
        command, *arguments = READERS[file]
        for keys, old in keys_of(form):
            key = ".".join(map(str, keys))
            for change, value in CHANGES.items():
                if is_refused(file, key, old, change):
                    name = f"{file}: {key}: {change}"
                    damage = partial(edited, file, keys, value)
                    message = MESSAGES.get(file, Path(file).name.replace(".", r"\."))
                    yield Case(command, "edited files", name, tuple(arguments), damage, message)


def cut(file: str, length: int, folder: Path) -> None:
    """Cut a file of a workspace."""
    if file in (HOST, LOGGERS):
        faults.unfinish(folder)
    target = folder / file
    target.write_bytes(target.read_bytes()[:length])


CUT = {
    EVALUATE: {
        "run/config.json": 2048,
        "run/calibration.json": 256,
        "data/meta.json": 1024,
        "data/vocab/item.txt": 32,
        "data/vocab/category.txt": 8,
        f"data/{PART}/groups.txt": 64,
        "data/popularity.npy": 256,
        "data/items/price/values.npy": 128,
        "data/items/tags/values.npy": 128,
        "data/items/tags/offsets.npy": 256,
        f"data/{PART}/events/offsets.npy": 256,
        f"data/{PART}/events/item/values.npy": 512,
        f"data/{PART}/events/timestamp/values.npy": 1024,
        f"data/{PART}/examples/test/label/values.npy": 128,
        f"data/{PART}/examples/train/history_end/values.npy": 1024,
        f"data/{PART}/statistics/item/own.npy": 256,
        "data/statistics/item/count.npy": 128,
        "data/statistics/item/counts.json": 16,
    },
    ("compare", "run"): {"run/result.json": 1024},
    RESUME: {HOST: 128, LOGGERS: 32},
    SERVE: {"model.dien": 32768},
}
"""Files by the command that reads them, and the largest power of two below their size."""


def cuts() -> Iterator[Case]:
    """Yield every file cut at every power of two."""
    for (command, *arguments), files in CUT.items():
        for file, largest in files.items():
            for length in [0, *(1 << power for power in range(largest.bit_length()))]:
                name, damage = f"{file} at {length}", partial(cut, file, length)
                message = "checkpoint" if file == HOST else Path(file).name.replace(".", r"\.")
                yield Case(command, "cut files", name, tuple(arguments), damage, message)


def marked(cases: Iterator[Case]) -> list[Any]:
    """Return cases as parameters: one in sixteen is quick."""
    parameters = []
    for case in cases:
        is_quick = zlib.crc32(str(case).encode()) % 16 == 0
        parameters.append(pytest.param(case, id=str(case), marks=() if is_quick else SLOW))
    return parameters


@pytest.mark.parametrize("case", marked(edits()))
def test_edited_file_is_refused_by_name(case, attempt):
    attempt(case)


@pytest.mark.parametrize("case", marked(cuts()))
def test_cut_file_is_refused_by_name(case, attempt):
    attempt(case)


def test_forms_are_those_of_the_files(workspace):
    for file, form in FORMS.items():
        found = dict(keys_of(content(workspace, file)))
        for keys, value in keys_of(form):
            assert type(found[keys]) is type(value) or value is None, (file, keys)
        top = {keys[0] for keys in found}
        assert top == set(form), file
    for files in CUT.values():
        for file, largest in files.items():
            size = (workspace / file).stat().st_size
            assert largest < size, (file, size)
