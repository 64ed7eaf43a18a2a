"""Another process that holds an output until a block ends, for tests of two writers."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(target: Path, manager: str) -> Iterator[int]:
    """Let a process enter ``manager(target)`` of ``utils.files``, yield its number and kill it.

    ``"locked"`` needs the folder, with the name that messages have.
    """
    name = ", sys.argv[1]" if manager == "locked" else ""
    code = (
        f"import sys; from pathlib import Path; from dien_jax.utils.files import {manager}\n"
        f"with {manager}(Path(sys.argv[1]){name}): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(target)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder.pid
        finally:
            holder.kill()
