"""Commands keep freed memory; functions of the package leave the allocator alone."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import dien_jax
from dien_jax import train
from dien_jax.utils import command
from dien_jax.utils.memory import GLIBC_VARIABLES, keep_freed_memory

FAULTS = """
import resource, sys, threading
from dien_jax.utils.memory import keep_freed_memory

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


def faults(mode: str) -> int:
    """Page faults of a second block of 100 MB, after the first one was freed."""
    environment = {k: v for k, v in os.environ.items() if k not in GLIBC_VARIABLES}
    run = [sys.executable, "-c", FAULTS, mode]
    done = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not IS_GLIBC, reason="the setting is glibc's")
def test_a_large_block_of_a_thread_is_not_faulted_in_again() -> None:
    assert faults("keep") < 100
    assert faults("leave") > 20_000  # 25,600 pages, if none is huge


@pytest.mark.parametrize("name", GLIBC_VARIABLES)
def test_an_allocator_that_the_user_set_is_left_alone(name: str, monkeypatch) -> None:
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()


@pytest.mark.parametrize("flags", [(), ("--keep-memory",), ("--no-keep-memory",)])
def test_commands_keep_memory_unless_the_flag_says_no(flags: tuple, monkeypatch) -> None:
    calls: list[None] = []
    monkeypatch.setattr(command, "keep_freed_memory", lambda: calls.append(None))
    monkeypatch.setattr(train, "show", lambda arguments: None)
    assert train.main(["--resume", "runs/first", *flags]) == 0
    assert len(calls) == ("--no-keep-memory" not in flags)


def test_only_the_start_of_a_command_sets_the_allocator() -> None:
    package = Path(dien_jax.__file__).parent
    users = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if "keep_freed_memory" in file.read_text()
    }
    assert users == {"utils/__init__.py", "utils/command.py", "utils/memory.py"}
