"""Start of every command: flags and help, memory, exit status of errors and signals."""

import contextlib
import ctypes
import dataclasses
import functools
import os
import shutil
import signal
import sys
import textwrap
import threading
import time
import traceback
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, TypeVar

from docstring_parser import parse_from_object
from typing_extensions import Doc

from dien_jax.errors import Interrupted, NotFiniteError, UserError, described, reason
from dien_jax.utils import console
from dien_jax.utils.console import say, say_error
from dien_jax.utils.files import MAPPED, remove_unfinished
from dien_jax.utils.machine import enable_compile_cache, keep_freed_memory, require_usable_jax
from dien_jax.utils.processes import count

Options = TypeVar("Options")
RESUMES = "stopped; the same command resumes"  # what some commands print when interrupted
SAME_STOP = 0.2  # seconds within which a second signal counts as the first one


def run_command(
    parse: Callable[[], Options],
    run: Callable[[Options], int | None],
    *,
    compiles: bool = True,
    when_interrupted: str = "",
) -> int:
    """Parse flags, run a command, and return its exit status.

    The status is 0 for success, 1 if training diverged, 2 for a mistake in flags, files or
    settings, or a file that the system refuses, and 128 + n if signal n stopped the command, which
    includes SIGPIPE if standard output has no reader. ``run`` may return another status. A command
    that ``compiles`` keeps freed memory and enables the compile cache first, unless its options
    disable that. ``when_interrupted`` is printed if Ctrl-C or SIGTERM ends it.
    """
    console.replace_what_encodings_lack()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set while modules were imported
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with _clean_sigterm(when_interrupted), _ctrl_c_is_not_lost(), _cut_files_are_named():
            return _status(parse, run, compiles)
    except (Interrupted, KeyboardInterrupt) as stop:
        if when_interrupted:
            say(when_interrupted)
        return 128 + (stop.number if isinstance(stop, Interrupted) else signal.SIGINT)


def _status(
    parse: Callable[[], Options], run: Callable[[Options], int | None], compiles: bool
) -> int:
    """Run a command; return its exit status unless a signal stops it."""
    try:
        console.take_closed_streams()
        try:
            Path.cwd()
        except FileNotFoundError as error:  # relative paths would not work
            raise UserError("the current folder was removed; change to another") from error
        try:
            options = parse()
        except SystemExit:
            sys.stdout.flush()  # help: a closed pipe raises here, not at exit
            raise
        if compiles:
            require_usable_jax()
        if compiles and getattr(options, "keep_memory", True):
            keep_freed_memory()
        if compiles and getattr(options, "compile_cache", True):
            enable_compile_cache()
        with console.saying_messages_of("dien_kernels"):
            return run(options) or 0
    except BrokenPipeError:  # the reader of standard output, such as head, has stopped
        console.give_up(sys.stdout)
        return 128 + signal.SIGPIPE
    except (UserError, NotFiniteError, OSError, MemoryError) as error:
        # An OSError is a disk failure that no context has attributed to a file.
        say_error(f"error: {described(error)}")
        return 1 if isinstance(error, NotFiniteError) else 2
    except (RuntimeError, AssertionError) as error:
        # If a platform's plugin is not installed, an assertion without a message fails there.
        place = traceback.extract_tb(error.__traceback__)[-1].filename
        is_assertion = isinstance(error, AssertionError) and place.endswith("xla_bridge.py")
        if not (is_assertion or str(error).startswith("Unable to initialize backend")):
            raise
        found = reason(error) if str(error) else "JAX found none of the devices that were asked for"
        say_error(f"error: {found}; JAX_PLATFORMS in the environment names the devices")
        return 2


def make_main(
    name: str,
    parse: Callable[..., Options],
    arguments: type[Options],
    run: Callable[[Options], int | None],
    when_interrupted: str = "",
) -> Callable[..., int]:
    """Return the ``main`` of a command; ``parse`` is ``tyro.cli``, which only commands import."""

    def main(argv: Sequence[str] | None = None) -> int:
        words = sys.argv[1:] if argv is None else argv
        flags = functools.partial(parse_flags, parse, arguments, words, name)
        return run_command(flags, run, when_interrupted=when_interrupted)

    return main


def parse_flags(
    parse: Callable[..., Options],
    arguments: type[Options],
    argv: Sequence[str],
    name: str,
    **more: Any,
) -> Options:
    """Parse the flags of a command by ``tyro.cli``; ``more`` are further arguments for it."""
    check_words(argv, arguments)
    about = {"prog": f"python -m dien_jax.{name}", "description": description(arguments)}
    return parse(arguments, args=argv, **about, **more)


def check_words(argv: Sequence[str], arguments: type) -> None:
    """Refuse mistakes that the parser accepts, and prepare help texts if they are requested.

    A repeated flag of several values would lose its first values, and an empty path would mean the
    current folder.
    """
    kinds, seen, flag = _flag_kinds(arguments), set(), ""
    for word in argv:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            flag = name.replace("_", "-")
            if flag in seen and kinds.get(flag, set()) & {tuple, dict}:
                expected = "expected it once, followed by all its values"
                raise UserError(f"{flag} is given twice; {expected}")
            seen.add(flag)
        is_empty = bool(equals) and not value if word.startswith("--") else not word
        if is_empty and Path in kinds.get(flag, {Path} if not flag else ()):
            problem = "must not be empty: expected a path or a name"
            raise UserError(f"{flag or 'an argument'} {problem}")
    if "--help" in argv or "-h" in argv:
        join_help_lines(arguments)


def _flag_kinds(arguments: type, group: str = "") -> dict[str, set[Any]]:
    """Return the types in the annotation of each flag, such as ``{tuple, Path}``."""
    kinds: dict[str, set[Any]] = {}
    hints = typing.get_type_hints(arguments, include_extras=True)
    for field in dataclasses.fields(arguments):
        parts, name = [hints[field.name]], field.name
        for part in parts:  # grows
            parts += typing.get_args(part)
            renamed = None if isinstance(part, type) else getattr(part, "name", None)
            name = renamed if isinstance(renamed, str) else name
        groups = [p for p in parts if isinstance(p, type) and dataclasses.is_dataclass(p)]
        if groups:
            kinds |= _flag_kinds(groups[0], f"{group}{name}.")
            continue
        origins = (typing.get_origin(part) or part for part in parts)
        flag = f"--{group}{name}".replace("_", "-")
        kinds[flag] = {origin for origin in origins if isinstance(origin, type)}
    return kinds


def join_help_lines(arguments: type) -> None:
    """Make help texts wrap only at the width of the terminal; tyro keeps their line breaks.

    So annotate the fields of each class of flags, its bases and groups with texts of one line.
    """
    for field in dataclasses.fields(arguments):
        group: Any = getattr(field.type, "__origin__", field.type)  # of Annotated
        if isinstance(group, type) and dataclasses.is_dataclass(group):
            join_help_lines(group)
    for kind in filter(dataclasses.is_dataclass, arguments.__mro__):
        bases = [base for base in reversed(kind.__mro__) if dataclasses.is_dataclass(base)]
        found = [param for base in bases for param in parse_from_object(base).params]
        texts = {param.arg_name: param.description for param in found if param.description}
        annotations = kind.__annotations__  # its own ones, not those of bases
        for name in annotations.keys() & texts.keys():
            text = Doc(" ".join(texts[name].split()))
            annotations[name] = Annotated[annotations[name], text]


def description(arguments: type) -> str:
    """Return the text above the flags: the docstring of their class, for ``tyro.cli``.

    tyro does not wrap this text, so it is wrapped here, and indented like the flags.
    """
    width = shutil.get_terminal_size().columns
    wrapper = textwrap.TextWrapper(width, initial_indent="  ", subsequent_indent="  ")
    wrapper.break_on_hyphens = False  # in the names of flags
    paragraphs = [" ".join(text.split()) for text in (arguments.__doc__ or "").split("\n\n")]
    return "\n".join(wrapper.fill(text) for text in paragraphs)


@contextlib.contextmanager
def _clean_sigterm(message: str) -> Iterator[None]:
    """Make SIGTERM remove partial files and end the process, unless there is another handler.

    It does not raise: an exception could get lost in a callback of the garbage collector.
    """

    def end(number: int, frame: FrameType | None) -> None:
        remove_unfinished()
        os.write(2, f"{message}\n".encode() if message else b"")
        os._exit(128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    with contextlib.ExitStack() as stack:
        if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, end)
            stack.callback(signal.signal, signal.SIGTERM, signal.SIG_DFL)
        yield


@contextlib.contextmanager
def _ctrl_c_is_not_lost() -> Iterator[None]:
    """Raise Ctrl-C again if it came during a callback of the garbage collector.

    JAX has such a callback. Python only reports exceptions from a callback, and continues.
    """
    report = sys.unraisablehook

    def hook(lost: "sys.UnraisableHookArgs") -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            # Not while this hook runs: an exception from the hook would be lost too.
            again = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
            again.daemon = True
            again.start()
        else:
            report(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = report


@contextlib.contextmanager
def _cut_files_are_named() -> Iterator[None]:
    """End the process with a message, not by SIGBUS, if a mapped file is truncated while in use.

    No check before reading can exclude that. A Python handler would run only after the failing
    instruction, which repeats for ever; so the system calls this handler directly.
    """

    def end(number: int) -> None:
        sizes = {file: Path(file).stat().st_size for file in MAPPED if Path(file).exists()}
        cut = [file for file, size in sizes.items() if size < MAPPED[file]]
        found = f"{sizes[cut[0]]:,} bytes now, {MAPPED[cut[0]]:,} before" if cut else "unreadable"
        file = cut[0] if cut else "a mapped file"
        remove_unfinished()
        os.write(2, f"\nerror: {file} changed while it was in use: {found}\n".encode())
        os._exit(2)

    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
    before = set_handler(signal.SIGBUS, ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        set_handler(signal.SIGBUS, before)


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], int | None]]:
    """Yield a function that returns the first Ctrl-C, SIGTERM or SIGHUP; a second one kills.

    Signals within ``SAME_STOP`` count as one: GNU timeout, for example, signals a process and then
    its group. SIGHUP, of a terminal that was closed, stays ignored under ``nohup``. In a run of
    several processes JAX handles SIGTERM.
    """
    numbers = [signal.SIGINT, signal.SIGTERM] if count() == 1 else [signal.SIGINT]
    if count() == 1 and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    stopped_by: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        stopped_by.append(number)
        with contextlib.suppress(OSError):  # the terminal was closed
            os.write(2, b"\nstopping once the state is saved; again to stop at once\n")
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        time.sleep(SAME_STOP)
        for other in numbers:
            signal.signal(other, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: stopped_by[0] if stopped_by else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
