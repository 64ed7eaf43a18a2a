"""The C++ kernels as built otherwise: other instruction sets, threads, warnings, sanitizers."""

import functools
import os
import pickle
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from dien_kernels.native import build, library
from support.native_cases import results
from support.programs import printed
from support.recurrences import assert_agree

pytestmark = pytest.mark.long

PROGRAM = """
import os, pathlib, pickle, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(os.environ["PROCESSORS"])])
import jax
from dien_kernels.native import build, library
from support.native_cases import results

build.FLAGS = (*build.FLAGS, *sys.argv[2:])
found = jax.device_get([arrays for arrays, _ in results("native")])
pathlib.Path(sys.argv[1]).write_bytes(pickle.dumps(found))
print(library.instruction_set())
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Return a function that computes all cases in a process of its own, once for its arguments."""
    file = tmp_path_factory.mktemp("builds") / "results"

    @functools.cache
    def computed(name: str, *flags: str, processors: int, **variables: str) -> Any:
        variables |= {"DIEN_KERNELS_ISA": name, "PROCESSORS": str(processors)}
        assert printed(PROGRAM, str(file), *flags, **variables) == f"{name}\n"
        return pickle.loads(file.read_bytes())

    return computed


@pytest.fixture(scope="module")
def expected() -> list[tuple[Any, float]]:
    return list(results("reference"))


@pytest.mark.parametrize("name", ["avx2", "plain"])
def test_every_instruction_set_agrees_with_the_oracle(name: str, run, expected) -> None:
    names = ["avx512", "avx2", "plain"]
    if name not in names[names.index(library.instruction_set()) :]:
        pytest.skip("this processor lacks it")
    for found, (of_oracle, tolerance) in zip(run(name, processors=2), expected, strict=True):
        assert_agree(found, of_oracle, tolerance)


def test_one_thread_and_two_give_the_same_bits(run) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    one, two = (jax.tree.leaves(run("plain", processors=count)) for count in (1, 2))
    assert [array.tobytes() for array in one] == [array.tobytes() for array in two]


def test_sources_compile_without_a_warning(tmp_path: Path) -> None:
    sets = build.KERNELS.get(platform.machine(), {"plain": ()})
    quick = {name: (*flags, "-O0") for name, flags in sets.items()}
    command = [*build.compiler(), "-Wshadow", "-Werror"]
    assert build.compile_library(command, tmp_path, quick).exists()


def test_no_read_or_write_outside_of_the_arrays(run, tmp_path: Path) -> None:
    """With AddressSanitizer and UndefinedBehaviorSanitizer: an error ends the process."""
    gcc = shutil.which("g++")
    if gcc is None:
        pytest.skip("needs g++ and its sanitizers")
    runtimes = [
        subprocess.run(
            [gcc, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(Path(runtime).is_absolute() for runtime in runtimes):
        pytest.skip("needs g++ and its sanitizers")
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1")
    run(
        library.instruction_set(), *flags, processors=2, CXX=gcc, DIEN_KERNELS_CACHE=str(tmp_path),
        LD_PRELOAD=":".join(runtimes),
        ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:malloc_context_size=0",
    )  # fmt: skip
