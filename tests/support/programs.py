"""Programs and functions in processes of their own, and ports for them."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable


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


def forked(function: Callable[[], object]) -> str:
    """Return as text what a function returns in a fork of this process, or the error it raises."""
    end, start = os.pipe()
    if not (child := os.fork()):
        signal.alarm(60)  # ends the process
        try:
            text = str(function())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(start, text.encode())
        os._exit(0)
    os.close(start)
    os.waitpid(child, 0)
    text = os.read(end, 2**16).decode()
    os.close(end)
    return text
