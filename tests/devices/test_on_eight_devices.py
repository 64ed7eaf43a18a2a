"""Several devices: the files ``cases_*.py`` of this folder, in a process with eight CPUs each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

HERE = Path(__file__).parent


@pytest.mark.parametrize("cases", sorted(file.name for file in HERE.glob("cases_*.py")))
def test_on_eight_devices(cases: str) -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", HERE / cases]
    environment = os.environ | {"XLA_FLAGS": flags.strip()}
    done = subprocess.run(
        command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
