"""What importing the steps loads."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.fast

PROGRAM = """
import sys
import dien_jax.steps
print(*[name for name in sys.modules if name.split(".")[0] in ("dien_jax", "dien_kernels")])
"""


@pytest.mark.long
def test_importing_the_steps_loads_no_code_for_several_devices_and_no_files() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    names = done.stdout.split()
    packages = {name.split(".")[1] for name in names if name.startswith("dien_jax.")}
    assert not packages & {"devices", "runs", "training", "preparation", "statistics"}
    assert len(names) <= 61
    assert sum(name.startswith("dien_jax.") for name in names) <= 36
