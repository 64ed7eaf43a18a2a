"""Files of cases that need several devices, each in a process with eight CPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MARKS = ("not slow", pytest.param("slow", marks=pytest.mark.slow))
"""Selections of cases; those that are marked ``slow`` run where slow tests do."""


def run_cases(file: Path, marks: str) -> None:
    """Run a file's cases of a selection; the test fails with what they print."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "pytest", "-x", "-m", marks, "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, file],
        cwd=file.parents[2],
        env=os.environ | {"XLA_FLAGS": flags.strip()},
        capture_output=True,
        text=True,
    )
    nothing_slow = marks == "slow" and done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
    assert done.returncode == 0 or nothing_slow, done.stdout + done.stderr
