"""Compiled programs are kept for the next process, unless the user decided otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from support.tiny_run import light_flags, write_data

from dien_jax.utils.machine import enable_compile_cache

pytestmark = pytest.mark.long

LOADED = """
import sys, jax
from dien_jax import train
from dien_jax.utils import machine
machine.LEAST_SECONDS = 0.0  # however fast this machine compiles
counts = {"hit": 0, "miss": 0}
def note(event, **_):
    for name in counts:
        counts[name] += event.startswith(f"/jax/compilation_cache/cache_{name}")
jax.monitoring.register_event_listener(note)
assert train.main(sys.argv[1:]) == 0
print(counts["hit"], counts["miss"], jax.config.jax_compilation_cache_dir)
"""


def run(data: Path, folder: Path) -> tuple[int, int, str]:
    """Cache hits, misses and folder of one process that trains and warns of nothing."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *light_flags(data, folder), "--train.epochs=1"],
        env=environment | {"XDG_CACHE_HOME": str(data.parent / "cache")},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    hits, misses, where = done.stdout.splitlines()[-1].split(maxsplit=2)
    return int(hits), int(misses), where


def test_a_second_process_loads_what_the_first_compiled(tmp_path: Path) -> None:
    """And compiles again those cut short, as by a process that is killed or has no space."""
    data = write_data(tmp_path / "data")
    hits, misses, where = run(data, tmp_path / "first")
    assert not hits
    assert Path(where).parent == data.parent / "cache" / "dien_jax" / "compiled"
    programs = sorted(Path(where).glob("*-cache"))
    assert len(programs) == misses > 2
    # All of a name: with a damaged program, others of its name are deleted.
    names = sorted({file.name.split("-")[0] for file in programs})[::2]
    cut = {f: f.read_bytes()[:500] for f in programs if f.name.split("-")[0] in names}
    assert 0 < len(cut) < misses
    for file, content in cut.items():
        file.write_bytes(content)
    assert run(data, tmp_path / "second") == (misses - len(cut), len(cut), where)
    assert all(file.read_bytes() != cut[file] for file in cut)


def test_a_folder_that_the_user_chose_stays() -> None:
    before = jax.config.values["jax_compilation_cache_dir"]
    assert before is not None
    enable_compile_cache()
    assert jax.config.values["jax_compilation_cache_dir"] == before


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch, capfd) -> None:
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        enable_compile_cache()
        assert jax.config.values["jax_compilation_cache_dir"] is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    (line,) = capfd.readouterr().err.splitlines()
    assert f"compiled programs are not kept: {tmp_path / 'cache'}/dien_jax/compiled/" in line
    assert line.endswith("cannot be written: Not a directory")
