"""Several devices: the files ``cases_*.py`` of this folder, each in a process with eight CPUs.

Their cases that are marked ``slow`` run where slow tests do.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("marks", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
@pytest.mark.parametrize("cases", sorted(file.stem for file in HERE.glob("cases_*.py")))
def test_on_eight_devices(cases: str, marks: str) -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "pytest", "-x", "-m", marks, "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, HERE / f"{cases}.py"],
        cwd=HERE.parents[1],
        env=os.environ | {"XLA_FLAGS": flags.strip()},
        capture_output=True,
        text=True,
    )
    nothing_slow = marks == "slow" and done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
    assert done.returncode == 0 or nothing_slow, done.stdout + done.stderr
