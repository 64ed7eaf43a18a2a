"""Tests of dien_kernels with only jax and pytest installed."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.repository]

TESTS = Path(__file__).parents[1]
SUITE = "test_choice.py"
"""It computes with the oracle, with plain XLA and with Pallas kernels."""

RUN = """
import sys
sys.path[:0] = sys.argv[1:4]
import importlib, importlib.util
for name in ("flax", "optax", "orbax", "jaxtyping", "hypothesis", "dien_jax"):
    assert importlib.util.find_spec(name) is None, name
import pkgutil
import dien_kernels, jax
runs_mosaic_gpu = tuple(map(int, jax.__version__.split(".")[:2])) >= (0, 11)
for module in pkgutil.walk_packages(dien_kernels.__path__, "dien_kernels."):
    if runs_mosaic_gpu or "mosaic_gpu" not in module.name:
        importlib.import_module(module.name)
import pytest
options = ["-q", "-c", "/dev/null", "--noconftest", "-p", "no:cacheprovider"]
sys.exit(pytest.main([*options, *sys.argv[4:]]))
"""


def requirements(*names: str) -> set[str]:
    """Return distributions and all their requirements, without extras."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or ():
            needed, _, marker = line.partition(";")
            if "extra" not in marker:
                waiting.append(re.match(r"[\w.-]+", needed.strip()).group())
        found = {each for each in found if is_installed(each)}
        waiting = [each for each in waiting if is_installed(each)]
    return found


def is_installed(name: str) -> bool:
    """Return False for requirements of other Pythons and systems."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def test_every_module_imports_and_computes_with_jax_and_pytest_alone(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for name in requirements("jax", "jaxlib", "pytest"):
        distribution = importlib.metadata.distribution(name)
        root = Path(str(distribution.locate_file("")))
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(root / top)
    paths = [str(site), str(TESTS.parent / "kernels"), str(TESTS)]
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            RUN,
            *paths,
            str(TESTS / "kernels" / SUITE),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
