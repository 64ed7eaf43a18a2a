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
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

CACHE = "JAX_COMPILATION_CACHE_DIR"
IS_OWNER = CACHE not in os.environ

if IS_OWNER:  # other processes of the session inherit it
    os.environ[CACHE] = tempfile.mkdtemp(prefix="dien_jax-compiled-")
# C++ kernels too: the tests that name them compile them once a session.
os.environ.setdefault("DIEN_KERNELS_CACHE", f"{os.environ[CACHE]}/dien_kernels")
# Not by "auto", where nothing asks for them; DIEN_KERNELS_NATIVE=1 runs all tests with them.
os.environ.setdefault("DIEN_KERNELS_NATIVE", "0")
# Threads of boosted trees would spin where cores are taken: four fifths of their time.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Hardly optimised by LLVM: programs of tests run for milliseconds, and optimising them takes
# seconds. For child processes and fixtures of the session too, so that all share what is compiled.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

# One part a program, since more take more time in all.
flags = [os.environ.get("XLA_FLAGS", ""), "--xla_cpu_parallel_codegen_split_count=1"]
# XLA's newer way to emit fusions takes most of the time of a compilation; the last JAX for Python
# 3.11 can do without it.
is_older = version("jax").split(".")[:2] == ["0", "10"]
flags.append(f"--xla_cpu_{'use_fusion_emitters=false' if is_older else 'opt_preset=fast_compile'}")
os.environ["XLA_FLAGS"] = " ".join(flags).strip()

import jax  # noqa: E402
import pytest  # noqa: E402
from support.compilations import COMPILED  # noqa: E402

with contextlib.suppress(ModuleNotFoundError):  # tests of dien_kernels run without it
    import support.type_checks  # noqa: F401  # before it is first used
    from hypothesis import settings

    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

IS_ALONE = not (Path(__file__).parents[1] / "dien_jax").is_dir()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file that has no test of those chosen: that alone takes seconds."""
    if collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    text = collection_path.read_text()
    whole = next((line for line in text.splitlines() if line.startswith("pytestmark")), "")
    if IS_ALONE and "mark.repository" in whole:
        return True
    match config.option.markexpr:
        case "fast" | "long" as mark:
            is_other = f"mark.{mark}" not in text
        case "not long" | "not newest" as expression:
            is_other = f"mark.{expression.removeprefix('not ')}" in whole
        case "not long or newest":
            is_other = "mark.long" in whole and "mark.newest" not in whole
        case _:
            is_other = False
    return is_other or None


def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """Let files of a few tests that take minutes begin, or a worker is left with one at the end."""
    if IS_ALONE:
        items[:] = [item for item in items if not item.get_closest_marker("repository")]
    if config.option.markexpr == "fast":  # a long test of a file that is fast but for it
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    for item in items:
        if "faults" in item.path.parts:
            item.add_marker("faults")
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


def pytest_collection_finish() -> None:
    """Collect garbage more seldom, and not among modules: tracing makes many small objects."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_unconfigure() -> None:
    if IS_OWNER:
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)


@pytest.fixture(autouse=True)
def no_compilation_in_fast_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that is marked ``fast`` and compiles a program."""
    before = len(COMPILED)
    yield
    if request.node.get_closest_marker("fast") and not request.node.get_closest_marker("long"):
        assert len(COMPILED) == before, "a test marked fast compiled a program"


@pytest.fixture(autouse=True)
def optimised_programs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compile as users do in a test that is marked ``optimised``."""
    if request.node.get_closest_marker("optimised") is None:
        yield
        return
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, as reports see it."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset folder of ``tiny_run``, to be read only."""
    from support import tiny_run  # not in conftest's first lines: it imports most of the package

    return tiny_run.write_data(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def light_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of ``tiny_run.light_flags`` by the command, which nobody stopped; to be read only."""
    from support import tiny_run

    from dien_jax import train

    folder = tmp_path_factory.mktemp("runs") / "light"
    assert train.main(tiny_run.light_flags(data, folder)) == 0
    return folder


@pytest.fixture(scope="session")
def large_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with large tables, of more than ``LAZY_ROWS`` rows together."""
    from support import tiny_run

    return tiny_run.write_data(tmp_path_factory.mktemp("data") / "large", rows=22_000)
