"""The libraries of C++ kernels that a wheel brings, so that no compiler is needed where it is used.

    PYTHONPATH=kernels python .ci/prebuilt.py

compiles them for all of ``TARGETS`` with the package ziglang, which has compilers and system
libraries for other machines, and for all instruction sets; the library chooses when it is loaded.
Run it with the oldest JAX that the package supports: a library loads in that one and newer ones.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

import jax
from dien_kernels.native import build

TARGETS = {
    ("linux", "x86_64"): "x86_64-linux-gnu.2.17",
    ("linux", "aarch64"): "aarch64-linux-gnu.2.17",
    ("darwin", "arm64"): "aarch64-macos.11.0",
}
"""Names for zig, by what ``sys.platform`` and ``platform.machine()`` are there."""


def main() -> None:
    """Compile the libraries in place of earlier ones."""
    if importlib.util.find_spec("ziglang") is None:
        raise SystemExit("error: the package ziglang is not installed: pip install ziglang")
    folder = build.PREBUILT
    folder.mkdir(exist_ok=True)
    earlier = set(folder.glob("*.so"))
    for (system, machine), target in TARGETS.items():
        command = [sys.executable, "-m", "ziglang", "c++", "-target", target, "-mcpu=baseline"]
        sets = build.KERNELS.get(machine, {"plain": ()})
        with tempfile.TemporaryDirectory(dir=folder, prefix="compiling-") as own:
            try:
                library = build.compile_library(command, Path(own), sets)
            except build.BuildError as error:
                raise SystemExit(f"error: {target}: {error}") from error
            file = build.named_library(library, folder, build.prebuilt_name(system, machine))
        earlier.discard(file)
        print(f"{file} {file.stat().st_size:,} bytes, JAX {jax.__version__}")
    for file in earlier:
        file.unlink()


if __name__ == "__main__":
    main()
