"""Several devices: the files ``cases_*.py`` of this folder, each in a process with eight CPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("cases", sorted(file.stem for file in HERE.glob("cases_*.py")))
def test_on_eight_devices(cases: str) -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "pytest", "-x", "-m", "", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, HERE / f"{cases}.py"],
        cwd=HERE.parents[1],
        env=os.environ | {"XLA_FLAGS": flags.strip()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
