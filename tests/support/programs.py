"""Programs in processes of their own."""

import os
import subprocess
import sys


def printed(code: str, *arguments: str, flags: tuple[str, ...] = (), **variables: str) -> str:
    """Return what a program prints; it finds the modules that this process finds."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout
