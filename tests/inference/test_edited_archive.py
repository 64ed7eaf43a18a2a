"""Exported files that were edited: refused for what they change."""

import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import small_dataset, untrained_run

from dien_jax import UserError
from dien_jax.inference.archive import read_archive
from dien_jax.inference.archive_entries import Entries
from dien_jax.inference.export import export_run

pytestmark = pytest.mark.long

pytest.importorskip("flatbuffers")

Edit = Callable[[dict[str, bytes]], object]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    data = small_dataset.write(folder / "data")
    run = untrained_run.write(folder / "run", data, buckets=(3,))
    export_run(run, folder / "model.dien")
    return folder / "model.dien"


def edited(exported: Path, file: Path, edit: Edit) -> Path:
    """A copy with other entries, and right checksums."""
    with zipfile.ZipFile(exported) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    edit(entries)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file


def in_json(name: str, change: Callable) -> Edit:
    def edit(entries: dict[str, bytes]) -> None:
        values = json.loads(entries[name])
        change(values)
        entries[name] = json.dumps(values).encode()

    return edit


def swapped(values: list) -> None:
    values[1], values[2] = values[2], values[1]


def without_digests(change: Edit) -> Edit:
    return lambda entries: (in_json("manifest.json", lambda m: m.pop("vocabularies"))(entries),
                            change(entries))  # fmt: skip


def npy(array: np.ndarray, shape: str = "") -> bytes:
    """The bytes of an array, whose header may claim another shape."""
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    text = repr(header).replace(repr(array.shape), shape or repr(array.shape)).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + array.tobytes()


BIAS = "params/mlp/logit/bias"
ITEMS = "vocabularies/item.json"
EDITS = {
    "two lines of a vocabulary swapped": (
        in_json(ITEMS, swapped),
        r"vocabularies/item\.json: expected the values that were exported, found others",
    ),
    "an id twice": (
        without_digests(in_json(ITEMS, lambda v: v.__setitem__(2, v[1]))),
        r"vocabularies/item\.json: the value .* occurs twice",
    ),
    "a value too many": (in_json(ITEMS, lambda v: v.append("x")), "expected 4 values, found 5"),
    "a number as an id": (
        in_json(ITEMS, lambda v: v.__setitem__(1, 3)),
        r"item\.json: expected \[1\] to be text, found 3",
    ),
    "a vocabulary too few": (lambda e: e.pop(ITEMS), "it has no entry 'vocabularies/item.json'"),
    "a program too few": (
        lambda e: e.pop("programs/read_history.stablehlo"),
        "no entry 'programs/read_history.stablehlo'",
    ),
    "no description of programs": (
        in_json("manifest.json", lambda m: m.update(programs={})),
        r"manifest\.json, programs: expected score_rows, which is missing",
    ),
    "no description of a program's inputs": (
        in_json("manifest.json", lambda m: m["programs"]["add_event"].pop("inputs")),
        r"manifest\.json: expected programs\.add_event\.inputs, which is missing",
    ),
    "another program": (
        lambda e: e.update({"programs/add_event.stablehlo": b"\x00" * 99}),
        r"model\.dien: damaged",
    ),
    "a weight too few": (
        in_json("manifest.json", lambda m: m["weights"].pop(BIAS)),
        "takes other weights than the file has",
    ),
    "a weight of another shape": (
        lambda e: e.update({f"weights/{BIAS}.npy": npy(np.zeros(3, np.float32))}),
        r"expected float32 \[1\], 4 bytes and a header|expected float32 \[1\], found",
    ),
    "a header that claims a petabyte": (
        lambda e: e.update({f"weights/{BIAS}.npy": npy(np.zeros(1, np.float32), f"({10**15},)")}),
        r"expected float32 \[1\], found float32 \(1000000000000000,\)",
    ),
    "an object array": (
        in_json("manifest.json", lambda m: m["weights"][BIAS].update(dtype="object")),
        "cannot have type object",
    ),
    "a weight that is not finite": (
        lambda e: e.update({f"weights/{BIAS}.npy": npy(np.full(1, np.nan, np.float32))}),
        f"{BIAS} is not finite",
    ),
    "a manifest of 32 MiB": (
        lambda e: e.update({"manifest.json": b" " * (1 << 25)}),
        "'manifest.json' has 33,554,432 bytes, expected at most 16,777,216",
    ),
    "other context features": (
        in_json("manifest.json", lambda m: m["schema"]["context"].pop()),
        "its programs take other context features than its schema has",
    ),
    "a bigger vocabulary everywhere": (
        without_digests(
            lambda e: (
                in_json("manifest.json", lambda m: m["schema"]["user"][0].update(size=9))(e),
                in_json("vocabularies/user.json", lambda v: v.extend("abcdef"[: 9 - len(v)]))(e),
            )
        ),
        "expected one embedding for each value, found .* for 9 values of 'user'",
    ),
}


@pytest.mark.parametrize(("edit", "message"), EDITS.values(), ids=EDITS.keys())
def test_edited_file_is_refused(edit: Edit, message: str, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_archive(edited(exported, tmp_path / "model.dien", edit))


def test_file_that_is_packed_again_is_read(exported: Path, tmp_path: Path) -> None:
    """Packing alone changes nothing."""
    again = read_archive(edited(exported, tmp_path / "model.dien", lambda _: None))
    whole = read_archive(exported)
    assert again.manifest == whole.manifest
    assert again.vocabularies == whole.vocabularies
    for name, array in whole.weights.items():
        np.testing.assert_array_equal(again.weights[name], array)


def test_entries_that_exported_files_never_have_are_refused(exported: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.dien"
    shutil.copy(exported, file)
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(file, "a") as archive,
    ):
        archive.writestr("manifest.json", "{}")
    with pytest.raises(UserError, match=r"two entries with the name 'manifest\.json'"):
        read_archive(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("manifest.json", "{}")
    with pytest.raises(UserError, match=r"compressed by method 14, expected deflate or none"):
        read_archive(file)
    with zipfile.ZipFile(exported) as archive:
        archive.infolist()[0].flag_bits |= 1
        with pytest.raises(ValueError, match=r"'manifest\.json' is encrypted"):
            Entries(archive)
        archive.infolist()[0].flag_bits &= ~1
        with pytest.raises(ValueError, match=r"expected at most 100"):
            Entries(archive).read("manifest.json", limit=100)


@pytest.mark.parametrize("other", ["score_candidates", "read_history"])
def test_program_under_the_name_of_another_is_refused(other, exported: Path, tmp_path: Path):
    names = "programs/score_rows.stablehlo", f"programs/{other}.stablehlo"
    file = tmp_path / "model.dien"
    with zipfile.ZipFile(exported) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries.update(zip(names, [entries[name] for name in reversed(names)], strict=True))
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match=rf"program \w+ is another one, ({other}|score_rows)"):
        read_archive(file)
