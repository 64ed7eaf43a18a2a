"""Arrays of ours with values that nobody writes, and surroundings of the native kernels.

A data folder and an exported file are edited so that every type, shape and checksum still fits.
"""

import io
import os
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support import faults
from support.faults import SETTINGS, Case, run_in_process
from support.small_dataset import PART
from support.tiny_run import LIGHT

pytestmark = pytest.mark.long

Change = Callable[[np.ndarray], np.ndarray]
COUNTED = tuple(flag for flag in SETTINGS if flag != "--model.no-statistics")
TRAIN = ("--data", "data", *COUNTED, *LIGHT, "--train.epochs=1", "--run-dir")
FRESH = (*TRAIN, "new")


def entry(place: int, value: float) -> Change:
    """Replace one entry of an array."""

    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.flat[place] = value
        return array

    return change


def shorter(array: np.ndarray) -> np.ndarray:
    return array[:-1]


def wider(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


def reversed_(array: np.ndarray) -> np.ndarray:
    return array[::-1].copy()


def changed(name: str, change: Change, folder: Path) -> None:
    file = folder / "data" / f"{name}.npy"
    np.save(file, change(np.load(file)))


def sequences(number: int, folder: Path) -> None:
    file = folder / "data/statistics/category/counts.json"
    faults.edit_json(file, lambda values: values.update(sequences=number))


ARRAYS: dict[str, dict[str, Change]] = {
    **{
        f"statistics/{feature}/{name}": {
            "-1": entry(0, -1),
            "one entry less": shorter,
            "another type": wider,
        }
        for feature in ("item", "category")
        for name in ("count", "other", "together", "before", "following", "offsets")
    },
    **{
        f"{PART}/statistics/{feature}/own": {
            "-1": entry(0, -1),
            "one entry less": shorter,
            "another type": wider,
        }
        for feature in ("item", "category")
    },
    "statistics/item/offsets": {"falling": reversed_},
    "statistics/category/other": {"2^30": entry(0, 2**30)},
    "popularity": {"-1": entry(0, -1), "another type": wider},
    "items/category/values": {"-1": entry(1, -1), "2^30": entry(1, 2**30)},
    "items/price/values": {"NaN": entry(1, np.nan), "infinity": entry(1, np.inf)},
    "items/tags/offsets": {"falling": reversed_},
    f"{PART}/examples/train/label/values": {"2": entry(0, 2), "-1": entry(0, -1)},
    f"{PART}/examples/train/history_end/values": {"-1": entry(0, -1), "2^30": entry(0, 2**30)},
}


NAMED = {("other", "one entry less"): "together"}
"""What a message names, where that is another array."""


def named(name: str) -> str:
    """Return what a message names for an array: its folder, or its file."""
    *_, folder, file = name.split("/") if "/" in name else ("", name)
    return folder if file == "values" else file


def _of_data() -> list[Case]:
    cases = [
        Case("train", "edited arrays", f"{name}: {label}", FRESH, partial(changed, name, change),
             NAMED.get((Path(name).name, label), named(name)))
        for name, changes in ARRAYS.items()
        for label, change in changes.items()
    ]  # fmt: skip
    return cases + [
        Case("train", "edited arrays", f"sequences: {number:,}", FRESH, partial(sequences, number),
             rf"counts\.json: sequences should be \d+, .* to 20, .* found {number}")
        for number in (0, 21)
    ]  # fmt: skip


@pytest.mark.parametrize("case", _of_data(), ids=str)
def test_array_of_the_data_is_refused_by_name(case, attempt):
    attempt(case)


@pytest.fixture(scope="module")
def counting_export(whole_workspace: Path, tmp_path_factory) -> Path:
    """An exported file of a model with counts, calibration and logistic regression."""
    folder = faults.copy(whole_workspace, tmp_path_factory.mktemp("counting") / "work")
    here = Path.cwd()
    os.chdir(folder)
    try:
        for line in (("train", *TRAIN, "counting"), ("export", "counting", "--out", "c.dien")):
            ending = run_in_process(*line)
            assert ending.status == 0, ending.output
    finally:
        os.chdir(here)
    return folder / "c.dien"


STORED: dict[str, dict[str, Change]] = {
    **{f"tables/statistics/item/{name}": {"-1": entry(0, -1)}
       for name in ("count", "together", "before", "following")},
    "tables/statistics/category/other": {"-1": entry(0, -1), "2^30": entry(0, 2**30)},
    "tables/statistics/item/offsets": {"falling": reversed_, "2^30": entry(-1, 2**30)},
    "tables/item/category": {"-1": entry(0, -1), "4": entry(0, 4)},
    "tables/item/price": {"NaN": entry(0, np.nan)},
    "tables/item/tags/values": {"2^30": entry(0, 2**30)},
    "tables/item/tags/count": {"3": entry(0, 3), "-1": entry(0, -1)},
    "calibration/logits": {"falling": reversed_, "equal": np.zeros_like},
    "calibration/calibrated": {"falling": reversed_, "NaN": entry(0, np.nan)},
    "params/logistic_regression/intercept": {"NaN": entry(0, np.nan)},
    "params/logistic_regression/item_weights/item": {"infinity": entry(0, np.inf)},
    "params/logistic_regression/statistics_mean": {"one entry less": shorter},
    "params/logistic_regression/statistics_weights": {"another type": lambda a: a.astype("f8")},
}  # fmt: skip


def stored(source: Path, name: str, change: Change, folder: Path) -> None:
    """Write a copy of the exported file with another array."""
    with zipfile.ZipFile(source) as archive:
        entries = {each: archive.read(each) for each in archive.namelist()}
    array, content = np.load(io.BytesIO(entries[f"weights/{name}.npy"])), io.BytesIO()
    np.save(content, change(array))
    entries[f"weights/{name}.npy"] = content.getvalue()
    with zipfile.ZipFile(folder / "c.dien", "w") as archive:
        for each, data in entries.items():
            archive.writestr(each, data)


@pytest.mark.parametrize(
    ("name", "label"), [(name, label) for name, changes in STORED.items() for label in changes]
)
def test_array_of_an_exported_file_is_refused_by_name(name, label, counting_export, attempt):
    damage = partial(stored, counting_export, name, STORED[name][label])
    place = name.split("/")[0] if "calibration" in name else name.removesuffix("/values")
    message = rf"c\.dien: .*{place}"
    line = ("c.dien", "--port=0")
    attempt(Case("serve", "edited arrays", f"{name}: {label}", line, damage, message))


RECURRENT = ("--data", "data", "--run-dir", "new", *SETTINGS, "--train.epochs=1")
FAILING = '#!/bin/sh\n[ "$1" = --version ] || {0}\n'


def compiler(text: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / "cxx").write_text(FAILING.format(text))
        (folder / "cxx").chmod(0o755)

    return write


NATIVE = {
    "a compiler that is a folder": ({"CXX": "/"}, None, "the compiler / does not run"),
    "a compiler that is missing": ({"CXX": "/no/cxx"}, None, "the compiler /no/cxx does not run"),
    "a quote that never ends": ({"CXX": "g++ 'x"}, None, r"\$CXX is no command: No closing"),
    "a compiler that fails": ({"CXX": "./cxx"}, compiler("exit 3"), "cxx failed: exit status 3"),
    "a compiler that makes nothing": ({"CXX": "./cxx"}, compiler("exit 0"), "made no library"),
    "another instruction set": (
        {"DIEN_KERNELS_ISA": "avx9000\x1b[31m"},
        None,
        r"\$DIEN_KERNELS_ISA must be one of avx512, avx2, plain, got 'avx9000\\x1b",
    ),
}
"""Variables of the environment, what is prepared, and the message."""


def _of_kernels() -> list[Case]:
    return [
        Case("train", "native kernels", name, (*RECURRENT, "--model.recurrence=native"), damage,
             f"error: model.recurrence: .*{message}", left=("cache",),
             environment={"DIEN_KERNELS_CACHE": "cache", "DIEN_KERNELS_NATIVE": "1", **variables})
        for name, (variables, damage, message) in NATIVE.items()
    ]  # fmt: skip


@pytest.mark.parametrize("case", _of_kernels(), ids=str)
def test_kernels_that_were_named_and_cannot_be_made_are_one_line(case, attempt):
    attempt(case)


def file_in_place_of_cache(folder: Path) -> None:
    (folder / "cache").write_text("no folder")


SURVIVED = {
    "a cache that is a file": ({"DIEN_KERNELS_CACHE": "cache"}, file_in_place_of_cache, ""),
    "a cache that is a device": ({"DIEN_KERNELS_CACHE": "/dev/null"}, None, ""),
    "an odd switch": (
        {"DIEN_KERNELS_NATIVE": "false", "CXX": "/no/cxx"},
        None,
        r"\$DIEN_KERNELS_NATIVE must be 0 or 1, got 'false'; it is taken as 1",
    ),
    "no compiler": ({"CXX": "/no/cxx"}, None, "XLA runs instead of native: the compiler /no/cxx"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SURVIVED)
def test_run_without_a_cache_or_compiler_ends_well(name, attempt):
    variables, damage, message = SURVIVED[name]
    environment = {"DIEN_KERNELS_NATIVE": "1", **variables}
    attempt(Case("train", "native kernels", name, RECURRENT, damage, message, 0, ("new",),
                 environment=environment))  # fmt: skip
