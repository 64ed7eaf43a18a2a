"""For every test: strict dtypes and ranks, so that nothing is promoted or broadcast by accident.

Programs are compiled once a session, whichever test and process asks for them again, and quickly
rather than well where only behaviour is tested. Tests marked ``fast`` must not compile at all.
"""

import contextlib
import gc
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

OPTIMISED = {"test_golden", "test_implementations"}
"""Modules that hold figures to a tolerance: they run optimised programs, as users do."""
CACHE = "JAX_COMPILATION_CACHE_DIR"
IS_OWNER = CACHE not in os.environ

if IS_OWNER:  # other processes of the session inherit it
    os.environ[CACHE] = tempfile.mkdtemp(prefix="dien_jax-compiled-")
# C++ kernels too: the tests that name them compile them once a session.
os.environ.setdefault("DIEN_KERNELS_CACHE", f"{os.environ[CACHE]}/dien_kernels")
# Not by "auto", where nothing asks for them; DIEN_KERNELS_NATIVE=1 runs all tests with them.
os.environ.setdefault("DIEN_KERNELS_NATIVE", "0")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# One part a program: more take more time in all, and change no instruction.
flags = [os.environ.get("XLA_FLAGS", ""), "--xla_cpu_parallel_codegen_split_count=1"]
if version("jax").split(".")[:2] == ["0", "10"]:  # the last for Python 3.11
    # XLA's newer way to emit fusions takes most of the time of a compilation; later JAX has no
    # such flag.
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(flags).strip()

import jax  # noqa: E402
import jax.monitoring  # noqa: E402
import pytest  # noqa: E402
from support.selection import (  # noqa: E402
    FAST,
    FIRST,
    LONG,
    LONGEST,
    NEEDED,
    REPOSITORY,
    SAMPLED,
    SLOWER,
)

with contextlib.suppress(ModuleNotFoundError):  # tests of dien_kernels run without it
    from hypothesis import settings

    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

UNTIL = float(os.environ.get("DIEN_JAX_LONG_TESTS_UNTIL", "inf"))
"""Seconds since 1970 after which no long test begins: ``.ci/run`` takes as long on any machine."""
DRAW = os.environ.get("DIEN_JAX_LONG_TESTS_DRAW", "")
"""Text from which the order of the files of long tests is drawn; ``.ci/run`` gives the commit, so
that each file has its turn on a machine that has no time for all of them."""
IS_ALONE = not (Path(__file__).parents[1] / "dien_jax").is_dir()

_compiled: list[str] = []
"""Events of programs that were compiled in this process."""


def _note(event: str, duration: float, **details: object) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled.append(event)


jax.monitoring.register_event_duration_secs_listener(_note)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file that has no test of those chosen: that alone takes seconds."""
    if collection_path.suffix != ".py":
        return None
    path = collection_path.relative_to(Path(__file__).parents[1]).as_posix()
    if IS_ALONE and path.startswith(tuple(n for n in REPOSITORY if "::" not in n)):
        return True
    match config.option.markexpr:
        case "fast":
            is_other = not path.startswith(FAST) or path.startswith((*SLOWER, *LONG))
        case "long":
            is_other = not path.startswith(tuple(n.partition("::")[0] for n in LONG))
        case "not slow and not long":
            is_other = path.startswith(LONG)
        case _:
            is_other = False
    return is_other or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests ``fast``, ``long`` or ``slow`` by ``support.selection``, and sort them."""
    seen: set[str] = set()
    if IS_ALONE:
        items[:] = [item for item in items if not _name(item).startswith(REPOSITORY)]
    if DRAW:
        items.sort(key=lambda item: zlib.crc32(f"{DRAW} {item.path.name}".encode()))
    else:
        items.sort(key=lambda item: not _name(item).startswith(FIRST))
    for item in items:
        name = _name(item)
        if name.startswith("tests/faults/"):
            item.add_marker("faults")
        if item.get_closest_marker("slow"):
            continue
        if name.startswith(LONG):
            is_long = _is_in_sample(name, seen) and not name.startswith(LONGEST)
            item.add_marker("long" if is_long else "slow")
        elif name.startswith(FAST) and not name.startswith(SLOWER):
            item.add_marker("fast")


def _name(item: pytest.Item) -> str:
    """Return the name of a test as the lists of ``support.selection`` have it."""
    return f"{item.path.relative_to(Path(__file__).parents[1]).as_posix()}::{item.name}"


def _is_in_sample(name: str, seen: set[str]) -> bool:
    """Return whether a test is the first of its entry of ``SAMPLED``, drawn, or of no entry."""
    for entry, size in SAMPLED.items():
        if name.startswith(entry):
            is_first = entry not in seen
            seen.add(entry)
            return is_first or zlib.crc32(name.encode()) % size == 0
    return True


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip long tests when their time is over."""
    needed = NEEDED if _name(item).startswith(FIRST) else 0
    if time.time() > UNTIL - needed and item.get_closest_marker("long"):
        pytest.skip("no time is left for this long test")


def pytest_collection_finish() -> None:
    """Collect garbage more seldom, and not among modules: tracing makes many small objects."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_unconfigure() -> None:
    """Remove the compiled programs."""
    if IS_OWNER:
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)


@pytest.fixture(autouse=True)
def no_compilation_in_fast_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that is marked ``fast`` and compiles a program."""
    before = len(_compiled)
    yield
    if request.node.get_closest_marker("fast"):
        assert len(_compiled) == before, "a test marked fast compiled a program"


@pytest.fixture(autouse=True, scope="module")
def quick_compilation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compile in a fraction of the time, to slower programs, in child processes too."""
    if request.module.__name__.rpartition(".")[2] in OPTIMISED:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset folder of ``tiny_run``, to be read only."""
    from support import tiny_run  # not in conftest's first lines: it imports most of the package

    return tiny_run.write_data(tmp_path_factory.mktemp("data") / "tiny")
