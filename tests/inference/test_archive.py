"""An exported file from somebody else: it calls no function by name, and unpacks to what fits."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import export as jax_export
from support import small_dataset, untrained_run

from dien_jax import export
from dien_jax.errors import UserError
from dien_jax.inference.archive import read_archive

pytest.importorskip("flatbuffers")


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    data = small_dataset.write(folder / "data")
    run = untrained_run.write(folder / "run", data, model="din", buckets=())
    assert export.main([str(run), "--out", str(folder / "model.dien")]) == 0
    return folder / "model.dien"


def rewritten(exported: Path, file: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Write a copy in which ``change(name, content)`` replaces the content of entries."""
    with zipfile.ZipFile(exported) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return file


@pytest.mark.long
@pytest.mark.parametrize("target", ["crash_here", "xla_python_cpu_callback", "a name", "é("])
def test_a_program_that_calls_a_function_by_name_is_refused(target, exported, tmp_path) -> None:
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    crafted = jax_export.export(
        jax.jit(lambda x: jnp.sin(jax.ffi.ffi_call(target, shape)(x))),
        disabled_checks=[jax_export.DisabledSafetyCheck.custom_call(target)],
    )(shape).serialize()

    def change(name: str, content: bytes) -> bytes:
        return bytes(crafted) if name == "programs/add_event.stablehlo" else content

    file = rewritten(exported, tmp_path / "crafted.dien", change)
    expected = r"crafted\.dien: damaged.*program 'add_event' calls .* by name; .*may call nothing"
    with pytest.raises(UserError, match=expected):
        read_archive(file)


@pytest.mark.parametrize("entry", ["manifest.json", "vocabularies/item.json"])
def test_a_file_that_unpacks_to_far_more_is_refused(entry, exported, tmp_path) -> None:
    def change(name: str, content: bytes) -> bytes:
        return content + b" " * 70_000_000 if name == entry else content

    file = rewritten(exported, tmp_path / "bomb.dien", change)
    assert file.stat().st_size < 500_000
    with pytest.raises(UserError, match=r"bomb\.dien: its entries unpack to 7\d,\d+,\d+ bytes, "):
        read_archive(file)


def test_an_entry_that_holds_more_than_it_says_is_refused(exported, tmp_path) -> None:
    file = rewritten(exported, tmp_path / "liar.dien", lambda name, content: content)
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo("vocabularies/item.json")
    content = bytearray(file.read_bytes())
    directory = content.rindex(b"PK\x01\x02", 0, content.rindex(b"vocabularies/item.json"))
    content[directory + 24 : directory + 28] = (info.file_size - 5).to_bytes(4, "little")
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"liar\.dien: damaged"):
        read_archive(file)
