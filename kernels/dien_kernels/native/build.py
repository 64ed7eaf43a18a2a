"""Find the compiled library of C++ kernels in the package, or compile it at first use.

The library has a plain C interface, so one file serves every Python. A library that is compiled at
first use has only the kernels for the widest instruction set of this processor: those for the
others would take most of the time. Its name has a digest of everything that decides its content,
and one of the content itself: loading a truncated file would crash the process.
"""

import contextlib
import functools
import hashlib
import importlib.util
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

SOURCES = Path(__file__).parent / "src"
PREBUILT = Path(__file__).parent / "prebuilt"
"""Folder of the libraries in wheels, built by ``.ci/prebuilt.py``."""
FLAGS = (
    "-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=fast",
    "-Wall", "-Wextra", "-Wno-psabi", "-g0",
)  # fmt: skip
AVX2 = ("-mavx2", "-mfma")
AVX512 = (*AVX2, "-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw")
KERNELS = {"x86_64": {"avx512": AVX512, "avx2": AVX2, "plain": ()}}
"""Flags by architecture and instruction set, widest first; only plain on other architectures."""
WISH = "DIEN_KERNELS_ISA"
Sets = dict[str, tuple[str, ...]]
CPU_INFO = Path("/proc/cpuinfo")
COMPILERS = ("g++", "clang++", "c++")
UNFINISHED = "compiling-"
"""Prefix of the folders in which libraries are built; a killed process leaves its own."""
INSTALL = "install g++ or clang++, or the package ziglang: pip install 'dien_jax[native]'"

_logger = logging.getLogger("dien_kernels")


class BuildError(NotImplementedError):
    """The library cannot be compiled here; the message is the reason."""


def cache_folder() -> Path:
    """Return ``$DIEN_KERNELS_CACHE``, or a folder in the user's cache.

    For a user without a home it is a path that cannot be created.
    """
    if chosen := os.environ.get("DIEN_KERNELS_CACHE"):
        return Path(chosen)
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without an entry, and no HOME
        cache = os.devnull
    return Path(cache) / "dien_kernels"


def compiler() -> list[str]:
    """Return the command of a C++ compiler: ``$CXX``, one on the path, or that of ziglang.

    Raises:
      BuildError: if there is none.
    """
    try:
        chosen = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise BuildError(f"$CXX is no command: {error}") from error
    if chosen:
        if os.sep in chosen[0]:  # it runs in another folder
            chosen[0] = str(Path(chosen[0]).absolute())
        return chosen
    for name in COMPILERS:
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("ziglang") is not None:
        # By default it would compile for this very processor.
        return [sys.executable, "-m", "ziglang", "c++", "-mcpu=baseline"]
    raise BuildError(f"there is no C++ compiler: {INSTALL}")


def instruction_sets() -> Sets:
    """Return the instruction sets to compile for, with their flags.

    This is the widest one that the processor has and ``$DIEN_KERNELS_ISA`` allows. If those of the
    processor are unknown, these are all, and the library chooses when it is loaded.
    """
    machine = platform.machine().lower().replace("amd64", "x86_64")
    sets = KERNELS.get(machine, {"plain": ()})
    try:
        (line, *_) = re.findall(r"^flags\s*:(.*)$", CPU_INFO.read_text(), re.MULTILINE)
    except (OSError, ValueError):  # not Linux, or another architecture
        return sets
    names, available = list(sets), {f"-m{name}" for name in line.split()}
    wish = os.environ.get(WISH)
    allowed = names[names.index(wish) if wish in names else 0 :]
    widest = next(name for name in allowed if available.issuperset(sets[name]))
    return {widest: sets[widest]}


@contextlib.contextmanager
def library() -> Iterator[Path]:
    """Yield the library's file: the one in the package, else one compiled for this machine.

    If ``$CXX`` is set, it is always compiled. If the cache folder is not writable, the file is
    deleted when the context ends; a library that was loaded by then stays loaded.

    Raises:
      BuildError: if it cannot be compiled.
    """
    if sys.platform not in ("linux", "darwin"):
        raise BuildError(f"it is for Linux and macOS, this is {sys.platform}")
    wish = os.environ.get(WISH)
    if wish and wish not in (names := KERNELS["x86_64"]):
        raise BuildError(f"${WISH} must be one of {', '.join(names)}, got {wish!r}")
    shipped = prebuilt_name(sys.platform, platform.machine())
    if not os.environ.get("CXX") and (file := _kept(PREBUILT, shipped)) is not None:
        yield file
        return
    command, sets = compiler(), instruction_sets()
    cache, name = cache_folder(), f"native-{_digest(command, sets)}"
    if (file := _kept(cache, name)) is not None:
        yield file
        return
    with contextlib.ExitStack() as stack:
        # A child of a killed compiler may still be writing.
        temporary = functools.partial(tempfile.TemporaryDirectory, ignore_cleanup_errors=True)
        try:
            cache.mkdir(parents=True, exist_ok=True)
            _lock_and_tidy(cache, stack)
            own = stack.enter_context(temporary(prefix=UNFINISHED, dir=cache))
        except OSError:  # a read-only home: every process compiles for itself
            own = stack.enter_context(temporary(prefix="dien_kernels-"))
            yield compile_library(command, Path(own), sets)
            return
        file = _kept(cache, name)  # another process may have compiled it meanwhile
        if file is None:
            file = named_library(compile_library(command, Path(own), sets), cache, name)
    yield file


def prebuilt_name(system: str, machine: str) -> str:
    """Return the name of the package's library for a kind of machine.

    It has a digest of the sources: if they were edited, the library is compiled.
    """
    sources = b"".join(file.read_bytes() for file in sorted(SOURCES.iterdir()))
    return f"{system}-{machine}-{_digest_of(sources + repr((FLAGS, KERNELS)).encode())}"


def named_library(compiled: Path, folder: Path, name: str) -> Path:
    """Move a compiled library into a folder, under a name that ends in a digest of its content."""
    file = folder / f"{name}-{_digest_of(compiled.read_bytes())}.so"
    compiled.replace(file)  # no process ever sees half a file
    return file


def _kept(folder: Path, name: str) -> Path | None:
    """Return the library that was compiled before, if any; remove damaged ones."""
    for file in folder.glob(f"{name}-*.so"):
        with contextlib.suppress(OSError):
            if file.stem.rpartition("-")[2] == _digest_of(file.read_bytes()):
                return file
            file.unlink()
    return None


def _lock_and_tidy(cache: Path, stack: contextlib.ExitStack) -> None:
    """Let one process compile at a time, and remove folders that killed processes left."""
    import fcntl  # not on Windows

    lock = stack.enter_context((cache / "native.lock").open("w"))
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder in cache.glob(f"{UNFINISHED}*"):
            shutil.rmtree(folder, ignore_errors=True)


def _digest(command: Sequence[str], sets: Sets) -> str:
    """Return a digest of sources, headers, flags, compiler and architecture."""
    version = _outputs([[*command, "--version"]])
    headers = Path(jax.ffi.include_dir())
    files = [*sorted(SOURCES.iterdir()), *sorted(headers.rglob("*.h"))]
    identity = (FLAGS, sets, list(command), version, platform.machine(), sys.platform)
    return _digest_of(b"".join(file.read_bytes() for file in files) + repr(identity).encode())


def _digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def compile_library(command: Sequence[str], folder: Path, sets: Sets) -> Path:
    """Compile all files at once and link them; return the library."""
    _logger.warning("compiling the native CPU kernels, once, with %s", shlex.join(command))
    compiled = [
        [*flags, f"-DDIEN_KERNELS=kernels_{name}", "-c", f"{SOURCES}/kernels.cc", f"-o{name}.o"]
        for name, flags in sets.items()
    ]
    # The handlers are a thin layer: at -O2 most of the time would go to optimizing headers.
    headers = jax.ffi.include_dir()
    has = [f"-DDIEN_HAS_{name.upper()}" for name in sets]
    compiled.append(["-O1", "-isystem", headers, *has, "-c", f"{SOURCES}/ffi.cc", "-offi.o"])
    _outputs([[*command, *FLAGS, *arguments] for arguments in compiled], folder)
    objects = [file.name for file in sorted(folder.glob("*.o"))]
    without_symbols = () if sys.platform == "darwin" else ("-s",)  # obsolete in its linker
    link = [*command, *FLAGS, "-shared", *without_symbols, *objects, "-onative.so"]
    # Link the C++ runtime statically where that is possible, so that the library does not depend on
    # the version that is installed.
    static = ("-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL")
    try:
        _outputs([[*link, *(static if sys.platform == "linux" else ())]], folder)
    except BuildError:
        _outputs([link], folder)
    library = folder / "native.so"
    if not library.exists():
        raise BuildError(f"the compiler {command[0]} ended well, but made no library")
    return library


def _outputs(commands: Sequence[Sequence[str]], cwd: Path | None = None) -> list[str]:
    """Run compilers in parallel; return what they print.

    An exception, such as that of Ctrl-C, kills all of them.
    """
    with contextlib.ExitStack() as stack:
        started = []
        pipe = subprocess.PIPE
        for command in commands:
            try:
                process = subprocess.Popen(
                    command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe,
                    text=True, errors="replace",
                )  # fmt: skip
            except OSError as error:
                raise BuildError(f"the compiler {command[0]} does not run: {error}") from error
            stack.enter_context(process)
            stack.callback(process.kill)
            started.append((process, command[0]))
        return [_output(process, compiler) for process, compiler in started]


def _output(process: subprocess.Popen, compiler: str) -> str:
    output, errors = process.communicate()
    if process.returncode:
        lines = [line for line in errors.splitlines() if "error" in line.lower()]
        reason = lines[0] if lines else f"exit status {process.returncode}"
        raise BuildError(f"the compiler {compiler} failed: {reason[:300]}")
    return output
