"""Programs in processes of their own, and ports for them."""

import os
import socket
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


def free_port() -> int:
    """A port of the loopback interface that no program listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
