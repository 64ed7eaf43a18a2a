"""An exported file that is damaged, edited, of another version or from somebody else."""

import hashlib
import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

from dien_jax.errors import UserError
from dien_jax.inference.archive import read_archive, write_archive

pytestmark = pytest.mark.long
pytest.importorskip("flatbuffers")

Entries = dict[str, bytes]
Edit = Callable[[Entries], object]
BIAS = "weights/params/mlp/logit/bias.npy"
ITEMS, PROGRAM = "vocabularies/item.json", "programs/add_event.stablehlo"
OTHER = r"expected what was exported, found other content"


def edited(exported: Path, file: Path, edit: Edit, *, signed: bool = False) -> Path:
    """A copy with other entries, and with right digests if it is ``signed``."""
    with zipfile.ZipFile(exported) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
        comment = archive.comment
    edit(entries)
    if signed:
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in entries.items()}
        changed(entries, sha256=digests)
        comment = hashlib.sha256(entries["manifest.json"]).hexdigest().encode()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        archive.comment = comment
    return file


def changed(entries: Entries, **changes: object) -> None:
    manifest = json.loads(entries["manifest.json"]) | changes
    entries["manifest.json"] = json.dumps(manifest).encode()


def swapped(entries: Entries) -> None:
    values = json.loads(entries[ITEMS])
    values[1], values[2] = values[2], values[1]
    entries[ITEMS] = json.dumps(values).encode()


def without(name: str) -> Edit:
    return lambda entries: entries.pop(name)


EDITS: dict[str, tuple[Edit, str]] = {
    "lines of a vocabulary": (swapped, f"item.json: {OTHER}"),
    "a vocabulary too few": (without(ITEMS), "damaged.*no item named 'vocabularies/item.json'"),
    "a weight": (lambda e: e.update({BIAS: e[BIAS][:-4] + b"\0\0\0\0"}), f"bias.npy: {OTHER}"),
    "a weight too few": (without(BIAS), "damaged.*no item named 'weights/params/mlp/logit/bias"),
    "a program": (lambda e: e.update({PROGRAM: e["programs/score_rows.stablehlo"]}), OTHER),
    "a setting": (partial(changed, max_history=5), f"manifest.json: {OTHER}"),
    "no JSON": (lambda e: e.update({"manifest.json": b"{"}), "manifest.json: expected JSON"),
    "no manifest": (without("manifest.json"), "expected a file .*, found no manifest.json in it"),
    "another format": (partial(changed, format="x"), "with format 'dien_jax.export' in its mani"),
    "the first version": (
        partial(changed, format_version=1),
        "manifest.json: expected format_version 3, found 1; export the run again",
    ),
    "70 MB of spaces": (
        lambda e: e.update({ITEMS: e[ITEMS] + b" " * 70_000_000}),
        r"its entries unpack to 7\d,\d+,\d+ bytes, ",
    ),
}


OBJECTS = io.BytesIO()
np.save(OBJECTS, np.array([{}], object))
SIGNED: dict[str, tuple[Edit, str]] = {
    "a newer calling convention": (
        partial(changed, calling_convention_version=99),
        "calling convention 99, written by JAX .*; this JAX reads",
    ),
    "objects to unpickle": (lambda e: e.update({BIAS: OBJECTS.getvalue()}), "damaged"),
}


@pytest.mark.parametrize("name", [*EDITS, *SIGNED])
def test_another_content_is_refused(name: str, exported: Path, tmp_path) -> None:
    edit, message = (EDITS | SIGNED)[name]
    with pytest.raises(UserError, match=rf"model\.dien.*{message}"):
        read_archive(edited(exported, tmp_path / "model.dien", edit, signed=name in SIGNED))


@pytest.mark.parametrize(
    ("method", "message"),
    [(zipfile.ZIP_DEFLATED, "Bad CRC-32"), (zipfile.ZIP_BZIP2, "packed by method 12")],
)
def test_an_entry_larger_than_it_states_is_not_unpacked(method, message, tmp_path) -> None:
    file, stated = tmp_path / "model.dien", struct.pack("<I", 100)
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("manifest.json", bytes(1 << 26))
    file.write_bytes(file.read_bytes().replace(struct.pack("<I", 1 << 26), stated))
    tracemalloc.start()
    with pytest.raises(UserError, match=message):
        read_archive(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 23


@pytest.mark.parametrize("target", ["crash_here", "xla_python_cpu_callback", "a name", "é("])
def test_a_program_that_calls_a_function_by_name_is_refused(target, exported, tmp_path) -> None:
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    crafted = jax_export.export(
        jax.jit(lambda x: jnp.sin(jax.ffi.ffi_call(target, shape)(x))),
        disabled_checks=[jax_export.DisabledSafetyCheck.custom_call(target)],
    )(shape).serialize()
    change = partial(dict.update, **{PROGRAM: bytes(crafted)})
    file = edited(exported, tmp_path / "crafted.dien", change, signed=True)
    expected = r"crafted\.dien: damaged.*program 'add_event' calls .* by name; .*may call nothing"
    with pytest.raises(UserError, match=expected):
        read_archive(file)


def test_a_file_that_is_packed_again_is_read(exported, tmp_path) -> None:
    """Packing alone changes nothing, and reading gives what was written."""
    whole = read_archive(exported)
    write_archive(tmp_path / "again.dien", whole)
    for file in (tmp_path / "again.dien", edited(exported, tmp_path / "b.dien", lambda _: None)):
        again = read_archive(file)
        assert again.vocabularies == whole.vocabularies
        assert again.weights.keys() == whole.weights.keys()
        for name, array in whole.weights.items():
            np.testing.assert_array_equal(again.weights[name], array)


def test_files_that_are_cut_damaged_or_foreign_are_refused(exported, tmp_path) -> None:
    whole, file = exported.read_bytes(), tmp_path / "model.dien"
    for content in (b"", b"hello", whole[:-1000], whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"model\.dien.*another kind of file or one that"):
            read_archive(file)
    with zipfile.ZipFile(exported) as archive:
        places = [info.header_offset for info in archive.infolist() if info.file_size > 100]
    for place in places:
        damaged = bytearray(whole)
        damaged[place + 120] ^= 0xFF
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.dien: damaged"):
            read_archive(file)
    with pytest.raises(UserError, match="is not a file; expected a file written by python"):
        read_archive(tmp_path)
