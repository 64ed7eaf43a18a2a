"""Several devices: the files ``cases_*.py`` of this folder, in one process with eight CPUs."""

import faulthandler
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

HERE = Path(__file__).parent


def test_cases_hold_on_eight_devices() -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    cases = sorted(HERE.glob("cases_*.py"))
    assert cases
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *cases]
    environment = os.environ | {"XLA_FLAGS": flags.strip()}
    faulthandler.cancel_dump_traceback_later()  # the child has a time limit for each of its tests
    done = subprocess.run(
        command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
