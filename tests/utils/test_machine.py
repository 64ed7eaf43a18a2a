"""Commands keep freed memory; work that threads share keeps its order, and its bounds."""

import itertools
import platform
import threading
from pathlib import Path

import pytest
from support.programs import printed

import dien_jax
from dien_jax import train
from dien_jax.utils import command
from dien_jax.utils import machine as module
from dien_jax.utils.machine import GLIBC_VARIABLES, keep_freed_memory, map_in_order, thread_count

FAULTS = """
import resource, sys, threading
from dien_jax.utils.machine import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def pages_of_a_block():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(100 << 20)
    for at in range(0, len(block), 4096):
        block[at] = 1
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

found = []
for _ in range(2):
    thread = threading.Thread(target=pages_of_a_block)
    thread.start()
    thread.join()
print(found[1])
"""
IS_GLIBC = platform.libc_ver()[0] == "glibc"


@pytest.mark.skipif(not IS_GLIBC, reason="the setting is glibc's")
def test_a_large_block_of_a_thread_is_not_faulted_in_again(monkeypatch) -> None:
    """Page faults of a second block of 100 MB, after the first one was freed."""
    for name in GLIBC_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert int(printed(FAULTS, "keep")) < 100
    assert int(printed(FAULTS, "leave")) > 20_000  # 25,600 pages, if none is huge


@pytest.mark.parametrize("name", GLIBC_VARIABLES)
def test_an_allocator_that_the_user_set_is_left_alone(name: str, monkeypatch) -> None:
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()


TURNED_OFF = {"keep_freed_memory": "--no-keep-memory", "enable_compile_cache": "--no-compile-cache"}
"""Functions that commands call first, and the flags against them."""


@pytest.mark.parametrize("flag", ["", "--keep-memory", "--no-keep-memory", "--no-compile-cache"])
def test_commands_keep_memory_and_programs_unless_a_flag_says_no(flag, monkeypatch) -> None:
    calls: list[str] = []
    for name in TURNED_OFF:
        monkeypatch.setattr(command, name, lambda name=name: calls.append(name))
    monkeypatch.setattr(train, "show", lambda arguments: None)
    assert train.main(["--resume", "runs/first", *([flag] if flag else [])]) == 0
    assert {*calls} == {name for name, off in TURNED_OFF.items() if off != flag}


def test_only_the_start_of_a_command_sets_the_allocator() -> None:
    package = Path(dien_jax.__file__).parent
    users = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if "keep_freed_memory" in file.read_text()
    }
    assert users == {"utils/__init__.py", "utils/command.py", "utils/machine.py"}


def test_threads_are_those_of_matrix_products_or_the_processors(monkeypatch) -> None:
    pools = [{"user_api": "blas", "num_threads": 3}, {"user_api": "openmp", "num_threads": 9}]
    monkeypatch.setattr(module, "threadpool_info", lambda: pools)
    assert thread_count() == 3
    pools.clear()
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1, 4, 5}, raising=False)
    assert thread_count() == 4
    monkeypatch.delattr(module.os, "sched_getaffinity")
    monkeypatch.setattr(module.os, "cpu_count", lambda: 6)
    assert thread_count() == 6


@pytest.mark.parametrize("threads", [2, 5])
def test_values_are_taken_as_results_are(threads: int) -> None:
    taken = itertools.count()
    results = map_in_order(lambda _: None, taken, threads)
    for used in range(1, 20):
        next(results)
        assert next(taken) - 2 * used < threads + 1  # this asks for one more each time
    results.close()


def test_a_large_value_is_worked_at_alone() -> None:
    moments, pair = [], threading.Barrier(2)

    def work(value: int) -> None:
        moments.append(value)  # as it begins
        if value < 70:
            pair.wait(timeout=20)  # two small values in a row are worked at together
        moments.append(value)

    list(map_in_order(work, [70, 5, 6, 71, 8, 9, 72], 2, is_large=lambda n: n >= 70))
    assert moments[:2] == [70, 70]
    assert {*moments[2:6]} == {5, 6}
    assert moments[6:8] == [71, 71]
    assert {*moments[8:12]} == {8, 9}
    assert moments[12:] == [72, 72]


@pytest.mark.parametrize("threads", [1, 3])
def test_the_error_of_a_value_comes_at_its_place(threads: int) -> None:
    results = map_in_order(lambda n: 1 // (n - 2), itertools.count(), threads)
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)
